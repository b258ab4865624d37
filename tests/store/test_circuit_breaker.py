"""The gate in front of a service: when it trips, whom it refuses, and how it finds its way back.

The names in brackets are the peers that were seen to do it wrong (pybreaker, interlock, nopanic, aiobreaker, baldur).
"""

from __future__ import annotations

import pytest
import redis

from resilience.calls.store import DIALER
from resilience.circuit_breaker import CircuitBreaker, Outcome, Permit, Report, policy_of
from resilience.errors import CircuitOpen
from resilience.store.scripts import Scripts
from tests.store.steps import LEASE, OK, SICK, T0, gate_events, look, make_settings, send, token, trip
from tests.support import dump

ALIVE, IGNORED = Report(Outcome.ALIVE), Report(Outcome.IGNORED)


def refusal(code: str) -> Report:
    return Report(Outcome.REFUSED, code=code)


def with_policy(gate: CircuitBreaker, **changes: object) -> CircuitBreaker:
    return CircuitBreaker(gate.scripts, gate.service, policy_of(make_settings(changes).services[DIALER]))


def probe(gate: CircuitBreaker, now: float) -> Permit:
    permit = gate.admit(token(), LEASE, now=now)
    assert permit.state == "half_open"
    return permit


def wait(gate: CircuitBreaker, now: float) -> float | None:
    with pytest.raises(CircuitOpen) as refused:
        gate.admit(token(), LEASE, now=now)
    return refused.value.retry_after


def test_a_gate_nobody_has_used_lets_requests_through(gate: CircuitBreaker) -> None:
    assert gate.admit(token(), LEASE, now=T0).state == "closed"


@pytest.mark.parametrize(
    ("good", "bad", "state"), [(0, 3, "closed"), (0, 4, "open"), (4, 4, "open"), (5, 4, "closed"), (5, 5, "open")]
)
def test_it_trips_at_a_number_and_a_share_of_failures(gate: CircuitBreaker, good: int, bad: int, state: str) -> None:
    if good:
        send(gate, OK, T0, times=good)

    send(gate, SICK, T0, times=bad)

    assert look(gate)["state"] == state


def test_failures_beyond_the_window_are_forgotten(gate: CircuitBreaker) -> None:
    send(gate, SICK, T0, times=3)

    send(gate, SICK, T0 + 61, times=3)

    assert look(gate, T0 + 61)["state"] == "closed"


