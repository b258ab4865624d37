"""`check` and `alerts test`: is everything in place, and do the alerts arrive? Both ask the real thing, once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import chain
from typing import Annotated
from uuid import uuid4

import redis
import typer
from kombu import Connection
from kombu.exceptions import OperationalError

from resilience.errors import ServiceError
from resilience.redact import scrub
from tasks.cli_output import fail, plain, say
from tasks.runtime import runtime

alerts = typer.Typer(help="Test the ways to the admin.", no_args_is_help=True)

OLDEST_REDIS = (6, 2)
VARIABLES = {"email": "SMTP_HOST", "telegram": "TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID", "webhook": "WEBHOOK_URL"}

Finding = tuple[str, str, str]


def check() -> None:
    """Check the configuration, the keys, Redis and the broker: a line each, exit status 1 if one fails."""
    failed = False
    for mark, what, text in chain(_settings(), _redis(), _broker()):
        say(f"{mark:<5} {what:<11} {text}")
        failed |= mark == "FAIL"
    if failed:
        raise typer.Exit(1)


def _settings() -> Iterator[Finding]:
    # A fault of config.yml has ended the process already, with all of them on stderr and status 1.
    yield "ok", "config", "every value can be used"
    for text in runtime().settings.missing:
        yield "FAIL", "key", f"{text}; no worker starts without it"
    channels = list(runtime().channels)
    yield ("ok", "alerts", f"go to {', '.join(channels)}") if channels else ("warn", "alerts", f"go nowhere: {_hint()}")


def _redis() -> Iterator[Finding]:
    scripts = runtime().scripts
    at = scripts.client.connection_pool.connection_kwargs
    where = at.get("path") or f"{at.get('host')}:{at.get('port')}"
    try:
        info, (now, _) = scripts.client.info(), scripts.client.time()
        dispatched = scripts.client.get(scripts.key("dispatched"))
    except redis.RedisError as exc:
        yield "FAIL", "redis", f"{where} cannot be used: {_text(exc)}; check REDIS_URL, and that the server runs"
        return
    version = info["redis_version"]
    known = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS
    yield ("ok", "redis", f"{version} at {where}") if known else ("FAIL", "redis", f"{version} is older than 6.2")
    eviction = info.get("maxmemory_policy", "unknown")
    lost = "a call that is evicted is lost; set it to noeviction"
    yield ("ok", "eviction", eviction) if eviction == "noeviction" else ("FAIL", "eviction", f"{eviction}: {lost}")
    if info.get("aof_enabled"):
        yield "ok", "appendonly", "on"
    else:
        yield "warn", "appendonly", "off: a crash of Redis loses calls; set appendonly yes"
    if dispatched:
        yield "ok", "dispatcher", f"last round {max(0, now - int(dispatched) // 1000)} s ago"
    else:
        yield "warn", "dispatcher", "no round of late: do beat and a worker for the queue control run?"


def _broker() -> Iterator[Finding]:
    settings = runtime().settings
    if settings.broker.url:
        limits = {"socket_connect_timeout": settings.redis.connect_timeout, "socket_timeout": settings.redis.timeout}
        try:
            with Connection(settings.broker.url, transport_options=limits) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0)
        except OperationalError as exc:
            yield "FAIL", "broker", f"cannot be used: {_text(exc)}; check BROKER_URL, and that the server runs"
            return
    floor = settings.longest_countdown + 2 * settings.task_time_limit
    yield (
        "ok",
        "broker",
        (
            f"{'answers' if settings.broker.url else 'the same Redis'}; what is not acknowledged comes back after "
            f"{settings.broker.visibility_timeout:g} s, the longest wait and two runs take {floor:g} s"
        ),
    )


@alerts.command("test")
def try_channels(
    channel: Annotated[str | None, typer.Argument(help="email, telegram or webhook; all where left out.")] = None,
) -> None:
    """Send a test message by each channel that is configured, and print its answer."""
    if channel not in (None, *VARIABLES):
        raise typer.BadParameter(f"{plain(channel)} is not a channel; there are {', '.join(VARIABLES)}")
    wanted = {name: c for name, c in runtime().channels.items() if channel in (None, name)}
    if not wanted:
        fail(f"{channel or 'no channel'} is {'not ' if channel else ''}configured: {_hint(channel)}")
    failed = False
    who = f"{os.environ.get('USER') or 'operator'} on {socket.gethostname()}"
    for name, way in wanted.items():
        try:
            way.send(alert_id=f"test-{uuid4().hex}", subject="[Lineman] test: alerts arrive here",
                     text=f"This is a test, sent by {who} with `python -m tasks alerts test`. Nothing is wrong.",
                     data={"kind": "test", "service": "", "severity": "info"})  # fmt: skip
        except ServiceError as exc:
            failed = True
            say(f"{name}: failed: {scrub(str(exc))}")
        else:
            say(f"{name}: accepted the test message")
    if failed:
        raise typer.Exit(1)


def _hint(channel: str | None = None) -> str:
    wanted = [f"{variables} for {name}" for name, variables in VARIABLES.items() if channel in (None, name)]
    return f"set {', or '.join(wanted)}"


def _text(exc: Exception) -> str:
    return scrub(str(exc)).rstrip(".")
