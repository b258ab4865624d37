"""Alerts: a beat task reads the event stream, and one task a channel and alert delivers.

What a channel refused for now comes due again later: no delivery waits in a worker. A channel that refuses for good
is spared for a while; its alerts end in the log, and the other channels say so once.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any
from uuid import uuid4

from celery import signals

from resilience.alerts.message import Message
from resilience.alerts.outbox import Delivery
from resilience.alerts.text import render
from resilience.errors import LinemanError, PermanentError, Scope, Sent, ServiceError
from resilience.logger import log
from resilience.retry import next_delay
from resilience.store.events import Event
from tasks.celery import app, settings
from tasks.runtime import Runtime, runtime

SPARED = 3600.0  # seconds until a channel that refused for good is tried again
# It is this message that they refuse, not the channel.
ITS_OWN_FAULT = {400, 413, 422, 552, 554}


@signals.task_failure.connect
def _tell(sender: Any = None, exception: Any = None, task_id: str = "", **_: Any) -> None:
    """A task that failed of something that nobody raised on purpose: the admin is told."""
    if isinstance(exception, LinemanError):
        return
    reason = f"{type(exception).__name__} in {getattr(sender, 'name', 'a task')}"
    log("unknown_error", level=logging.ERROR, service="lineman", task_id=task_id, reason=reason, exc_info=exception)
    with suppress(LinemanError):  # the log has it
        runtime().store.events.append(Event.UNKNOWN_ERROR, service="lineman", reason=reason, task_id=task_id)


@app.task
def watch() -> int:
    """One tick: new events into the outbox, due deliveries to their tasks. Returns how many are due."""
    rt = runtime()
    if not rt.scripts.take_slot("alerts", settings.alerts.interval / 2):
        return 0
    due = collect(rt)
    for id, channel in due:
        deliver.apply_async(args=(id, channel))
    return len(due)


def collect(rt: Runtime, *, now: float | None = None) -> list[tuple[str, str]]:
    """Takes in what happened. Returns the (alert id, channel) pairs to deliver now, which is the server's time."""
    now = rt.outbox.clock() if now is None else now
    rt.collector.collect(now=now)
    return rt.outbox.take_due(now=now, again=lease(rt))


@app.task
def deliver(alert_id: str, channel: str) -> str:
    """Delivers one alert on one channel. Its failure delays no call and no other channel."""
    return carry(runtime(), alert_id, channel)


def lease(rt: Runtime) -> float:
    """Seconds after which a delivery is dead: no task runs as long."""
    return rt.settings.task_time_limit + 30


def carry(rt: Runtime, id: str, channel: str, *, once: bool = False, now: float | None = None) -> str:
    """Claims the delivery, sends, and marks it over. `once`: a test, which ends with its first answer.

    Returns over (nothing to do), sent, later or failed, the last two with the reason: `failed: ...`.
    """
    delivery = rt.outbox.claim(id, channel, uuid4().hex, lease=lease(rt), now=now)
    if delivery is None:
        return "over"
    why = None if once else _why_not(rt, delivery)
    if why:
        rt.outbox.failed(delivery, why, tell=False, now=now)
        _log_failure(delivery, why, "none")
        return f"failed: {why}"
    message = Message(**render(delivery.alert, rt.settings.secrets, unclear=delivery.unclear))
    try:
        rt.channels[channel].send(message)
    except ServiceError as exc:
        return _refused(rt, delivery, exc, once=once, now=now)
    rt.outbox.sent(delivery, now=now)
    log("alert_sent", service=channel, alert_id=id, kind=message.kind, subject=message.subject)
    return "sent"


def _why_not(rt: Runtime, delivery: Delivery) -> str:
    if delivery.channel not in rt.channels:
        return "the channel is no longer configured"
    if delivery.attempt > rt.settings.alerts.retry.max_attempts:
        return "every worker that sent it was stopped on the way"
    off = rt.outbox.off(delivery.channel)
    return f"the channel is switched off for a while: {off}" if off else ""


def _refused(rt: Runtime, delivery: Delivery, exc: ServiceError, *, once: bool, now: float | None) -> str:
    reason = str(exc)
    delay = next_delay(rt.settings.alerts.retry, delivery.attempt, exc.retry_after)
    if once or delay is None or isinstance(exc, PermanentError):
        off = SPARED if _refuses_all(exc) and not once else None
        rt.outbox.failed(delivery, reason, off=off, tell=not once, now=now)
        if not once:
            _log_failure(delivery, reason, "other channels", exc.category)
        return f"failed: {reason}"
    rt.outbox.later(delivery, reason, delay=delay, unclear=exc.sent is Sent.UNKNOWN, now=now)
    _log_failure(delivery, reason, f"retry in {delay:.0f} s", exc.category)
    return f"later: {reason}"


def _refuses_all(exc: ServiceError) -> bool:
    own_fault = exc.status in ITS_OWN_FAULT or exc.scope is Scope.CONTACT
    return isinstance(exc, PermanentError) and not own_fault


def _log_failure(delivery: Delivery, reason: str, follows: str, category: str | None = None) -> None:
    log(
        "alert_failed",
        level=logging.WARNING if follows.startswith("retry") else logging.ERROR,
        service=delivery.channel,
        alert_id=delivery.alert.id,
        category=category,
        reason=reason,
        retry_count=delivery.attempt - 1,
        next_action=follows,
        alerts=[f"{word}: {i.service} {i.kind}: {i.reason}" for word, i in delivery.alert.said],
    )
