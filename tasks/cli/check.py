"""`check`: is everything in place? It asks the real thing, once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import typer
from amqp.exceptions import AMQPError
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from resilience.errors import StoreUnavailable
from resilience.redact import scrub
from resilience.store.connection import for_kombu, where
from resilience.store.requirements import Finding, examine
from resilience.store.scripts import store_errors
from tasks.cli.alerts import hint
from tasks.cli.output import say
from tasks.runtime import runtime


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
    yield Finding("ok", "config", "every value can be used")
    for text in runtime().settings.missing:
        yield Finding("FAIL", "key", f"{text}; no worker starts without it")
    channels = ", ".join(runtime().channels)
    yield (
        Finding("ok", "alerts", f"go to {channels}") if channels else Finding("warn", "alerts", f"go nowhere: {hint()}")
    )


def _redis() -> Iterator[Finding]:
    scripts = runtime().scripts
    try:
        yield from examine(scripts.client, runtime().settings.redis.persistence)
        with store_errors():
            now: Any = scripts.client.time()
            dispatched: Any = scripts.client.get(scripts.key("dispatched"))
    except StoreUnavailable as exc:
        at, why = where(scripts.client), _text(exc.__cause__ or exc)
        yield Finding("FAIL", "redis", f"{at} cannot be used: {why}; check REDIS_URL, and that the server runs")
        return
    if dispatched:
        yield Finding("ok", "dispatcher", f"last round {max(0, now[0] - int(dispatched) // 1000)} s ago")
    else:
        yield Finding("warn", "dispatcher", "no round of late: do beat and a worker for the queue control run?")


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
            why = f"cannot be used: {_text(exc)}; check BROKER_URL, and that the server runs"
            yield Finding("FAIL", "broker", why)
            return
    comes_back = "what is not acknowledged comes back"
    if settings.broker.url.startswith(("amqp", "pyamqp")):
        yield Finding("ok", "broker", f"answers; {comes_back} when its worker is gone")
        return
    floor, timeout = settings.longest_countdown + 2 * settings.task_time_limit, settings.broker.visibility_timeout
    after = f"after {timeout:g} s, the longest wait and two runs take {floor:g} s"
    yield Finding("ok", "broker", f"{'answers' if settings.broker.url else 'the same Redis'}; {comes_back} {after}")


def _text(exc: BaseException) -> str:
    return scrub(str(exc)).rstrip(".")
