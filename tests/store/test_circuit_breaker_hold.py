"""The gate held, paused, and moved by hand."""

from __future__ import annotations

import json

import pytest
import redis

from resilience.circuit_breaker import CircuitBreaker, Outcome, Report, report_of
from resilience.errors import CircuitOpen, PermanentError, Scope
from resilience.store.scripts import FOLDER
from tests.store.steps import LEASE, OK, SICK, T0, gate_events, look, send, token, trip
from tests.support import dump

DEAD_KEY = Report(Outcome.IGNORED, hold="the key is dead")
FIREWALL = PermanentError("ElevenLabs answered 403", service="elevenlabs", code="http_403", named=False)


def refused(code: str) -> Report:
    return Report(Outcome.REFUSED, code=code)


def throttled(pause: float) -> Report:
    return Report(Outcome.ALIVE, pause=pause, reason="429")


def wait(gate: CircuitBreaker, now: float) -> float | None:
    with pytest.raises(CircuitOpen) as shut:
        gate.admit(token(), LEASE, now=now)
    return shut.value.retry_after


def check(gate: CircuitBreaker, *results: bool, now: float) -> None:
    for good in results:
        gate.health(good, rise=2, fall=3, reason=None if good else "503", now=now)


def test_an_answer_that_every_contact_would_get_holds_the_gate(client: redis.Redis, gate: CircuitBreaker) -> None:
    send(gate, DEAD_KEY, T0)

    seen = look(gate)
    assert (seen["state"], seen["reason"], seen["by"]) == ("held", "the key is dead", "breaker")
    before = dump(client)
    assert wait(gate, T0 + 1e6) is None
    assert dump(client) == before


def test_a_permanent_error_without_a_name_opens_the_gate_at_once(gate: CircuitBreaker) -> None:
    """One page of a firewall held the whole fleet until a person came, because health was never bad."""
    send(gate, report_of(FIREWALL, default_pause=5), T0)

    seen = look(gate)
    assert (seen["state"], seen["reason"], seen["by"]) == ("open", "ElevenLabs answered 403", "breaker")
    assert wait(gate, T0) == 30


@pytest.mark.parametrize(("answer", "state"), [(None, "closed"), (FIREWALL, "open")])
def test_a_probe_finds_out_what_it_was(gate: CircuitBreaker, answer: PermanentError | None, state: str) -> None:
    send(gate, report_of(FIREWALL, default_pause=5), T0)

    gate.report(gate.admit(token(), LEASE, now=T0 + 30), report_of(answer, default_pause=5), now=T0 + 31)

    assert look(gate, T0 + 31)["state"] == state
    assert answer is None or wait(gate, T0 + 31) == 60


def test_a_permanent_error_with_a_name_holds_the_gate() -> None:
    dead_key = PermanentError("the key is dead", service="elevenlabs", code="invalid_api_key")

    assert report_of(dead_key, default_pause=5).hold == "the key is dead"


IS_WELL = "return gate_is_well(gate_load(a.service)) and 1 or 0"


def is_well(gate: CircuitBreaker) -> bool:
    shared = [(FOLDER / "shared" / f"{part}.lua").read_text("utf-8") for part in ("base", "gate")]
    args = json.dumps({"service": gate.service, "now": T0 * 1000})
    return bool(gate.scripts.client.eval("\n".join([*shared, IS_WELL]), 1, gate.scripts.prefix, args))


def test_a_service_is_well_while_its_gate_is_closed_and_its_health_not_down(gate: CircuitBreaker) -> None:
    assert is_well(gate)

    trip(gate)
    assert not is_well(gate)
    probe = gate.admit(token(), LEASE, now=T0 + 30)
    assert not is_well(gate)
    gate.report(probe, OK, now=T0 + 31)
    assert is_well(gate)

    check(gate, False, False, False, now=T0 + 40)
    gate.control("close", by="ada", now=T0 + 40)
    assert look(gate, T0 + 40)["state"] == "closed"
    assert not is_well(gate)


def test_a_hold_by_hand_ends_by_itself_where_it_was_given_an_end(gate: CircuitBreaker) -> None:
    gate.control("hold", by="ada", reason="maintenance", wait=600, now=T0)
    assert wait(gate, T0 + 100) == 500

    assert gate.admit(token(), LEASE, now=T0 + 600).state == "half_open"


def test_a_released_gate_asks_one_probe_first(gate: CircuitBreaker) -> None:
    send(gate, DEAD_KEY, T0)

    assert gate.control("release", by="ada", now=T0 + 60)

    probe = gate.admit(token(), LEASE, now=T0 + 61)
    assert wait(gate, T0 + 61) == LEASE
    gate.report(probe, DEAD_KEY, now=T0 + 62)
    assert look(gate, T0 + 62)["state"] == "held"


def test_a_hold_of_the_breaker_s_is_released_by_checks_that_recover(gate: CircuitBreaker) -> None:
    send(gate, DEAD_KEY, T0)

    check(gate, True, True, True, now=T0 + 15)
    assert look(gate)["state"] == "held"
    check(gate, False, True, now=T0 + 30)
    assert look(gate)["state"] == "held"
    check(gate, True, now=T0 + 45)

    assert look(gate, T0 + 45)["state"] == "half_open"
    assert gate_events(gate)[-1] == "service_released"


def test_a_hold_by_hand_is_not_released_by_health_checks(gate: CircuitBreaker) -> None:
    gate.control("hold", by="ada", now=T0)

    check(gate, *[False] * 4, *[True] * 4, now=T0 + 15)

    assert look(gate, T0 + 15)["state"] == "held"


