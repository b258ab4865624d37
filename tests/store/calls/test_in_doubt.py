"""A dial that may or may not have rung: only look-ups decide, each counts once and none before its time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from resilience.calls.store import CallStore
from tests.store import steps
from tests.store.steps import T0, add, attempt, claim
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

    told = [fields for _, fields in client.xrange("{lineman}:events") if fields["event"] == "call_rang_twice"]
    assert [fields["conversation_id"] for fields in told] == ["conv_7 conv_8"]


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

    told = [
        int(at["at"]) / 1000 - T0 for _, at in client.xrange("{lineman}:events") if at["event"] == "call_doubt_long"
    ]
    assert told == [320, 1320]


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


def test_a_worker_that_comes_back_after_its_call_was_taken_up_is_stale(store: CallStore) -> None:
    [id] = add(store, "1")
    lost = claim(store, id)
    store.dispatch(9, now=T0 + steps.LEASE)

    assert store.finish(lost, steps.PLACED, now=T0 + 50).answer == "stale"

    assert store.resolve(id, 0, "found", ["conv_1"], now=T0 + 51).state == "placed"


def test_a_person_s_retry_of_a_call_that_was_in_doubt_looks_first(store: CallStore, doubtful: str) -> None:
    looked_up(store, doubtful, *["error"] * 15)

    store.command(doubtful, "retry", now=T0 + 861)

    assert claim(store, doubtful, T0 + 861).look_first


def test_the_next_look_up_is_handed_out_when_its_time_has_come(store: CallStore, doubtful: str) -> None:
    assert store.dispatch(9, now=T0 + 20).look_up == [doubtful]
    looked_up(store, doubtful, "absent", at=T0 + 22)

    assert store.dispatch(9, now=T0 + 81).look_up == ()
    assert store.dispatch(9, now=T0 + 82).look_up == [doubtful]
