"""The kinds of incidents: the events that each is made of, how severe it is, and what an admin reads of it.

A kind that lasts fires by one event and ends by another; its sentences are in templates/sentences.j2. A kind that is
counted takes in each event of its name. A new counted kind is one entry here, with its sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class Lasts:
    """Fires by one of `fired_by` and goes on until one of `ended_by`. Both are names of events."""

    severity: Severity
    fired_by: tuple[str, ...] = ()
    ended_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Each event counts. A message says `one` or `many` with a number, what follows by itself, and what to run.

    `run` is a command of `python -m tasks`; few, named by their ids, are shown by the command `show` instead.
    `folded`: how an outage of its service, which causes it, lists it; empty where an outage cannot cause it.
    """

    severity: Severity
    one: str
    many: str
    next_step: str
    run: str
    folded: str = ""
    show: str = "calls show"


class Kind(StrEnum):
    """The ways in which something can be wrong."""

    traits: Lasts | Counts

    def __new__(cls, name: str, traits: Lasts | Counts = Lasts("info")) -> Kind:
        kind = str.__new__(cls, name)
        kind._value_, kind.traits = name, traits
        return kind

    SERVICE_DOWN = "service_down", Lasts("critical", ("breaker_opened", "service_held"), ("breaker_closed",))
    HEALTH_DOWN = "health_down", Lasts("warning", ("health_down",), ("health_up",))
    CHANNEL_BROKEN = "channel_broken", Lasts("warning", ("alert_channel_broken",), ("alert_channel_well",))
    DISPATCHER_SILENT = "dispatcher_silent", Lasts("critical", ("dispatcher_silent",), ("dispatcher_well",))
    STORE_AWAY = "store_away", Lasts("critical")  # reported from a worker's memory: without Redis there is no event
    TEST = "test"
    CALL_FAILED = "call_failed", Counts(
        "warning", "call failed", "calls failed", folded="Failed", run="calls list --state failed",
        next_step="A failed call is not dialed again, unless you run `calls retry` with its id.",
    )  # fmt: skip
    CALL_NEEDS_REVIEW = "call_needs_review", Counts(
        "warning", "call needs review", "calls need review", folded="Need review",
        run="calls list --state needs_review",
        next_step="A call that needs review is not dialed again. Look it up at the provider; run `calls retry` with "
        "its id only if it did not ring.",
    )  # fmt: skip
    CALL_DOUBT_LONG = "call_doubt_long", Counts(
        "warning", "call still in doubt", "calls still in doubt", folded="Long in doubt",
        run="calls list --state in_doubt",
        next_step="A call in doubt is looked up again, and not dialed before it is known whether it rang.",
    )  # fmt: skip
    CALL_RANG_TWICE = "call_rang_twice", Counts(
        "critical", "call rang twice", "calls rang twice", run="calls list --state placed",
        next_step="The history of the call names both conversations. This must not happen: please report it.",
    )  # fmt: skip
    CALL_RANG_LATE = "call_rang_late", Counts(
        "critical", "call rang although it had ended as not placed", "calls rang although they had ended as not placed",
        run="calls list --state failed",
        next_step="Its worker reported the conversation after the look-ups had given up. The call stays in its state; "
        "do not run `calls retry`, unless it may ring once more.",
    )  # fmt: skip
    CONTACT_REFUSED = "contact_refused", Counts(
        "warning", "contact refused", "contacts refused", run="dead list", show="dead show",
        next_step="A refused contact is not called. Its message is kept: correct the sender, and send the contact "
        "again; then remove the message with `dead drop`.",
    )  # fmt: skip
    MESSAGE_DEAD = "message_dead", Counts(
        "warning", "message cannot be a call", "messages cannot be calls", run="dead list", show="dead show",
        next_step="It is not called, and kept as a dead letter. Correct the sender; `dead requeue` makes it a call "
        "where its contact can be read, `dead drop` removes it.",
    )  # fmt: skip
    DEAD_LETTER_DROPPED = "dead_letter_dropped", Counts(
        "critical", "dead letter dropped", "dead letters dropped", run="dead list",
        next_step="There was no room for more, and the oldest are gone. Correct the sender, then requeue or drop the "
        "letters.",
    )  # fmt: skip
    UNKNOWN_ERROR = "unknown_error", Counts(
        "warning", "unclassified error", "unclassified errors", folded="Unclassified errors", run="check",
        next_step="A call whose dial failed is looked up before it is dialed again. The log has the traceback "
        "(`unknown_error`): please report it.",
    )  # fmt: skip
    CALL_DAMAGED = "call_damaged", Counts(
        "warning", "damaged call", "damaged calls", run="status",
        next_step="A damaged call is left alone; the other calls go on. Look it up at the provider, and enqueue its "
        "contact under another id only if it did not ring.",
    )  # fmt: skip
    STORE_FULL = "store_full", Counts(
        "critical", "write refused for lack of memory", "writes refused for lack of memory", run="status",
        next_step="New contacts are refused; calls that are known go on. Give Redis more memory (`maxmemory`), then "
        "send the refused contacts again.",
    )  # fmt: skip
    STORE_MEMORY_LOST = "store_memory_lost", Counts(
        "critical", "loss of Redis's data", "losses of Redis's data", run="status",
        next_step="The calls that Redis had are lost: send their lists again. Each call is looked up before it is "
        "dialed, so nobody is called twice. Let Redis keep its data (`appendonly yes`). If this Redis is new and the "
        "agent was used before, nothing is lost.",
    )  # fmt: skip
    EVENTS_MISSED = "events_missed", Counts(
        "warning", "event was dropped unread", "events were dropped unread", run="status",
        next_step="Alerts about such events are missing; no call is lost. Keep a worker of the queue `control` "
        "running.",
    )  # fmt: skip
    SERVICE_THROTTLED = "service_throttled", Counts(
        "warning", "long pause requested", "long pauses requested", folded="Pauses requested", run="services list",
        next_step="Its calls are deferred, and go on by themselves after the pause.",
    )  # fmt: skip

    @property
    def severity(self) -> Severity:
        """critical, warning, or info for a test."""
        return self.traits.severity

    @property
    def ends(self) -> bool:
        """Whether it lasts until an event ends it; the others are counted."""
        return isinstance(self.traits, Lasts)


FIRED_BY = {event: kind for kind in Kind if isinstance(kind.traits, Lasts) for event in kind.traits.fired_by}
ENDED_BY = {event: kind for kind in Kind if isinstance(kind.traits, Lasts) for event in kind.traits.ended_by}
COUNTED = {kind.value: kind.traits for kind in Kind if isinstance(kind.traits, Counts)}
# What an outage causes is counted with the outage.
FOLDED = {Kind(name): traits.folded for name, traits in COUNTED.items() if traits.folded}
