"""One attempt, from its claim to its verdict: begin, look first, dial once, classify, finish.

Two round trips to the store, whatever happens, and at most one POST. A second or later attempt looks the call up
first: one that rang after all is adopted. The lease is checked before the dial, and again after its handshake, on a
clock that goes on while this process is suspended; a lease that no longer covers the rest hands the attempt back
undialed. Between the last check and the first byte is a window of microseconds that no client can close: the provider
has no fence.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from resilience.calls import verdicts
from resilience.calls.call import Claim, Finished, NotBegun, State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.dialer import Dialer
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import report_of
from resilience.config.settings import Settings
from resilience.errors import Category, InDoubtError, PermanentError, Sent, ServiceError
from resilience.logger import log
from resilience.store.events import Event


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
            delay, slow = self.settings.calls.look_up.delay, self._was_slow(started)
            verdict = verdicts.of_dial(exc, begun.attempt, self.service, look_up_delay=delay, slow=slow)
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
            return verdicts.handed_back()
        started = self.clock()
        try:
            conversation = self.dialer.dial(
                phone=claim.contact.phone,
                call_id=claim.call_id,
                attempt_id=claim.attempt_id,
                variables=_variables(claim),
                lease_covers=lambda: self.clock() + timeout.read <= lease_end,
            )
        except ServiceError:
            raise
        except Exception as exc:  # a bug of ours, before or after the POST: it may have rung, so it is looked up
            self._log_unknown(claim.call_id, attempt_id=claim.attempt_id, category=Category.PERMANENT)
            raise InDoubtError(
                f"unexpected {type(exc).__name__} while dialing", service=DIALER, code="unknown", sent=Sent.UNKNOWN
            ) from exc
        return Verdict(
            State.PLACED, report_of(None, default_pause=0, slow=self._was_slow(started)), conversation_id=conversation
        )

    def _look_first(self, claim: Claim) -> Verdict | None:
        """Ends the attempt before its dial where the call has rung, or where nobody can say; None: dial."""
        # Half of the lease's margin at most: the rest has to cover the dial.
        limit = self.settings.calls.lease_margin / 4
        timeout = min(self.service.timeout.connect, limit), min(self.service.timeout.read, limit)
        try:
            found = self.dialer.look_up(claim.call_id, installation=claim.installation, timeout=timeout)
        except ServiceError as exc:
            if claim.must_look or verdicts.refused(exc):
                return verdicts.of_look_up(exc, self.service)
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
        ours = [conversation for conversation in found if conversation.ours]
        if len(ours) > 1:
            self.store.events.append(
                Event.CALL_RANG_TWICE, service=DIALER, call_id=claim.call_id, conversation_id=verdicts.ids(ours)
            )
        if ours:
            return verdicts.adopted(ours)
        return verdicts.foreign(found) if found and claim.must_look and not claim.foreign_known else None

    def look_up(self, id: str) -> Result:
        """One look-up of a call in doubt."""
        call = self.store.get(id)
        if call.get("state") != State.IN_DOUBT:
            return Result(id, call.get("state", "unknown"))
        installation = self.store.installation()
        result, reason, report, ours = "absent", None, None, []
        try:
            found = self.dialer.look_up(id, installation=installation)
            ours = [conversation.id for conversation in found if conversation.ours]
            if ours:
                result = "found"
            elif found and call.get("must_look") and not call.get("foreign"):
                result, reason = "foreign", verdicts.why_foreign(found)
        except ServiceError as exc:
            result, reason = "error", str(exc)
            report = report_of(exc, default_pause=0) if verdicts.refused(exc) else None
        except Exception as exc:  # noqa: BLE001 a bug of ours: it proves nothing, and the call must come to an end
            self._log_unknown(id)
            result, reason = "error", f"unexpected {type(exc).__name__} while looking up"
        done = self.store.resolve(id, int(call["looks"]), result, ours, reason=reason, report=report)
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

    def _log_unknown(self, id: str, **more: Any) -> None:
        log("unknown_error", level=logging.ERROR, exc_info=True, service=DIALER, call_id=id, **more)

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


def _variables(claim: Claim) -> dict[str, object]:
    who = claim.contact
    return {**who.fields, "contact_id": who.id, "name": who.name, "installation_id": claim.installation}


NEXT: Mapping[str, str] = {
    State.QUEUED: "dial when its turn comes",
    State.RETRYING: "dial again after the delay",
    State.DEFERRED: "wait for the gate",
    State.IN_DOUBT: "look the call up",
    State.FAILED: "none: see the reason, then `calls retry`",
    State.NEEDS_REVIEW: "none: an operator decides, then `calls retry`",
}
