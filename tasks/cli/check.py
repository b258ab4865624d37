"""`check`: is everything in place? It asks the real thing, once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import redis
import typer
from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from resilience.redact import scrub
from resilience.store.connection import for_kombu, where
from tasks.cli.alerts import hint
from tasks.cli.output import say
from tasks.runtime import runtime

OLDEST_REDIS = (6, 2)
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
    yield ("ok", "alerts", f"go to {', '.join(channels)}") if channels else ("warn", "alerts", f"go nowhere: {hint()}")


def _redis() -> Iterator[Finding]:
    scripts = runtime().scripts
    try:
        info, (now, _) = scripts.client.info(), scripts.client.time()
        dispatched = scripts.client.get(scripts.key("dispatched"))
    except redis.RedisError as exc:
        at = where(scripts.client)
        yield "FAIL", "redis", f"{at} cannot be used: {_text(exc)}; check REDIS_URL, and that the server runs"
        return
    version, at = info["redis_version"], where(scripts.client)
    known = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS
    yield ("ok", "redis", f"{version} at {at}") if known else ("FAIL", "redis", f"{version} is older than 6.2")
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
        connect, answer = settings.redis.connect_timeout, settings.redis.timeout
        url, options = for_kombu(settings.broker.url, connect_timeout=connect)
        options |= {"socket_connect_timeout": connect, "socket_timeout": answer}
        try:
            with Connection(url, connect_timeout=connect, transport_options=options) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0)
        except (OperationalError, AMQPError) as exc:  # the latter where RabbitMQ refuses the password
            yield "FAIL", "broker", f"cannot be used: {_text(exc)}; check BROKER_URL, and that the server runs"
            return
    if settings.broker.url.startswith(("amqp", "pyamqp")):
        yield "ok", "broker", "answers; what is not acknowledged comes back when its worker is gone"
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


def _text(exc: Exception) -> str:
    return scrub(str(exc)).rstrip(".")
