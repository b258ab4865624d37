"""What a call is: its states, an attempt's claim and its verdict, and the store's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from resilience.calls.contacts import Contact
from resilience.circuit_breaker import Report
from resilience.errors import InvalidContact
from resilience.store.events import Event


class State(StrEnum):
    """The states of a call."""

    QUEUED = "queued"
    DIALING = "dialing"
    RETRYING = "retrying"
    DEFERRED = "deferred"
    IN_DOUBT = "in_doubt"
    PLACED = "placed"
    FAILED = "failed"
    NEEDS_REVIEW = "needs_review"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but an operator's `retry` leaves it."""
        return self in (State.PLACED, State.FAILED, State.NEEDS_REVIEW, State.CANCELLED)


EVENT_OF = {
    State.PLACED: Event.CALL_PLACED,
    State.RETRYING: Event.CALL_RETRYING,
    State.FAILED: Event.CALL_FAILED,
    State.IN_DOUBT: Event.CALL_IN_DOUBT,
    State.DEFERRED: Event.CALL_DEFERRED,
    State.QUEUED: Event.CALL_HANDED_BACK,
    State.NEEDS_REVIEW: Event.CALL_NEEDS_REVIEW,
}


@dataclass(frozen=True)
class Claim:
    """A running attempt: this owner, and nobody else, may dial.

    `look_first`: an earlier attempt may have rung. `must_look`: the store may have forgotten a dial, so the call is not
    dialed unless a look-up has worked and found nothing. `installation` is the store's id, which the dial carries.
    `foreign_known`: an operator has seen that another installation called.
    """

    call_id: str
    owner: str
    attempt_id: str
    attempt: int
    contact: Contact = field(repr=False)
    campaign: str
    breaker_state: str
    look_first: bool
    must_look: bool = False
    installation: str = ""
    foreign_known: bool = False


@dataclass(frozen=True)
class NotBegun:
    """Why no attempt began: deferred (the gate is shut), duplicate, early, unknown (no such call), or no_memory.

    no_memory: the store is new or has lost its data, so `remember` must say which before anything is dialed.
    """

    answer: str
    state: str
    breaker_state: str = ""
    attempts: int = 0
    retry_after: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended. `delay` in seconds: until the next attempt, or until the first look-up.

    `dialed` is False where no dial was tried: its attempt id is free again. `used` is False where it does not count.
    `service_fault`: the service failed, so the attempt does not count either where the service was known to be sick.
    """

    to: State
    report: Report
    delay: float = 0.0
    dialed: bool = True
    used: bool = True
    service_fault: bool = False
    reason: str | None = None
    category: str | None = None
    code: str | None = None
    conversation_id: str | None = None


@dataclass(frozen=True)
class Finished:
    """The store's answer to a verdict: done, repeated (this verdict was taken before), or stale (nothing changed)."""

    answer: str
    state: str
    breaker_state: str = ""
    attempts: int = 0


@dataclass(frozen=True)
class Work:
    """What a tick of the dispatcher hands out: ids of calls to place and to look up. `more`: another batch is due."""

    place: Sequence[str] = ()
    look_up: Sequence[str] = ()
    more: bool = False


def call_id(campaign: str, contact_id: str) -> str:
    """The id of a contact's call. Raises InvalidContact for a campaign's name that would make it ambiguous."""
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    if not isinstance(campaign, str) or not 0 < len(campaign) <= 64 or not set(campaign) <= allowed:
        raise InvalidContact("campaign: must be 1 to 64 letters, digits, dots, dashes or underscores")
    return f"{campaign}:{contact_id}"
