"""One attempt, from its claim to its verdict: begin, look first, dial once, classify, finish.

Two round trips to the store, whatever happens, and at most one POST. A second or later attempt looks the call up
first: one that rang after all is adopted. Right before the POST the lease is checked on a clock that goes on while
this process is suspended; a lease that no longer covers the timeout hands the attempt back undialed. Between that
check and the POST there is a window of microseconds that no client can close: the provider has no fence.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from resilience.calls.call import Claim, Finished, NotBegun, State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import Outcome, Report, report_of
from resilience.config.settings import Settings
from resilience.errors import (
    Category,
    InDoubtError,
    PermanentError,
    Scope,
    Sent,
    ServiceError,
    ThrottledError,
)
from resilience.logger import log
from resilience.retry import next_delay
from resilience.store.events import Event

# An error nobody named: when the look-ups find that nothing rang, the call has failed and is not dialed again.
UNNAMED = ("unknown", "unknown_status")


class Conversation(Protocol):
    """A conversation that the provider knows."""

    @property
    def id(self) -> str: ...


class Dialer(Protocol):
    """The provider that places calls. Both methods raise ServiceError, classified."""

    def dial(self, *, phone: str, call_id: str, attempt_id: str, variables: Mapping[str, object]) -> str:
        """One POST. Returns the conversation's id."""

    def look_up(
        self, call_id: str, since: float, *, timeout: tuple[float, float] | None = None
    ) -> Sequence[Conversation]:
        """The call's conversations since then (unix seconds), oldest first."""

    def has_called(self) -> bool:
        """Whether the agent has had any conversation."""


@dataclass(frozen=True)
class Result:
    """What became of one run: the call's state, and seconds until Celery should run it again, None for never."""

    call_id: str
    state: str
    attempt: int = 0
    retry_in: float | None = None
    error: ServiceError | None = None


