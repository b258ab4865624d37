"""Sends alerts through the channels.

A delivery is claimed in the outbox, sent, and finished there. An alert that a channel refuses for now comes due again
later, so no delivery waits in a worker. A channel that refuses for good is switched off for a while: its alerts are
written to the log, and the other channels report it once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import uuid4

from resilience.alerts.message import Message
from resilience.alerts.outbox import AlertOutbox, Delivery
from resilience.alerts.text import render
from resilience.errors import PermanentError, Scope, Sent, ServiceError
from resilience.logger import log
from resilience.retry import Policy, next_delay

OFF = 3600.0  # seconds until a channel that refused for good is tried again
# Statuses that refuse this message and not the channel.
REFUSES_MESSAGE = {400, 413, 422, 552, 554}


class Channel(Protocol):
    """A way to the admin. A new channel is a class in services/channels and a line in tasks/runtime.py."""

    def send(self, message: Message) -> None:
        """Sends the message. Raises ServiceError."""


@dataclass(frozen=True)
class Sender:
    """Delivers what is in the outbox. `lease` is in seconds. Every method raises StoreUnavailable."""

    outbox: AlertOutbox
    channels: Mapping[str, Channel]
    retry: Policy
    lease: float
    secrets: Collection[str] = field(default=(), repr=False)

    def take_due(self, *, now: float | None = None) -> list[tuple[str, str]]:
        """The (alert id, channel) pairs to deliver at unix second `now`, the server's time where it is left out."""
        now = self.outbox.clock() if now is None else now
        return self.outbox.take_due(now=now, again=self.lease)

    def deliver(self, id: str, channel: str, *, once: bool = False, now: float | None = None) -> str:
        """Claims the delivery, sends the alert and finishes the delivery. `once`: a test, whose first answer is final.

        Returns over (nothing to do), sent, later or failed, the last two with the reason: `failed: ...`.
        """
        delivery = self.outbox.claim(id, channel, uuid4().hex, lease=self.lease, now=now)
        if delivery is None:
            return "over"
        obstacle = None if once else self._obstacle(delivery)
        if obstacle:
            self.outbox.failed(delivery, obstacle, report=False, now=now)
            _log_failure(delivery, obstacle, "none")
            return f"failed: {obstacle}"
        message = render(delivery.alert, self.secrets, unclear=delivery.unclear)
        try:
            self.channels[channel].send(message)
        except ServiceError as exc:
            return self._refused(delivery, exc, once=once, now=now)
        self.outbox.sent(delivery, now=now)
        log("alert_sent", service=channel, alert_id=id, kind=message.kind, subject=message.subject)
        return "sent"

    def _obstacle(self, delivery: Delivery) -> str:
        if delivery.channel not in self.channels:
            return "the channel is no longer configured"
        if delivery.attempt > self.retry.max_attempts:
            return "every worker that sent it was stopped before it finished"
        off = self.outbox.off(delivery.channel)
        return f"the channel is switched off for a while: {off}" if off else ""

    def _refused(self, delivery: Delivery, exc: ServiceError, *, once: bool, now: float | None) -> str:
        reason = str(exc)
        delay = next_delay(self.retry, delivery.attempt, exc.retry_after)
        if once or delay is None or isinstance(exc, PermanentError):
            off = OFF if _refuses_all(exc) and not once else None
            self.outbox.failed(delivery, reason, off=off, report=not once, now=now)
            if not once:
                _log_failure(delivery, reason, "the other channels report it", exc.category)
            return f"failed: {reason}"
        self.outbox.later(delivery, reason, delay=delay, unclear=exc.sent is Sent.UNKNOWN, now=now)
        _log_failure(delivery, reason, f"retry in {delay:.0f} s", exc.category)
        return f"later: {reason}"


def _refuses_all(exc: ServiceError) -> bool:
    refuses_message = exc.status in REFUSES_MESSAGE or exc.scope is Scope.CONTACT
    return isinstance(exc, PermanentError) and not refuses_message


def _log_failure(delivery: Delivery, reason: str, next_action: str, category: str | None = None) -> None:
    log(
        "alert_failed",
        level=logging.WARNING if next_action.startswith("retry") else logging.ERROR,
        service=delivery.channel,
        alert_id=delivery.alert.id,
        category=category,
        reason=reason,
        retry_count=delivery.attempt - 1,
        next_action=next_action,
        alerts=[f"{notice}: {i.service} {i.kind}: {i.reason}" for notice, i in delivery.alert.notices],
    )
