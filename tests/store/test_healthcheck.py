"""A health check: what its answer means for the gate."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import redis
from celery.exceptions import SoftTimeLimitExceeded

from resilience import healthcheck
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import Settings
from resilience.errors import PermanentError, ServiceError, ThrottledError, TransientError
from tasks.health import InTime
from tests.store.steps import HELD as DIAL_WITH_A_DEAD_KEY
from tests.store.steps import T0, add, attempt, contact, gate_events, look, refused, trip
from tests.support import dump

DOWN = TransientError("503", service=DIALER, counts=True)
BUSY = ThrottledError("429", service=DIALER, alive=True)
DEAD_KEY = PermanentError("the key is dead", service=DIALER)


@dataclass
class ScriptedProbe:
    """Answers the checks in turn; None is a good answer."""

    answers: list[ServiceError | None]
    path: str = ""

    def health(self, path: str) -> None:
        self.path = path
        if (answer := self.answers.pop(0)) is not None:
            raise answer


def check(gate: CircuitBreaker, settings: Settings, *answers: ServiceError | None) -> list[str]:
    """What these checks return."""
    probe = ScriptedProbe(list(answers))
    results = [healthcheck.check(DIALER, probe, gate, settings.services[DIALER]) for _ in answers]
    assert probe.path == settings.services[DIALER].health.path
    return results


def test_a_service_is_down_after_fall_bad_checks_and_up_after_rise_good_ones(
    gate: CircuitBreaker, settings: Settings
) -> None:
    assert check(gate, settings, None, DOWN, DOWN, DOWN, None, None) == ["up", "up", "up", "down", "down", "up"]
    assert gate_events(gate) == ["health_down", "breaker_opened", "health_up", "breaker_half_open"]


def test_a_service_nobody_has_asked_is_unknown_until_enough_checks_agree(
    gate: CircuitBreaker, settings: Settings
) -> None:
    assert check(gate, settings, DOWN, DOWN, DOWN) == ["unknown", "unknown", "down"]


def test_a_429_is_neither_good_nor_bad(client: redis.Redis, gate: CircuitBreaker, settings: Settings) -> None:
    check(gate, settings, DOWN, DOWN)
    before = dump(client)

    assert check(gate, settings, BUSY) == ["skipped"]

    assert dump(client) == before
    assert check(gate, settings, DOWN) == ["down"]


def test_a_check_goes_round_a_shut_gate_and_its_reason_is_shown(gate: CircuitBreaker, settings: Settings) -> None:
    trip(gate)

    check(gate, settings, DOWN)

    assert look(gate)["health_reason"] == "503"
    check(gate, settings, None)
    assert "health_reason" not in look(gate)


def test_a_dead_key_holds_the_gate_until_checks_with_the_mended_key_recover(
    store: CallStore, gate: CircuitBreaker, settings: Settings
) -> None:
    first, second = add(store, "1", "2")
    attempt(store, first, DIAL_WITH_A_DEAD_KEY)

    check(gate, settings, DEAD_KEY, None)
    assert refused(store, second).answer == "deferred"
    check(gate, settings, None)

    assert look(gate)["state"] == "half_open"
    assert set(store.dispatch(9, now=T0 + 2).place) <= {first, second}


def test_a_check_that_raises_anything_else_is_a_bad_one_and_raises_it_again(
    gate: CircuitBreaker, settings: Settings
) -> None:
    """It counted for nothing, so a gate whose every check was cut off stayed as it was."""

    class Broken:
        def health(self, path: str) -> None:
            raise ZeroDivisionError

    for _ in range(settings.services[DIALER].health.fall):
        with pytest.raises(ZeroDivisionError):
            healthcheck.check(DIALER, Broken(), gate, settings.services[DIALER])

    seen = look(gate)
    assert (seen["health"], seen["state"]) == ("down", "open")
    assert seen["health_reason"] == "unexpected ZeroDivisionError in the health check"


def test_a_check_that_its_task_cuts_off_is_a_bad_one(gate: CircuitBreaker, settings: Settings) -> None:
    class Dripping:
        def health(self, path: str) -> None:
            raise SoftTimeLimitExceeded

    probe = InTime(DIALER, Dripping())

    answers = [healthcheck.check(DIALER, probe, gate, settings.services[DIALER]) for _ in range(3)]

    assert answers == ["unknown", "unknown", "down"]
    assert look(gate)["health_reason"] == "the health check took longer than the task's time limit"


def test_where_no_call_waits_to_be_the_probe_health_closes_the_gate(gate: CircuitBreaker, settings: Settings) -> None:
    """An outage that ended with an empty queue was reported as still going on, every four hours."""
    check(gate, settings, DOWN, DOWN, DOWN, None, None)
    assert look(gate)["state"] == "half_open"

    check(gate, settings, None, None)

    assert look(gate)["state"] == "closed"
    assert gate_events(gate)[-1] == "breaker_closed"


def test_where_no_call_waits_health_also_tries_a_gate_that_opened_while_it_was_up(gate: CircuitBreaker) -> None:
    """Twelve dials lost their answers, no other call came: the gate stayed open, and the look-ups went one a minute."""
    trip(gate)
    assert look(gate, T0)["state"] == "open"

    states = [gate.health(True, rise=2, fall=3, now=T0 + 15 * n)["state"] for n in range(1, 6)]

    assert states == ["open", "open", "open", "half_open", "closed"]


def test_where_a_call_waits_it_is_the_probe(gate: CircuitBreaker, settings: Settings, store: CallStore) -> None:
    check(gate, settings, DOWN, DOWN, DOWN)
    store.enqueue([contact("1")], "spring")
    assert store.begin("spring:1", "me").state == "deferred"

    check(gate, settings, None, None, None, None, None)

    assert look(gate)["state"] == "half_open"
