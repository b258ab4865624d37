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


def dialed(gate: CircuitBreaker, *answers: tuple[float, Report]) -> str:
    """Requests with the answers to them, so many seconds after T0. Returns the gate's state after the last."""
    for at, report in answers:
        send(gate, report, T0 + at)
    return str(look(gate, T0 + answers[-1][0])["state"])


def test_failures_of_a_lonely_contact_open_it_at_the_threshold(gate: CircuitBreaker) -> None:
    assert dialed(gate, (0, SICK), (5, SICK), (15, SICK)) == "closed"

    assert dialed(gate, (35, SICK)) == "open"


def test_a_run_is_counted_beyond_the_window(gate: CircuitBreaker) -> None:
    """One failure every 21 s and nothing else never opened it: the window held three of them."""
    assert dialed(gate, (0, SICK), (21, SICK), (42, SICK)) == "closed"

    assert dialed(gate, (63, SICK)) == "open"
    assert look(gate, T0 + 63)["reason"] == "4 requests in a row failed, last: 503"


def test_the_retries_of_a_few_calls_open_it_before_one_has_used_its_attempts(gate: CircuitBreaker) -> None:
    waves = [(at, Report(Outcome.FAILURE, source=source)) for at in (0.0, 5.0, 15.0) for source in "abc"]

    assert dialed(gate, *waves[:6]) == "closed"

    assert dialed(gate, waves[6]) == "open"


def test_a_success_ends_a_run(gate: CircuitBreaker) -> None:
    dialed(gate, (0, SICK), (5, SICK), (15, SICK), (34, OK))

    # The success has left the window when the fourth failure after it comes.
    assert dialed(gate, (35, SICK), (70, SICK), (105, SICK)) == "closed"
    assert dialed(gate, (140, SICK)) == "open"


def test_a_success_in_the_window_asks_for_a_longer_run(gate: CircuitBreaker) -> None:
    dialed(gate, (0, OK), *((at, SICK) for at in range(1, 45, 4)))
    assert look(gate)["state"] == "closed"

    assert dialed(gate, (45, SICK)) == "open"


def test_so_few_failures_within_seconds_may_be_bad_luck(gate: CircuitBreaker) -> None:
    send(gate, SICK, T0, times=11)
    assert look(gate)["state"] == "closed"

    send(gate, SICK, T0)

    assert look(gate)["reason"] == "12 requests in a row failed, last: 503"


@pytest.mark.parametrize(("sources", "state"), [("aaaa", "open"), ("aaab", "closed"), ("baaa", "closed")])
def test_failures_of_one_call_are_no_bad_luck_however_fast(gate: CircuitBreaker, sources: str, state: str) -> None:
    failures = [(0.0, Report(Outcome.FAILURE, source=source)) for source in sources]

    assert dialed(gate, *failures[:-1]) == "closed"

    assert dialed(gate, failures[-1]) == state


@pytest.mark.parametrize(("threshold", "state"), [(1, "open"), (2, "closed")])
def test_a_threshold_of_one_needs_no_time(gate: CircuitBreaker, threshold: int, state: str) -> None:
    assert dialed(with_policy(gate, circuit_breaker={"failure_threshold": threshold}), (0, SICK)) == state


def test_a_threshold_above_the_longer_run_goes_for_both(gate: CircuitBreaker) -> None:
    gate = with_policy(gate, circuit_breaker={"failure_threshold": 50})

    send(gate, SICK, T0, times=49)
    assert look(gate)["state"] == "closed"

    assert dialed(gate, (0, SICK)) == "open"


def mixed(gate: CircuitBreaker, now: float, *runs: tuple[Report, int]) -> str:
    """So many equal answers after each other, all at once. Returns the gate's state."""
    for report, times in runs:
        send(gate, report, now, times=times)
    return str(look(gate, now)["state"])


@pytest.mark.parametrize(("bad", "state"), [(16, "closed"), (17, "open")])
def test_the_first_sample_after_a_closing_opens_it_below_the_rate(gate: CircuitBreaker, bad: int, state: str) -> None:
    assert mixed(gate, T0, (SICK, 8), (OK, 10), (SICK, bad - 8), (OK, 29 - bad)) == "closed"

    assert mixed(gate, T0, (OK, 1)) == state


@pytest.mark.parametrize(("last_ten", "state"), [("1110011000", "closed"), ("1110011100", "open")])
def test_a_later_sample_opens_it_above_the_rate_however_long_it_took(
    gate: CircuitBreaker, last_ten: str, state: str
) -> None:
    mixed(gate, T0, (OK, 40))
    answers = [SICK if answer == "1" else OK for answer in "1110011100" * 3 + last_ten]

    assert dialed(gate, *((100 + 10 * n, answer) for n, answer in enumerate(answers[:-1]))) == "closed"

    assert dialed(gate, (490, answers[-1])) == state


