"""What the store's tests have in common: one policy, the verdicts of an attempt, and the steps of a call."""

from __future__ import annotations

import itertools
from typing import Any

from resilience.calls.call import Claim, Finished, NotBegun, State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, Outcome, Permit, Report, view
from resilience.config.settings import Settings

T0 = 1_800_000_000.0  # unix seconds
LEASE = 43.0  # of the policy below: 3 + 30 + 10
REPUBLISH = 30.0

OK = Report(Outcome.SUCCESS)
SICK = Report(Outcome.FAILURE, code="http_503", reason="503")

PLACED = Verdict(State.PLACED, OK, conversation_id="conv_1")
RETRY = Verdict(State.RETRYING, SICK, delay=5, reason="503", category="transient", code="http_503", service_fault=True)
FAILED = Verdict(State.FAILED, Report(Outcome.REFUSED, code="bad_number"), reason="bad number", category="permanent")
DOUBT = Verdict(
    State.IN_DOUBT, SICK, delay=20, reason="no answer", category="transient", code="timeout", service_fault=True
)
THROTTLED = Verdict(State.DEFERRED, Report(Outcome.ALIVE, reason="429", pause=7), used=False, category="throttled")
HELD = Verdict(State.DEFERRED, Report(Outcome.IGNORED, hold="the key is dead"), used=False, category="permanent")
HANDED_BACK = Verdict(State.QUEUED, Report(Outcome.IGNORED), dialed=False, used=False, reason="too late")
ADOPTED = Verdict(State.PLACED, Report(Outcome.IGNORED), dialed=False, used=False, conversation_id="conv_0")

_tokens = itertools.count(1)


def token() -> str:
    """One that nobody had before."""
    return f"token-{next(_tokens)}"


def make_settings(service: dict[str, Any] | None = None, **sections: Any) -> Settings:
    """The shipped policy without jitter. `service` replaces sections of the dialer's, `sections` those of the rest."""
    dialer = {
        "base_url": "http://127.0.0.1:9",
        "api_key": "key",
        "timeout": {"connect": 3, "read": 30},
        "on_unavailable": "defer",
        "retry": {"initial_delay": 5, "backoff_factor": 2, "max_attempts": 4, "max_delay": 60, "jitter": 0},
        "health": {"path": "/health", "interval": 15, "rise": 2, "fall": 3},
        "release": {"rate": 1, "max_rate": 50},
    }
    breaker = {"failure_threshold": 4, "failure_rate": 0.5, "window": 60, "recovery_timeout": 30}
    changes = service or {}
    dialer |= changes | {"circuit_breaker": breaker | changes.get("circuit_breaker", {})}
    return Settings.model_validate({"services": {DIALER: dialer}, **sections})


def contact(id: str = "1", **fields: Any) -> Contact:
    return Contact(id, "+4930123456", "Ada", fields)


def add(store: CallStore, *ids: str, now: float = T0) -> list[str]:
    """Enqueues contacts with these ids, in a store that is known to be new. Returns the calls' ids."""
    store.remember(False)
    store.enqueue([contact(id) for id in ids], "spring", now=now)
    return [f"spring:{id}" for id in ids]


def claim(store: CallStore, id: str, now: float = T0) -> Claim:
    """Begins an attempt, which must be let through."""
    begun = store.begin(id, token(), now=now)
    assert isinstance(begun, Claim), begun
    return begun


def refused(store: CallStore, id: str, now: float = T0) -> NotBegun:
    """Begins an attempt, which must not be let through."""
    begun = store.begin(id, token(), now=now)
    assert isinstance(begun, NotBegun), begun
    return begun


def attempt(store: CallStore, id: str, verdict: Verdict, now: float = T0) -> Finished:
    """One whole attempt."""
    finished = store.finish(claim(store, id, now), verdict, now=now)
    assert finished.answer == "done", finished
    return finished


def send(gate: CircuitBreaker, report: Report, now: float, times: int = 1) -> Permit:
    """Requests that are admitted and answered. Returns the last permit."""
    for _ in range(times):
        permit = gate.admit(token(), LEASE, now=now)
        assert gate.report(permit, report, now=now)
    return permit


def trip(gate: CircuitBreaker, now: float = T0) -> None:
    """Opens a closed gate by failures."""
    send(gate, SICK, now, times=gate.policy["run_amid_successes"])
    assert look(gate, now)["state"] == "open"


def look(gate: CircuitBreaker, now: float = T0) -> dict[str, Any]:
    """The gate as it stands."""
    return dict(view(gate.scripts, {gate.service: gate.policy}, now=now)[gate.service])


def gate_events(gate: CircuitBreaker) -> list[str]:
    """The kinds of all events that are not a call's, oldest first."""
    events = [fields["event"] for _, fields in gate.scripts.client.xrange(gate.scripts.key("events"))]
    return [event for event in events if not event.startswith("call_")]
