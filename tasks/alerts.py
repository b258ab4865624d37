"""Alerts: one periodic task decides which are due, and one task a channel and alert delivers."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from celery import signals

from resilience.errors import LinemanError
from resilience.logger import log
from resilience.store.events import Event
from tasks.celery import app, settings
from tasks.runtime import runtime


@signals.task_failure.connect
def _report(sender: Any = None, exception: Any = None, task_id: str = "", **_: Any) -> None:
    """Alerts the admin when a task raises an unexpected exception."""
    if isinstance(exception, LinemanError):
        return
    reason = f"{type(exception).__name__} in {getattr(sender, 'name', 'a task')}"
    log("unknown_error", level=logging.ERROR, service="lineman", task_id=task_id, reason=reason, exc_info=exception)
    with suppress(LinemanError):  # the log has it
        runtime().store.events.append(Event.UNKNOWN_ERROR, service="lineman", reason=reason, task_id=task_id)


@app.task
def watch() -> int:
    """Turns new events into alerts and starts a task for each delivery that is due. Returns how many are due."""
    rt = runtime()
    if not rt.scripts.take_slot("alerts", settings.alerts.interval / 2):
        return 0
    rt.collector.collect(now=rt.outbox.clock())
    due = rt.sender.take_due()
    for id, channel in due:
        deliver.apply_async(args=(id, channel))
    return len(due)


@app.task
def deliver(alert_id: str, channel: str) -> str:
    """Delivers one alert on one channel. A failure delays no call and no other channel."""
    return runtime().sender.deliver(alert_id, channel)