def boot_clock() -> float:
    """Seconds on a clock that goes on while the process, or the whole machine, is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class CallProcessor:
    """Processes calls against one store and one dialer."""

    def __init__(
        self, store: CallStore, dialer: Dialer, settings: Settings, clock: Callable[[], float] = boot_clock
    ) -> None:
        self.store, self.dialer, self.settings, self.clock = store, dialer, settings, clock
        self.service = settings.services[DIALER]

    def process(
        self, id: str, *, contact: Contact | None = None, campaign: str = "default", early_ok: bool = False
    ) -> Result:
        """Runs one attempt of a call. Raises StoreUnavailable; every other failure is part of the result."""
        lease_end = self.clock() + self.settings.lease(DIALER)
        begun = self._begin(id, contact=contact, campaign=campaign, early_ok=early_ok)
        if isinstance(begun, NotBegun):
            return self._stepped_aside(id, begun)
        error: ServiceError | None = None
        started = self.clock()
        try:
            verdict = self._dial(begun, lease_end)
        except ServiceError as exc:
            error = exc
            verdict = self._judge(begun, exc, slow=self._was_slow(started))
        finished = self.store.finish(begun, verdict)
        self._log(begun, verdict, finished)
        # `repeated` is our own verdict, whose first answer got lost.
        retries = finished.answer != "stale" and verdict.to is State.RETRYING and finished.state == State.RETRYING
        return Result(id, finished.state, begun.attempt, verdict.delay if retries else None, error)

    def _begin(self, id: str, **how: Any) -> Claim | NotBegun:
        """Begins an attempt. A store without memory first learns from the provider whether it is new."""
        owner = secrets.token_hex(8)
        begun = self.store.begin(id, owner, **how)
        if isinstance(begun, Claim) or begun.answer != "no_memory":
            return begun
        try:
            called_before = self.dialer.has_called()
        except PermanentError as exc:
            # A provider without the list has no look-ups either. Any other refusal meets each call's own look-up.
            called_before = exc.status not in (404, 405)
        except ServiceError as exc:
            return replace(begun, answer="early", reason=f"it is not known whether the store is new: {exc}")
        self.store.remember(called_before)
        return self.store.begin(id, owner, **how)

    def _dial(self, claim: Claim, lease_end: float) -> Verdict:
        if claim.look_first or claim.must_look:
            found = self._look_first(claim)
            if found:
                return found
        timeout = self.service.timeout
        if self.clock() + timeout.connect + timeout.read > lease_end:
            return Verdict(
                State.QUEUED,
                Report(Outcome.IGNORED),
                dialed=False,
                used=False,
                reason="the lease no longer covered the dial",
            )
        variables = {**claim.contact.fields, "contact_id": claim.contact.id, "name": claim.contact.name}
        started = self.clock()
        try:
            conversation = self.dialer.dial(
                phone=claim.contact.phone, call_id=claim.call_id, attempt_id=claim.attempt_id, variables=variables
            )
        except ServiceError:
            raise
        except Exception as exc:  # a bug of ours, before or after the POST: it may have rung, so it is looked up
            log(
                "unknown_error",
                level=logging.ERROR,
                exc_info=True,
                service=DIALER,
                call_id=claim.call_id,
                attempt_id=claim.attempt_id,
                category=Category.PERMANENT,
            )
            raise InDoubtError(
                f"unexpected {type(exc).__name__} while dialing", service=DIALER, code="unknown", sent=Sent.UNKNOWN
            ) from exc
        return Verdict(
            State.PLACED, report_of(None, default_pause=0, slow=self._was_slow(started)), conversation_id=conversation
        )

    def _look_first(self, claim: Claim) -> Verdict | None:
        # Half of the lease's margin at most: the rest has to cover the dial.
        limit = self.settings.calls.lease_margin / 4
        timeout = self.service.timeout
        try:
            found = self.dialer.look_up(
                claim.call_id, claim.look_since, timeout=(min(timeout.connect, limit), min(timeout.read, limit))
            )
        except ServiceError as exc:
            if claim.must_look:
                return Verdict(
                    State.RETRYING,
                    Report(Outcome.IGNORED),
                    self.service.retry.initial_delay,
                    dialed=False,
                    used=False,
                    reason=f"an earlier dial may have rung, and the look-up failed: {exc}",
                    category=exc.category,
                )
            # It proves nothing, and the last answer was a refusal: the retry goes on.
            log(
                "look_up_failed",
                level=logging.WARNING,
                service=DIALER,
                call_id=claim.call_id,
                attempt_id=claim.attempt_id,
                category=exc.category,
                reason=str(exc),
                retry_count=claim.attempt - 1,
                breaker_state=claim.breaker_state,
                next_action="dial",
            )
            return None
        if not found:
            return None
        ids = " ".join(conversation.id for conversation in found)
        if len(found) > 1:
            self.store.events.append(Event.CALL_RANG_TWICE, service=DIALER, call_id=claim.call_id, conversation_id=ids)
        return Verdict(
            State.PLACED,
            Report(Outcome.IGNORED),
            dialed=False,
            used=False,
            conversation_id=found[0].id,
            reason=f"an earlier attempt had rung: {ids}",
        )

    def _judge(self, claim: Claim, error: ServiceError, *, slow: bool) -> Verdict:
        retry = self.service.retry
        report = report_of(error, default_pause=retry.initial_delay, slow=slow)
        told: dict[str, Any] = {
            "reason": str(error),
            "category": error.category,
            "code": error.code or None,
            "service_fault": error.counts,
        }
        if isinstance(error, InDoubtError):
            category = Category.PERMANENT if error.code in UNNAMED else error.category
            return Verdict(State.IN_DOUBT, report, self.settings.calls.look_up.delay, **told | {"category": category})
        held = isinstance(error, PermanentError) and error.scope is Scope.SERVICE
        if held or isinstance(error, ThrottledError):
            return Verdict(State.DEFERRED, report, used=False, **told)
        if isinstance(error, PermanentError):
            return Verdict(State.FAILED, report, **told)
        delay = next_delay(retry, claim.attempt, error.retry_after)
        if delay is None:
            return Verdict(State.FAILED, report, **told)
        return Verdict(State.RETRYING, report, delay, **told)

    def look_up(self, id: str) -> Result:
        """One look-up of a call in doubt."""
        call = self.store.get(id)
        if call.get("state") != State.IN_DOUBT:
            return Result(id, call.get("state", "unknown"))
        result, reason, found = "absent", None, []
        try:
            found = [c.id for c in self.dialer.look_up(id, int(call["first_dial"]) / 1000)]
        except ServiceError as exc:
            result, reason = "error", str(exc)
        except Exception as exc:  # noqa: BLE001 a bug of ours: it proves nothing, and the call must come to an end
            log("unknown_error", level=logging.ERROR, exc_info=True, service=DIALER, call_id=id)
            result, reason = "error", f"unexpected {type(exc).__name__} while looking up"
        if found:
            result = "found"
        done = self.store.resolve(id, int(call["looks"]), result, found, reason=reason)
        log(
            "call_looked_up",
            service=DIALER,
            call_id=id,
            result=result,
            reason=reason,
            state=done.state,
            retry_count=int(call["attempts"]) - 1,
            next_action=NEXT.get(done.state, "none"),
        )
        return Result(id, done.state, int(call["attempts"]))

    def _was_slow(self, started: float) -> bool:
        slow = self.service.circuit_breaker.slow_call
        return slow is not None and self.clock() - started >= slow.duration

    def _stepped_aside(self, id: str, begun: NotBegun) -> Result:
        log(
            f"call_{begun.answer}",
            level=logging.WARNING if begun.answer == "unknown" else logging.INFO,
            service=DIALER,
            call_id=id,
            state=begun.state,
            retry_count=max(0, begun.attempts - 1),
            breaker_state=begun.breaker_state,
            reason=begun.reason or None,
            retry_after=begun.retry_after,
            next_action=NEXT.get(begun.state, "none"),
        )
        return Result(id, begun.state or begun.answer, begun.attempts)

    def _log(self, claim: Claim, verdict: Verdict, finished: Finished) -> None:
        stale = finished.answer == "stale"
        log(
            "report_stale" if stale else f"call_{finished.state}",
            level=logging.INFO if verdict.to is State.PLACED else logging.WARNING,
            service=DIALER,
            call_id=claim.call_id,
            attempt_id=claim.attempt_id,
            category=verdict.category,
            code=verdict.code,
            reason=verdict.reason,
            retry_count=claim.attempt - 1,
            state=finished.state,
            breaker_state=finished.breaker_state,
            conversation_id=verdict.conversation_id,
            retry_in=round(verdict.delay, 3) if verdict.to is State.RETRYING else None,
            next_action=NEXT.get(finished.state, "none"),
        )


NEXT: Mapping[str, str] = {
    State.QUEUED: "dial when its turn comes",
    State.RETRYING: "dial again after the delay",
    State.DEFERRED: "wait for the gate",
    State.IN_DOUBT: "look the call up",
    State.FAILED: "none: see the reason, then `calls retry`",
    State.NEEDS_REVIEW: "none: a person decides, then `calls retry`",
}
