"""Alerts: a beat task reads the event stream, and one task a channel and alert delivers."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from resilience.errors import PermanentError, ServiceError, StoreUnavailable
from resilience.logger import log
from resilience.retry import next_delay
from tasks.celery import app, settings
from tasks.runtime import runtime


@app.task
def watch() -> int:
    """One tick: new events into the outbox, due deliveries to their tasks."""
    rt = runtime()
    if not rt.scripts.take_slot("alerts", settings.alerts.interval / 2):
        return 0
    now = time.time()
    rt.outbox.collect(list(rt.channels), f"{socket.gethostname()}:{os.getpid()}", now=now)
    # Longer than all of a delivery's own retries: what is still there then was lost on the way.
    policy = settings.alerts.retry
    due = rt.outbox.take_due(now=now, again=policy.max_attempts * (policy.max_delay + 30))
    for id, channel in due:
        deliver.apply_async(args=(id, channel))
    return len(due)


@app.task(bind=True, policy=settings.alerts.retry, throws=(ServiceError,))
def deliver(self: Any, alert_id: str, channel: str) -> str:
    """Delivers one alert on one channel. Its failure delays no call and no other channel."""
    rt = runtime()
    alert = rt.outbox.get(alert_id, channel)
    if alert is None or channel not in rt.channels:
        return "over"
    try:
        rt.channels[channel].send(
            alert_id=alert.id,
            subject=f"[Lineman] {alert.subject}",
            text=alert.text,
            data={**alert.data, "kind": alert.kind, "service": alert.service},
        )
    except StoreUnavailable:
        raise
    except ServiceError as exc:
        last = isinstance(exc, PermanentError) or next_delay(self.policy, self.request.retries + 1) is None
        log(
            "alert_failed",
            service=channel,
            alert_id=alert.id,
            category=exc.category,
            reason=str(exc),
            retry_count=self.request.retries,
            next_action="other channels" if last else "retry",
        )
        if last:
            rt.outbox.done(alert_id, channel, broken=str(exc))
        raise
    log("alert_sent", service=channel, alert_id=alert.id, kind=alert.kind, subject=alert.subject)
    rt.outbox.done(alert_id, channel)
    return "sent"
