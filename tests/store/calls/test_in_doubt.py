"""A dial that may or may not have rung: only look-ups decide, each counts once and none before its time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from resilience.calls.call import Verdict
from resilience.calls.store import CallStore
from resilience.circuit_breaker import CircuitBreaker, Outcome, Report
from tests.store import steps
from tests.store.steps import T0, add, attempt, claim, refused
from tests.support import dump


@pytest.fixture
def doubtful(store: CallStore) -> str:
    """A call in doubt, to be looked up at T0 + 20, 80, 140."""
    [id] = add(store, "1")
    attempt(store, id, steps.DOUBT)
    return id


def looked_up(store: CallStore, id: str, *results: str, at: float = T0 + 20) -> str:
    """The state after these results, a minute apart."""
    for n, result in enumerate(results, int(store.get(id)["looks"])):
        assert store.resolve(id, n, result, now=at).answer == "done"
        at += 60
    return store.get(id)["state"]


def test_a_call_that_is_found_is_adopted(store: CallStore, doubtful: str) -> None:
    done = store.resolve(doubtful, 0, "found", ["conv_7"], now=T0 + 20)

    assert (done.answer, done.state) == ("done", "placed")
    assert store.get(doubtful)["conversation_id"] == "conv_7"
    assert store.get(doubtful)["attempts"] == "1"


def test_a_call_that_rang_twice_is_told(client: redis.Redis, store: CallStore, doubtful: str) -> None:
    store.resolve(doubtful, 0, "found", ["conv_7", "conv_8"], now=T0 + 20)

    given = [fields for _, fields in client.xrange("{lineman}:events") if fields["event"] == "call_rang_twice"]
    assert [fields["conversation_id"] for fields in given] == ["conv_7 conv_8"]


def test_only_so_many_look_ups_that_found_nothing_have_it_dialed_again(store: CallStore, doubtful: str) -> None:
    assert looked_up(store, doubtful, "absent", "absent") == "in_doubt"
    assert looked_up(store, doubtful, "absent", at=T0 + 140) == "retrying"

    assert store.dispatch(9, now=T0 + 144).place == ()
    assert store.dispatch(9, now=T0 + 145).place == [doubtful]
    again = claim(store, doubtful, T0 + 145)
    assert (again.attempt, again.attempt_id, again.look_first) == (2, f"{doubtful}:2", True)


def test_an_error_of_the_look_up_proves_nothing(store: CallStore, doubtful: str) -> None:
    assert looked_up(store, doubtful, "absent", "error", "absent", "error", "error") == "in_doubt"

    assert looked_up(store, doubtful, "absent", at=T0 + 400) == "retrying"


def test_what_no_look_up_answers_is_left_to_a_person(store: CallStore, doubtful: str) -> None:
    assert looked_up(store, doubtful, *["error"] * 14) == "in_doubt"

    assert looked_up(store, doubtful, "error", at=T0 + 900) == "needs_review"


def test_an_outage_of_our_own_uses_up_none_of_the_look_ups(store: CallStore, doubtful: str) -> None:
    """Giving up used to count from the doubt, so an hour without Redis sent each call in doubt to a person."""
    assert store.dispatch(9, now=T0 + 3600).look_up == [doubtful]

    assert looked_up(store, doubtful, "absent", "error", at=T0 + 3600) == "in_doubt"
    assert looked_up(store, doubtful, "absent", "absent", at=T0 + 7200) == "retrying"


def test_a_doubt_that_lasts_is_told_once_each_time_a_call_gets_into_one(
    client: redis.Redis, store: CallStore, doubtful: str
) -> None:
    looked_up(store, doubtful, *["error"] * 8, "absent", "absent", "absent")
    attempt(store, doubtful, steps.DOUBT, T0 + 1000)
    looked_up(store, doubtful, *["error"] * 8, at=T0 + 1020)

    given = [
        int(at["at"]) / 1000 - T0 for _, at in client.xrange("{lineman}:events") if at["event"] == "call_doubt_long"
    ]
    assert given == [320, 1320]


def test_the_last_attempt_fails_where_it_never_rang(store: CallStore) -> None:
    [id] = add(store, "1")
    for n in range(3):
        attempt(store, id, steps.RETRY, T0 + 100 * n)
        store.scripts.client.delete(store.scripts.key("cb", "elevenlabs"))
    attempt(store, id, steps.DOUBT, T0 + 300)

    assert looked_up(store, id, "absent", "absent", "absent", at=T0 + 320) == "failed"
    assert store.get(id)["reason"] == "no answer; looked up 3 times, never rang"


def test_a_bug_of_ours_is_not_dialed_again_even_if_it_never_rang(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, replace(steps.DOUBT, category="permanent", code="unknown"))

    assert looked_up(store, id, "absent", "absent", "absent") == "failed"


def test_a_repeated_look_up_counts_once(client: redis.Redis, store: CallStore, doubtful: str) -> None:
    store.resolve(doubtful, 0, "absent", now=T0 + 20)
    before = dump(client)

    for result in ("absent", "error", "found"):
        assert store.resolve(doubtful, 0, result, ["conv_1"], now=T0 + 90).answer == "stale"

    assert dump(client) == before


def test_a_doubled_message_does_not_hurry_the_look_ups(client: redis.Redis, store: CallStore, doubtful: str) -> None:
    """The broker doubles messages: three look-ups within a second used to prove that a call never rang."""
    store.resolve(doubtful, 0, "absent", now=T0 + 20)
    before = dump(client)

    assert store.resolve(doubtful, 1, "absent", now=T0 + 21).answer == "stale"
    assert dump(client) == before

    assert store.resolve(doubtful, 1, "found", ["conv_1"], now=T0 + 22).state == "placed"


def test_a_look_up_of_an_earlier_doubt_that_comes_late_does_not_count(
    client: redis.Redis, store: CallStore, doubtful: str
) -> None:
    looked_up(store, doubtful, "absent", "absent", "absent")
    attempt(store, doubtful, steps.DOUBT, T0 + 200)
    before = dump(client)

    for look in range(3):
        assert store.resolve(doubtful, look, "absent", now=T0 + 300).answer == "stale"

    assert dump(client) == before
    assert looked_up(store, doubtful, "absent", "absent", at=T0 + 300) == "in_doubt"


@pytest.mark.parametrize("verdict", [steps.RETRY, steps.FAILED, steps.DOUBT, steps.HELD])
def test_a_worker_that_comes_back_after_its_call_was_taken_up_is_stale(store: CallStore, verdict: Verdict) -> None:
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)

    assert store.finish(lost, verdict, now=T0 + 50).answer == "stale"

    assert store.resolve(id, 0, "found", ["conv_1"], now=T0 + 51).state == "placed"


def test_a_late_report_that_the_attempt_was_placed_ends_its_own_doubt(store: CallStore) -> None:
    """It was stale, its conversation's id was thrown away, and where the provider's list lagged the call rang again."""
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)

    late = store.finish(lost, steps.PLACED, now=T0 + steps.LEASE + 1)

    assert (late.answer, late.state) == ("done", "placed")
    assert store.get(id)["conversation_id"] == "conv_1"
    assert store.finish(lost, steps.PLACED, now=T0 + 50).answer == "repeated"
    assert store.resolve(id, 0, "absent", now=T0 + 51).answer == "stale"


def test_a_late_report_ends_the_doubt_also_when_the_look_ups_have_found_nothing(store: CallStore) -> None:
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)
    for look in range(3):
        store.resolve(id, look, "absent", now=T0 + 60 + 60 * look)
    assert store.get(id)["state"] == "retrying"

    assert store.finish(lost, steps.PLACED, now=T0 + 181).state == "placed"

    assert refused(store, id, T0 + 300).answer == "duplicate"


def test_a_late_report_of_a_call_that_is_over_is_kept_for_the_operator(store: CallStore) -> None:
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)
    for look in range(15):
        store.resolve(id, look, "error", now=T0 + 60 + 60 * look)
    assert store.get(id)["state"] == "needs_review"

    assert store.finish(lost, steps.PLACED, now=T0 + 1000).answer == "stale"

    assert store.get(id)["state"] == "needs_review"
    assert store.get(id)["conversation_id"] == "conv_1"
    assert store.history(id)[-1]["event"] == "call_rang_late"
    store.command(id, "retry", now=T0 + 1001)
    assert claim(store, id, T0 + 1001).must_look


def test_a_late_report_of_an_attempt_that_another_followed_changes_nothing(store: CallStore) -> None:
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)
    for look in range(3):
        store.resolve(id, look, "absent", now=T0 + 60 + 60 * look)
    claim(store, id, T0 + 300)

    assert store.finish(lost, steps.PLACED, now=T0 + 301).answer == "stale"

    assert store.get(id)["state"] == "dialing"


def test_an_attempt_whose_lease_ran_out_is_a_failure_of_the_service_once(
    store: CallStore, gate: CircuitBreaker
) -> None:
    lost = [claim(store, id) for id in add(store, *(str(n) for n in range(12)))]
    store.dispatch(0, now=T0 + steps.LEASE)
    assert steps.look(gate, T0 + steps.LEASE)["state"] == "open"
    opened = steps.look(gate, T0 + steps.LEASE)["gen"]

    for late in lost:
        store.finish(late, steps.RETRY, now=T0 + 50)
    store.dispatch(0, now=T0 + 50)

    assert steps.look(gate, T0 + 50)["gen"] == opened


def test_look_ups_that_fail_while_the_service_is_sick_use_up_nothing(
    store: CallStore, gate: CircuitBreaker, doubtful: str
) -> None:
    """In eight hours of time-outs every call in doubt ended as needs_review."""
    gate.control("open", by="ada", now=T0 + 1)

    for look in range(100):
        store.resolve(doubtful, look, "error", now=T0 + 60 + 60 * look)

    assert store.get(doubtful)["state"] == "in_doubt"
    assert store.get(doubtful)["errors"] == "0"


def test_while_the_service_is_sick_one_look_up_an_interval_goes_out_for_all(
    store: CallStore, gate: CircuitBreaker
) -> None:
    for id in add(store, *(str(n) for n in range(20))):
        claim(store, id)
    gate.control("open", by="ada", now=T0 + 1)

    handed = [id for second in range(43, 643) for id in store.dispatch(0, now=T0 + second).look_up]

    assert 9 <= len(handed) <= 11


def test_a_look_up_that_is_refused_for_good_is_reported_to_the_gate(
    store: CallStore, gate: CircuitBreaker, doubtful: str
) -> None:
    refusal = Report(Outcome.IGNORED, hold="the key may not list conversations")

    store.resolve(doubtful, 0, "error", report=refusal, now=T0 + 20)

    assert steps.look(gate, T0 + 20)["state"] == "held"
    assert store.get(doubtful)["errors"] == "0"


def test_a_doubt_that_began_as_a_probe_gives_its_attempt_back(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    steps.trip(gate)
    attempt(store, id, steps.DOUBT, T0 + 60)
    gate.control("close", by="ada", now=T0 + 61)

    for look in range(3):
        store.resolve(id, look, "absent", now=T0 + 100 + 60 * look)

    assert (store.get(id)["state"], store.get(id)["attempts"]) == ("retrying", "0")


def test_a_person_s_retry_of_a_call_that_was_in_doubt_looks_first(store: CallStore, doubtful: str) -> None:
    looked_up(store, doubtful, *["error"] * 15)

    store.command(doubtful, "retry", now=T0 + 861)

    assert claim(store, doubtful, T0 + 861).look_first


def test_the_next_look_up_is_handed_out_when_its_time_has_come(store: CallStore, doubtful: str) -> None:
    assert store.dispatch(9, now=T0 + 20).look_up == [doubtful]
    looked_up(store, doubtful, "absent", at=T0 + 22)

    assert store.dispatch(9, now=T0 + 81).look_up == ()
    assert store.dispatch(9, now=T0 + 82).look_up == [doubtful]