def test_failures_are_counted_over_the_fleet(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[interlock: each process had a window of its own, and 72 failures in a row never tripped it]"""
    fleet = [CircuitBreaker(Scripts(client), gate.service, gate.policy) for _ in range(4)]

    for worker in fleet:
        send(worker, SICK, T0)

    assert look(gate)["state"] == "open"


def test_an_open_gate_refuses_with_the_time_that_is_left(gate: CircuitBreaker) -> None:
    trip(gate)

    assert wait(gate, T0 + 10) == 20


def test_a_refused_request_writes_nothing(client: redis.Redis, gate: CircuitBreaker) -> None:
    trip(gate)
    shut = dump(client)
    wait(gate, T0 + 10)
    assert dump(client) == shut

    probe(gate, T0 + 30)
    lent = dump(client)
    wait(gate, T0 + 31)
    assert dump(client) == lent


def test_a_refused_request_keeps_no_dead_lease_alive(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[interlock: each refusal renewed the lease of a prober that was long dead]"""
    trip(gate)
    probe(gate, T0 + 30)
    keys = [gate.scripts.key("cb", gate.service), gate.scripts.key("cb", gate.service, "leases")]
    for key in keys:
        client.pexpire(key, 100_000)

    for second in range(1, 43):
        assert wait(gate, T0 + 30 + second) == LEASE - second

    assert all(client.pttl(key) <= 100_000 for key in keys)
    assert probe(gate, T0 + 30 + LEASE)


def test_after_the_recovery_timeout_one_probe_goes_and_the_rest_wait_for_it(gate: CircuitBreaker) -> None:
    """[baldur: no look at the time; nopanic: a wait of 0, so callers hammer]"""
    trip(gate)
    assert wait(gate, T0 + 29.999) == pytest.approx(0.001)

    probe(gate, T0 + 30)

    assert wait(gate, T0 + 40) == LEASE - 10


def test_a_good_probe_closes_it(gate: CircuitBreaker) -> None:
    trip(gate)

    gate.report(probe(gate, T0 + 30), OK, now=T0 + 31)

    assert look(gate, T0 + 31)["state"] == "closed"
    send(gate, SICK, T0 + 31, times=3)
    assert look(gate, T0 + 31)["state"] == "closed"


def test_a_closed_gate_has_forgotten_what_opened_it(gate: CircuitBreaker) -> None:
    trip(gate)

    gate.report(probe(gate, T0 + 30), OK, now=T0 + 31)

    seen = look(gate, T0 + 31)
    assert "reason" not in seen
    assert "by" not in seen
    assert seen["retry_after"] == 0


def test_the_recovery_timeout_doubles_to_its_cap_and_starts_afresh_once_closed(gate: CircuitBreaker) -> None:
    trip(gate)
    now, waits = T0, []
    for _ in range(6):
        left = wait(gate, now)
        assert left is not None
        waits.append(left)
        now += left
        last = probe(gate, now)
        gate.report(last, SICK, now=now)
    now += 300
    gate.report(probe(gate, now), OK, now=now)
    trip(gate, now)

    assert waits == [30, 60, 120, 240, 300, 300]
    assert wait(gate, now) == 30


@pytest.mark.parametrize(("asked", "waited"), [(5, 30), (120, 120), (10_000, 900)])
def test_retry_after_stretches_the_open_time_up_to_a_cap(gate: CircuitBreaker, asked: float, waited: float) -> None:
    send(gate, SICK, T0, times=3)

    send(gate, Report(Outcome.FAILURE, retry_after=asked), T0)

    assert wait(gate, T0) == waited


def test_a_killed_probe_gives_its_permit_back(gate: CircuitBreaker) -> None:
    """[nopanic, interlock: the permit of a killed worker was lost for ever, and with it the service]"""
    trip(gate)
    probe(gate, T0 + 30)
    assert wait(gate, T0 + 30 + LEASE - 1) == 1

    second = probe(gate, T0 + 30 + LEASE)

    assert gate.report(second, OK, now=T0 + 80)
    assert look(gate, T0 + 80)["state"] == "closed"


def test_the_report_of_a_probe_whose_permit_went_to_another_changes_nothing(
    client: redis.Redis, gate: CircuitBreaker
) -> None:
    trip(gate)
    dead = probe(gate, T0 + 30)
    probe(gate, T0 + 30 + LEASE)
    before = dump(client)

    assert not gate.report(dead, SICK, now=T0 + 80)

    assert dump(client) == before


def test_half_open_lends_so_many_permits_and_needs_so_many_good_probes(gate: CircuitBreaker) -> None:
    gate = with_policy(gate, circuit_breaker={"half_open_calls": 2, "success_threshold": 3})
    trip(gate)
    probes = [probe(gate, T0 + 30), probe(gate, T0 + 33)]
    assert wait(gate, T0 + 40) == LEASE - 10

    for permit in probes:
        gate.report(permit, OK, now=T0 + 41)
    assert look(gate, T0 + 41)["state"] == "half_open"
    gate.report(probe(gate, T0 + 41), OK, now=T0 + 42)

    assert look(gate, T0 + 42)["state"] == "closed"


def test_one_bad_probe_among_good_ones_opens_it(gate: CircuitBreaker) -> None:
    gate = with_policy(gate, circuit_breaker={"half_open_calls": 2, "success_threshold": 2})
    trip(gate)
    good, bad = probe(gate, T0 + 30), probe(gate, T0 + 30)

    gate.report(good, OK, now=T0 + 31)
    gate.report(bad, SICK, now=T0 + 31)

    assert wait(gate, T0 + 31) == 60


def test_a_probe_that_says_nothing_gives_its_permit_back_and_decides_nothing(gate: CircuitBreaker) -> None:
    trip(gate)

    gate.report(probe(gate, T0 + 30), IGNORED, now=T0 + 31)

    assert look(gate, T0 + 31)["state"] == "half_open"
    assert probe(gate, T0 + 31)


@pytest.mark.parametrize("report", [ALIVE, refusal("bad_number")])
def test_a_probe_that_was_answered_at_all_closes_it(gate: CircuitBreaker, report: Report) -> None:
    """[c-breaker: an excluded error on a probe left it half open for a day]"""
    trip(gate)

    gate.report(probe(gate, T0 + 30), report, now=T0 + 31)

    assert look(gate, T0 + 31)["state"] == "closed"


def test_the_same_token_gets_the_same_answer_and_no_second_permit(gate: CircuitBreaker) -> None:
    trip(gate)
    first = gate.admit("one", LEASE, now=T0 + 30)

    assert gate.admit("one", LEASE, now=T0 + 31) == first
    assert wait(gate, T0 + 31) == LEASE - 1


@pytest.mark.parametrize("late", [OK, SICK, Report(Outcome.IGNORED, hold="dead"), Report(Outcome.ALIVE, pause=60)])
def test_a_report_of_an_older_generation_changes_nothing(
    client: redis.Redis, gate: CircuitBreaker, late: Report
) -> None:
    """[aiobreaker: a success from before the trip closed it; nopanic: a probe of round 1 counted in round 2]"""
    before_trip = gate.admit(token(), LEASE, now=T0)
    trip(gate)
    of_round_1 = probe(gate, T0 + 30)
    of_round_1_too = Permit(of_round_1.service, token(), of_round_1.gen, of_round_1.state)
    gate.report(of_round_1, SICK, now=T0 + 31)
    probe(gate, T0 + 100)
    before = dump(client)

    for permit in (before_trip, of_round_1, of_round_1_too):
        assert not gate.report(permit, late, now=T0 + 101)

    assert dump(client) == before


def test_generations_rise_even_where_the_key_was_lost(client: redis.Redis, gate: CircuitBreaker) -> None:
    trip(gate)
    generations = [int(look(gate)["gen"])]
    for hour in (1, 2):
        client.delete(gate.scripts.key("cb", gate.service))
        trip(gate, T0 + 3600 * hour)
        generations.append(int(look(gate, T0 + 3600 * hour)["gen"]))

    assert generations == sorted(set(generations))


@pytest.mark.parametrize("other", [ALIVE, IGNORED, refusal("bad_number")])
def test_errors_that_do_not_count_hide_no_failures(gate: CircuitBreaker, other: Report) -> None:
    """[pybreaker: a quarter of 4xx answers kept a service at 75 % failures closed for ever]"""
    for _ in range(3):
        send(gate, SICK, T0)
        send(gate, other, T0)

    send(gate, SICK, T0)

    assert look(gate)["state"] == "open"


def test_a_repeated_report_counts_once(client: redis.Redis, gate: CircuitBreaker) -> None:
    permit = send(gate, SICK, T0)
    before = dump(client)

    for _ in range(5):
        assert not gate.report(permit, SICK, now=T0)
    assert dump(client) == before

    send(gate, SICK, T0, times=3)
    gate.report(last := probe(gate, T0 + 30), SICK, now=T0 + 31)
    assert not gate.report(last, OK, now=T0 + 31)
    assert wait(gate, T0 + 31) == 60


def test_reading_a_gate_changes_nothing(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[pybreaker: reading `.state` after a close set the shared counter back]"""
    send(gate, SICK, T0, times=3)
    before = dump(client)

    look(gate, T0)
    look(gate, T0 + 10_000)

    assert dump(client) == before


def test_two_services_share_nothing(gate: CircuitBreaker) -> None:
    """[pybreaker: keys without the breaker's name]"""
    other = CircuitBreaker(gate.scripts, "crm", gate.policy)

    trip(gate)

    assert look(other)["state"] == "closed"
    assert other.admit(token(), LEASE, now=T0)


def test_a_clock_of_a_client_that_is_wrong_does_no_harm(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[nopanic: a worker 31 s ahead passed an open gate and closed it]"""
    gate = CircuitBreaker(Scripts(real_redis), DIALER, policy_of(make_settings().services[DIALER]))
    for _ in range(4):
        gate.report(gate.admit(token(), LEASE), SICK)

    monkeypatch.setattr("time.time", lambda: T0 + 1e6)

    with pytest.raises(CircuitOpen) as refused:
        gate.admit(token(), LEASE)
    assert 0 < (refused.value.retry_after or 0) <= 30


def test_slow_answers_open_it_where_they_are_counted(gate: CircuitBreaker) -> None:
    slow = Report(Outcome.SUCCESS, slow=True)
    send(gate, slow, T0, times=8)
    assert look(gate)["state"] == "closed"

    send(with_policy(gate, circuit_breaker={"slow_call": {"duration": 10, "rate": 0.8}}), slow, T0)

    seen = look(gate)
    assert (seen["state"], seen["reason"]) == ("open", "9 of 9 requests were slow")


def test_each_transition_is_one_event(client: redis.Redis, gate: CircuitBreaker) -> None:
    trip(gate)
    gate.report(probe(gate, T0 + 30), SICK, now=T0 + 31)
    gate.report(probe(gate, T0 + 100), OK, now=T0 + 101)

    assert gate_events(gate) == ["breaker_opened", "breaker_half_open"] * 2 + ["breaker_closed"]
    opened = client.xrange(gate.scripts.key("events"))[0][1]
    assert opened["reason"] == "4 of 4 requests failed, last: 503"
    assert (opened["service"], opened["from"], opened["by"]) == (DIALER, "closed", "breaker")
    assert int(opened["until"]) == int((T0 + 30) * 1000)


def test_the_window_has_a_fixed_size(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[nopanic: 28 800 fields after a day of one request every 3 s]"""
    for second in range(0, 600, 3):
        send(gate, OK, T0 + second)

    assert client.hlen(gate.scripts.key("cb", gate.service)) <= 10
