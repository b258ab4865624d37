"""The event stream: the names of all events, appending, and reading after a cursor.

Every transition is one event, written by the script that makes it. The stream is capped (EVENTS_KEPT in
lua/shared/base.lua). Each event has a number `n`, so a reader that fell behind the cap learns how many it missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resilience.store.scripts import Scripts, store_errors


class Event(StrEnum):
    """The names."""

    CALL_QUEUED = "call_queued"  # in a call's history alone: the intake of a list is no news
    CALL_DIALING = "call_dialing"
    CALL_DEFERRED = "call_deferred"
    CALL_RELEASED = "call_released"
    CALL_HANDED_BACK = "call_handed_back"
    CALL_RETRYING = "call_retrying"
    CALL_IN_DOUBT = "call_in_doubt"
    CALL_LOOKED_UP = "call_looked_up"
    CALL_DOUBT_LONG = "call_doubt_long"
    CALL_RANG_LATE = "call_rang_late"
    CALL_RANG_TWICE = "call_rang_twice"
    CALL_PLACED = "call_placed"
    CALL_FAILED = "call_failed"
    CALL_NEEDS_REVIEW = "call_needs_review"
    CALL_CANCELLED = "call_cancelled"
    CALL_REQUEUED = "call_requeued"
    CALL_DAMAGED = "call_damaged"
    CONTACT_REFUSED = "contact_refused"
    MESSAGE_DEAD = "message_dead"
    DEAD_LETTER_DROPPED = "dead_letter_dropped"
    BREAKER_OPENED = "breaker_opened"
    BREAKER_HALF_OPEN = "breaker_half_open"
    BREAKER_CLOSED = "breaker_closed"
    SERVICE_HELD = "service_held"
    SERVICE_RELEASED = "service_released"
    SERVICE_THROTTLED = "service_throttled"
    HEALTH_UP = "health_up"
    HEALTH_DOWN = "health_down"
    ALERT_CHANNEL_BROKEN = "alert_channel_broken"
    ALERT_CHANNEL_WELL = "alert_channel_well"
    DISPATCHER_SILENT = "dispatcher_silent"
    DISPATCHER_WELL = "dispatcher_well"
    EVENTS_MISSED = "events_missed"
    STORE_MEMORY_LOST = "store_memory_lost"
    STORE_FULL = "store_full"
    UNKNOWN_ERROR = "unknown_error"


@dataclass(frozen=True)
class Page:
    """Events, oldest first, and the cursor behind the last. `missed`: how many were dropped before they were read."""

    events: Sequence[Mapping[str, str]]
    cursor: str
    missed: int


class Events:
    """The stream of one Redis. Every method raises StoreUnavailable."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts, self.key = scripts, scripts.key("events")

    def append(self, event: Event, *, now: float | None = None, pipe: Any = None, **fields: object) -> None:
        """Appends an event that comes with no change of the store, or adds it to the transaction `pipe`."""
        written = {name: str(value) for name, value in fields.items()}
        self.scripts.run("append_event", {"event": event, "fields": written}, now, pipe=pipe)

    def after(self, cursor: str, count: int, client: Any = None) -> Page:
        """At most `count` events behind the cursor; an empty cursor is the oldest event that is kept.

        `client` may be a pipeline that watches.
        """
        id, _, number = cursor.partition("/")
        with store_errors():
            entries: Any = (client or self.scripts.client).xrange(self.key, f"({id}" if id else "-", count=count)
        events = [fields for _, fields in entries]
        numbers = [int(fields["n"]) for fields in events if "n" in fields]
        missed = max(0, numbers[0] - int(number) - 1) if numbers and number else 0
        last = [str(numbers[-1])] if numbers else [number] if number else []
        return Page(events, "/".join([entries[-1][0], *last]) if entries else cursor, missed)
