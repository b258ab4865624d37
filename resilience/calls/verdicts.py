"""How an attempt ends: what a dial's or a look-up's answer means for its call and for the gate. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resilience.calls.call import State, Verdict
from resilience.calls.dialer import Conversation
from resilience.circuit_breaker import Outcome, Report, report_of
from resilience.config.settings import Service
from resilience.errors import (
    Category,
    InDoubtError,
    LeaseExpired,
    PermanentError,
    Scope,
    ServiceError,
    ThrottledError,
)
from resilience.retry import next_delay

# An unclassified error: when the look-ups find that nothing rang, the call has failed and is not dialed again.
UNCLASSIFIED = ("unknown", "unknown_status")


def refused(error: ServiceError) -> bool:
    """Whether the service refuses every call, so that its gate is held or opened."""
    return isinstance(error, PermanentError) and error.scope is Scope.SERVICE


def of_dial(error: ServiceError, attempt: int, service: Service, *, look_up_delay: float, slow: bool) -> Verdict:
    """The verdict on a dial that failed. `look_up_delay`: seconds until the first look-up of a call in doubt."""
    if isinstance(error, LeaseExpired):
        return handed_back()
    report = report_of(error, default_pause=service.retry.initial_delay, slow=slow)
    about = _about(error)
    if isinstance(error, InDoubtError):
        if error.code in UNCLASSIFIED:
            about["category"] = Category.PERMANENT
        return Verdict(State.IN_DOUBT, report, look_up_delay, **about)
    if refused(error) or isinstance(error, ThrottledError):
        return Verdict(State.DEFERRED, report, used=False, **about)
    delay = None if isinstance(error, PermanentError) else next_delay(service.retry, attempt, error.retry_after)
    if delay is None:
        return Verdict(State.FAILED, report, **about)
    return Verdict(State.RETRYING, report, delay, **about)


def of_look_up(error: ServiceError, service: Service) -> Verdict:
    """The verdict on a look-up that failed before a dial that must not go out without it."""
    retry = service.retry
    report = report_of(error, default_pause=retry.initial_delay)
    about = _about(error) | {"reason": f"an earlier dial may have rung, and the look-up failed: {error}"}
    if refused(error) or isinstance(error, ThrottledError):
        return Verdict(State.DEFERRED, report, dialed=False, used=False, **about)
    delay = max(retry.initial_delay, min(error.retry_after or 0.0, retry.max_retry_after))
    return Verdict(State.RETRYING, report, delay, dialed=False, used=False, **about)


def handed_back() -> Verdict:
    """The lease no longer covers the dial: another worker may have the call."""
    reason = "the lease no longer covered the dial"
    return Verdict(State.QUEUED, Report(Outcome.IGNORED), dialed=False, used=False, reason=reason)


def adopted(found: Sequence[Conversation]) -> Verdict:
    """An earlier attempt had rung after all."""
    return Verdict(
        State.PLACED,
        Report(Outcome.IGNORED),
        dialed=False,
        used=False,
        conversation_id=found[0].id,
        reason=f"an earlier attempt had rung: {ids(found)}",
    )


def foreign(found: Sequence[Conversation]) -> Verdict:
    """The store has lost its memory, and this call has a conversation that it does not know."""
    return Verdict(State.NEEDS_REVIEW, Report(Outcome.IGNORED), dialed=False, used=False, reason=why_foreign(found))


def why_foreign(found: Sequence[Conversation]) -> str:
    """The reason that an operator reads."""
    return f"another installation, or this one before its Redis lost its data, has called this contact: {ids(found)}"


def ids(found: Sequence[Conversation]) -> str:
    """The conversations' ids, with spaces between."""
    return " ".join(conversation.id for conversation in found)


def _about(error: ServiceError) -> dict[str, Any]:
    return {
        "reason": str(error),
        "category": error.category,
        "code": error.code or None,
        "service_fault": error.counts,
    }