@pytest.mark.parametrize(("good", "state"), [(20, "open"), (21, "closed")])
def test_it_opens_at_a_share_of_failures_in_the_window(gate: CircuitBreaker, good: int, state: str) -> None:
    mixed(gate, T0, (OK, 40))
    assert mixed(gate, T0 + 100, (SICK, 10), (OK, good), (SICK, 29 - good)) == "closed"

    assert mixed(gate, T0 + 100, (SICK, 1)) == state


def test_answers_beyond_the_window_are_not_part_of_the_share(gate: CircuitBreaker) -> None:
    mixed(gate, T0, (OK, 40))
    mixed(gate, T0 + 100, (SICK, 10), (OK, 5), (SICK, 9), (OK, 6))

    assert mixed(gate, T0 + 170, (SICK, 4), (OK, 6)) == "closed"


def test_a_closed_gate_begins_anew(gate: CircuitBreaker) -> None:
    trip(gate)
    gate.report(probe(gate, T0 + 30), OK, now=T0 + 31)

    assert mixed(gate, T0 + 31, (SICK, 11), (OK, 12), (SICK, 5), (OK, 11)) == "closed"
    assert mixed(gate, T0 + 31, (SICK, 1)) == "open"
    assert look(gate, T0 + 31)["reason"] == "17 of 40 requests failed, last: 503"


def test_a_stale_failure_is_not_part_of_a_run(gate: CircuitBreaker) -> None:
    before = gate.admit(token(), LEASE, now=T0)
    trip(gate)
    gate.report(probe(gate, T0 + 30), OK, now=T0 + 31)
    send(gate, SICK, T0 + 31, times=11)

    assert not gate.report(before, SICK, now=T0 + 32)

    assert look(gate, T0 + 32)["state"] == "closed"


def test_failures_are_counted_over_the_fleet(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[interlock: each process had a window of its own, and 72 failures in a row never tripped it]"""
    fleet = [CircuitBreaker(Scripts(client), gate.service, gate.policy) for _ in range(12)]

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
    send(gate, SICK, T0 + 31, times=11)
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
    send(gate, SICK, T0, times=11)

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


@pytest.mark.parametrize("replaced", [False, True])
def test_a_probe_whose_lease_ran_out_fails_once(client: redis.Redis, gate: CircuitBreaker, replaced: bool) -> None:
    """An answer that dripped past the lease was never counted, and the gate stayed as it was."""
    trip(gate)
    dead = probe(gate, T0 + 30)
    other = probe(gate, T0 + 30 + LEASE) if replaced else None

    assert gate.report(dead, SICK, now=T0 + 80)

    assert wait(gate, T0 + 80) == 60
    before = dump(client)
    assert not gate.report(dead, SICK, now=T0 + 81)
    assert other is None or not gate.report(other, OK, now=T0 + 81)
    assert dump(client) == before


def test_a_lease_that_nobody_reports_is_forgotten_in_time(client: redis.Redis, gate: CircuitBreaker) -> None:
    trip(gate)

    first, *_ = [probe(gate, T0 + 30 + n * LEASE) for n in range(100)]

    assert client.zcard(gate.scripts.key("cb", gate.service, "leases")) <= 11
    assert not gate.report(first, SICK, now=T0 + 30 + 100 * LEASE)


def test_an_attempt_whose_lease_ran_out_is_a_failure_once(gate: CircuitBreaker) -> None:
    dead = gate.admit(token(), LEASE, now=T0)
    send(gate, SICK, T0 + LEASE, times=10)

    assert gate.report(dead, SICK, now=T0 + LEASE)
    assert not gate.report(dead, SICK, now=T0 + LEASE)
    assert look(gate, T0 + LEASE)["state"] == "closed"

    send(gate, SICK, T0 + LEASE)
    assert look(gate, T0 + LEASE)["state"] == "open"


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
    for n in range(11):
        send(gate, SICK, T0)
        if n < 4:
            send(gate, other, T0)

    send(gate, SICK, T0)

    assert look(gate)["state"] == "open"


def test_a_repeated_report_counts_once(client: redis.Redis, gate: CircuitBreaker) -> None:
    permit = send(gate, SICK, T0)
    before = dump(client)

    for _ in range(5):
        assert not gate.report(permit, SICK, now=T0)
    assert dump(client) == before

    send(gate, SICK, T0, times=11)
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
    for _ in range(12):
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
    assert opened["reason"] == "12 requests in a row failed, last: 503"
    assert (opened["service"], opened["from"], opened["by"]) == (DIALER, "closed", "breaker")
    assert int(opened["until"]) == int((T0 + 30) * 1000)


def test_the_window_has_a_fixed_size(client: redis.Redis, gate: CircuitBreaker) -> None:
    """[nopanic: 28 800 fields after a day of one request every 3 s]"""
    for second in range(0, 600, 3):
        send(gate, SICK if second % 9 == 0 else OK, T0 + second)

    assert client.hlen(gate.scripts.key("cb", gate.service)) <= 15