def test_five_equal_refusals_in_a_row_hold_the_gate(gate: CircuitBreaker) -> None:
    send(gate, refused("bad_number"), T0, times=4)
    assert look(gate)["state"] == "closed"

    send(gate, refused("bad_number"), T0)

    seen = look(gate)
    assert (seen["state"], seen["reason"]) == ("held", "5 contacts in a row refused with bad_number")


@pytest.mark.parametrize("between", [OK, refused("other")])
def test_refusals_that_are_not_equal_and_in_a_row_hold_nothing(gate: CircuitBreaker, between: Report) -> None:
    for _ in range(3):
        send(gate, refused("bad_number"), T0, times=4)
        send(gate, between, T0)

    assert look(gate)["state"] == "closed"


def test_a_429_pauses_the_gate_and_is_no_failure(client: redis.Redis, gate: CircuitBreaker) -> None:
    for second in range(8):
        permit = gate.admit(token(), LEASE, now=T0 + 10 * second)
        gate.report(permit, throttled(7), now=T0 + 10 * second)

    assert look(gate)["state"] == "closed"
    before = dump(client)
    assert wait(gate, T0 + 72) == 5
    assert dump(client) == before
    assert gate.admit(token(), LEASE, now=T0 + 77).state == "closed"


def test_the_longest_pause_counts_up_to_a_cap(gate: CircuitBreaker) -> None:
    permits = [gate.admit(token(), LEASE, now=T0) for _ in range(3)]

    gate.report(permits[0], throttled(60), now=T0)
    gate.report(permits[1], throttled(5), now=T0)
    assert wait(gate, T0) == 60
    gate.report(permits[2], throttled(1e6), now=T0)

    assert wait(gate, T0) == 900
    assert gate_events(gate) == ["service_throttled"]


def test_a_throttled_probe_closes_the_gate_and_pauses_it(gate: CircuitBreaker) -> None:
    trip(gate)

    gate.report(gate.admit(token(), LEASE, now=T0 + 30), throttled(7), now=T0 + 31)

    assert look(gate, T0 + 31)["state"] == "closed"
    assert wait(gate, T0 + 31) == 7


def test_a_gate_opened_by_hand_recovers_by_itself(gate: CircuitBreaker) -> None:
    gate.control("open", by="ada", wait=100, now=T0)
    assert wait(gate, T0 + 1) == 99

    gate.report(gate.admit(token(), LEASE, now=T0 + 100), OK, now=T0 + 101)

    assert look(gate, T0 + 101)["state"] == "closed"


@pytest.mark.parametrize("shut", ["open", "hold"])
def test_a_gate_closed_by_hand_is_closed_for_all(gate: CircuitBreaker, shut: str) -> None:
    gate.control(shut, by="ada", now=T0)

    assert gate.control("close", by="ada", now=T0 + 1)

    assert gate.admit(token(), LEASE, now=T0 + 1).state == "closed"


def test_closing_by_hand_ends_a_pause(gate: CircuitBreaker) -> None:
    send(gate, throttled(500), T0)

    assert gate.control("close", by="ada", now=T0 + 1)

    assert gate.admit(token(), LEASE, now=T0 + 1)


@pytest.mark.parametrize("action", ["close", "release"])
def test_a_command_that_fits_no_state_changes_nothing(client: redis.Redis, gate: CircuitBreaker, action: str) -> None:
    assert not gate.control(action, by="ada", now=T0)

    assert dump(client) == {}


def test_a_report_from_before_a_hold_by_hand_changes_nothing(client: redis.Redis, gate: CircuitBreaker) -> None:
    under_way = gate.admit(token(), LEASE, now=T0)
    gate.control("hold", by="ada", now=T0)
    before = dump(client)

    assert not gate.report(under_way, OK, now=T0 + 1)

    assert dump(client) == before


def test_health_that_falls_opens_and_that_rises_lets_a_probe_through_at_once(gate: CircuitBreaker) -> None:
    check(gate, False, False, now=T0)
    assert look(gate)["state"] == "closed"
    check(gate, False, now=T0)
    assert look(gate)["state"] == "open"

    check(gate, True, True, now=T0 + 5)

    assert gate.admit(token(), LEASE, now=T0 + 5).state == "half_open"
    assert gate_events(gate) == ["health_down", "breaker_opened", "health_up", "breaker_half_open"]


def test_checks_that_come_and_go_change_nothing(gate: CircuitBreaker) -> None:
    check(gate, *[True, False, False] * 5, now=T0)

    assert look(gate)["state"] == "closed"
    assert gate_events(gate) == []


def test_while_health_is_down_the_timed_probe_waits_and_at_most_hold(gate: CircuitBreaker) -> None:
    trip(gate)
    check(gate, False, False, False, now=T0 + 10)
    assert wait(gate, T0 + 31) == 269

    probe = gate.admit(token(), LEASE, now=T0 + 300)
    gate.report(probe, SICK, now=T0 + 301)

    assert wait(gate, T0 + 301) == 300


def test_a_good_probe_outranks_a_health_check_that_says_down(gate: CircuitBreaker) -> None:
    check(gate, False, False, False, now=T0)
    gate.report(gate.admit(token(), LEASE, now=T0 + 300), OK, now=T0 + 301)

    check(gate, False, False, False, now=T0 + 302)

    assert look(gate, T0 + 302)["state"] == "closed"


def test_bad_numbers_in_a_row_are_bad_numbers_and_hold_nothing(gate: CircuitBreaker) -> None:
    """A refusal that names the contact's own data says nothing of the service, however often it comes."""
    bad_number = PermanentError(
        "no such number", service="elevenlabs", code="http_422", scope=Scope.CONTACT, alive=True, names_contact=True
    )

    for n in range(10):
        gate.report(gate.admit(f"t{n}", LEASE, now=T0), report_of(bad_number, default_pause=5), now=T0)

    assert gate.admit("next", LEASE, now=T0).state == "closed"
