"""The dispatcher: whatever gets lost comes due again, and what waited for a gate comes back slowly at first."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence

import pytest
import redis

from resilience.calls.store import BACKLOG_CHECK, CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.store.scripts import Scripts
from tasks.dispatch import STRAY_LISTS
from tests.store import steps
from tests.store.steps import LEASE, OK, REPUBLISH, T0, add, attempt, claim, contact, look, make_settings, refused, trip
from tests.support import dump

MONTH = 30 * 24 * 3600.0


def deferred(store: CallStore, gate: CircuitBreaker, *ids: str) -> Sequence[str]:
    """Calls that wait for their gate, which was closed again at T0 + 31."""
    calls = add(store, *ids)
    trip(gate)
    for id in calls:
        refused(store, id)
    gate.report(gate.admit("probe", LEASE, now=T0 + 30), OK, now=T0 + 31)
    return calls


def released(store: CallStore, seconds: Sequence[float]) -> list[int]:
    """How many calls each of these ticks hands out."""
    return [len(store.dispatch(1000, now=T0 + second).place) for second in seconds]


def test_the_first_in_line_go_first_and_no_more_than_there_is_room_for(store: CallStore) -> None:
    for n in (1, 2, 3):
        add(store, str(n), now=T0 + n)

    assert store.dispatch(2, now=T0 + 9).place == ["spring:1", "spring:2"]
    assert store.dispatch(0, now=T0 + 9).place == ()
    assert store.dispatch(-5, now=T0 + 9).place == ()
    assert store.dispatch(2, now=T0 + 9).place == ["spring:3"]
    assert store.dispatch(2, now=T0 + 9).place == ()


SHUFFLED = [str(n) for n in random.Random(7).sample(range(900), 900)]


def test_a_list_is_called_in_the_order_of_its_lines(store: CallStore) -> None:
    calls = add(store, *SHUFFLED)
    later = add(store, "z", "a", now=T0 - 3600)  # the clock was set back

    assert store.dispatch(1000, now=T0).place == calls + later


def test_what_is_deferred_or_retried_keeps_its_place_in_line(store: CallStore, gate: CircuitBreaker) -> None:
    calls = deferred(store, gate, *SHUFFLED[:7])
    for id in reversed(calls[:3]):
        gate.control("close", by="ada", now=T0 + 31)
        store.command(id, "cancel", now=T0 + 31)
        store.command(id, "retry", now=T0 + 31)

    placed = [id for n in range(9) for id in store.dispatch(1000, now=T0 + 31 + n).place]

    assert placed == calls


def test_a_call_of_an_older_version_goes_before_the_new_ones(client: redis.Redis, store: CallStore) -> None:
    old, new = add(store, "2", now=T0 - 60), add(store, "1")
    client.hdel(f"{{lineman}}:call:{old[0]}", "seq")
    client.delete("{lineman}:backlog")

    assert store.dispatch(9, now=T0 + BACKLOG_CHECK).place == old + new


def test_a_lost_message_is_published_again(store: CallStore) -> None:
    [id] = add(store, "1")
    assert store.dispatch(9, now=T0).place == [id]

    assert store.dispatch(9, now=T0 + REPUBLISH - 1).place == ()

    assert store.dispatch(9, now=T0 + REPUBLISH).place == [id]
    assert store.dispatch(9, now=T0 + 2 * REPUBLISH).place == [id]


def test_a_lost_retry_is_published_again_after_its_delay(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.RETRY)

    assert store.dispatch(9, now=T0 + 5 + REPUBLISH - 1).place == ()
    assert store.dispatch(9, now=T0 + 5 + REPUBLISH).place == [id]


def test_a_call_that_was_handed_back_is_handed_out_at_once(store: CallStore) -> None:
    [id] = add(store, "1")
    store.dispatch(9, now=T0)
    attempt(store, id, steps.HANDED_BACK)

    assert store.dispatch(9, now=T0).place == [id]


def test_a_killed_worker_s_call_is_in_doubt_and_looked_up_at_once(store: CallStore) -> None:
    [id] = add(store, "1")
    claim(store, id)
    assert store.dispatch(9, now=T0 + LEASE - 0.001).look_up == ()

    work = store.dispatch(9, now=T0 + LEASE)

    assert (work.place, work.look_up) == ((), [id])
    assert store.get(id)["state"] == "in_doubt"


def test_a_lost_look_up_is_handed_out_again(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.DOUBT)
    assert store.dispatch(9, now=T0 + 19).look_up == ()
    assert store.dispatch(9, now=T0 + 20).look_up == [id]

    assert store.dispatch(9, now=T0 + 20 + 2 * LEASE - 1).look_up == ()
    assert store.dispatch(9, now=T0 + 20 + 2 * LEASE).look_up == [id]


def test_a_full_batch_says_that_there_is_more(store: CallStore) -> None:
    for id in add(store, *"123"):
        claim(store, id)

    works = [store.dispatch(0, batch=1, now=T0 + LEASE) for _ in range(4)]

    assert [work.more for work in works] == [True, True, True, False]
    assert sorted(id for work in works for id in work.look_up) == [f"spring:{n}" for n in range(1, 4)]


def test_nothing_to_do_changes_no_call(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    store.dispatch(9, now=T0)
    before = dump(client)

    store.dispatch(9, now=T0 + 1)

    changed = {key for key, value in dump(client).items() if before.get(key) != value}
    assert changed <= {"{lineman}:dispatched"}
    assert store.get(id)["state"] == "queued"


def test_deferred_calls_are_released_slowly_at_first_then_doubling(store: CallStore, gate: CircuitBreaker) -> None:
    deferred(store, gate, *(str(n) for n in range(200)))

    assert released(store, [31.5, 32, 33, 34, 35, 36, 37, 38, 39]) == [0, 2, 4, 8, 16, 32, 50, 50, 38]


def test_ticks_in_quick_succession_release_no_more(store: CallStore, gate: CircuitBreaker) -> None:
    deferred(store, gate, *(str(n) for n in range(20)))

    assert sum(released(store, [31 + n / 10 for n in range(21)])) <= 2 + 4


@pytest.mark.parametrize("settings", [make_settings({"release": {"rate": 0.25, "max_rate": 0.25}})])
def test_a_rate_below_one_a_second_releases_a_call_now_and_then(store: CallStore, gate: CircuitBreaker) -> None:
    deferred(store, gate, *"1234")

    assert released(store, range(32, 48)) == [0, 0, 0, 1] * 4


def test_after_a_pause_the_rate_starts_low_too(store: CallStore) -> None:
    first, *_ = add(store, *(str(n) for n in range(40)))
    attempt(store, first, steps.THROTTLED)
    store.dispatch(1000, now=T0)
    for n in range(1, 40):
        refused(store, f"spring:{n}", T0 + 1)

    assert released(store, [6, 7, 8, 9, 10]) == [0, 1, 2, 4, 8]


def test_a_half_open_gate_gets_as_many_as_it_has_permits(store: CallStore, gate: CircuitBreaker) -> None:
    calls = add(store, *"123")
    trip(gate)
    for id in calls:
        refused(store, id)
    assert store.dispatch(9, now=T0 + 29).place == ()

    [probe] = store.dispatch(9, now=T0 + 30).place
    assert store.dispatch(9, now=T0 + 30.5).place == ()
    begun = claim(store, probe, T0 + 30.5)
    assert store.dispatch(9, now=T0 + 40).place == ()
    store.finish(begun, steps.PLACED, now=T0 + 41)

    assert len(store.dispatch(9, now=T0 + 43).place) == 2


@pytest.mark.parametrize("settings", [make_settings({"circuit_breaker": {"half_open_calls": 3}})])
def test_a_permit_that_is_lent_releases_no_other_call(store: CallStore, gate: CircuitBreaker) -> None:
    calls = add(store, *"1234")
    trip(gate)
    for id in calls:
        refused(store, id)
    gate.admit("probe", LEASE, now=T0 + 30)

    assert len(store.dispatch(9, now=T0 + 31).place) == 2


def test_a_released_probe_whose_message_got_lost_does_not_shut_the_gate_for_good(
    store: CallStore, gate: CircuitBreaker
) -> None:
    calls = add(store, *"12")
    trip(gate)
    for id in calls:
        refused(store, id)

    [lost] = store.dispatch(9, now=T0 + 30).place
    [other] = store.dispatch(9, now=T0 + 31).place

    assert sorted([lost, other]) == calls
    attempt(store, other, steps.PLACED, T0 + 32)
    assert store.dispatch(9, now=T0 + 60).place == [lost]


def test_a_held_gate_releases_nothing_until_it_is_released(store: CallStore, gate: CircuitBreaker) -> None:
    first, second = add(store, "1", "2")
    attempt(store, first, steps.HELD)
    refused(store, second)
    assert store.dispatch(9, now=T0 + 1e5).place == ()

    gate.control("release", by="ada", now=T0 + 1e5)

    assert store.dispatch(9, now=T0 + 1e5 + 1).place == [first]


def test_a_deferred_call_that_fell_out_of_its_line_is_put_back(
    client: redis.Redis, store: CallStore, gate: CircuitBreaker
) -> None:
    [id] = deferred(store, gate, "1")
    client.delete(gate.scripts.key("deferred", gate.service))

    assert store.dispatch(9, now=T0 + BACKLOG_CHECK - 1).place == ()
    assert store.dispatch(9, now=T0 + BACKLOG_CHECK).place == [id]


def test_a_queued_call_that_fell_out_of_its_line_is_put_back(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    client.delete("{lineman}:backlog")

    assert store.dispatch(9, now=T0 + BACKLOG_CHECK - 1).place == ()
    assert store.dispatch(9, now=T0 + BACKLOG_CHECK).place == [id]


def test_a_finished_call_is_forgotten_after_retention_with_its_count(client: redis.Redis, store: CallStore) -> None:
    placed, failed = add(store, "1", "2")
    attempt(store, placed, steps.PLACED)
    attempt(store, failed, steps.FAILED, T0 + 60)

    store.dispatch(9, now=T0 + MONTH - 1)
    assert store.enqueue([contact("1")], "spring", now=T0 + MONTH - 1) == (0, 1)
    store.dispatch(9, now=T0 + MONTH)

    assert (store.get(placed), store.history(placed)) == ({}, [])
    assert (store.stats()["placed"], store.stats()["failed"]) == (0, 1)
    store.dispatch(9, now=T0 + MONTH + 60)
    assert sum(store.stats().values()) == 0
    assert not client.exists("{lineman}:calls")
    assert store.enqueue([contact("1")], "spring", now=T0 + MONTH + 60) == (1, 0)


def test_a_call_that_a_person_took_up_again_is_not_forgotten(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.FAILED)
    store.command(id, "retry", now=T0 + MONTH - 1)

    store.dispatch(9, now=T0 + 3 * MONTH)

    assert store.get(id)["state"] == "queued"
    assert {client.ttl(f"{{lineman}}:{key}") for key in (f"call:{id}", f"history:{id}", "calls", "due")} == {-1}


def test_the_index_stays_while_one_call_is_under_way(client: redis.Redis, store: CallStore) -> None:
    waiting, placed = add(store, "1", "2")

    attempt(store, placed, steps.PLACED)
    assert client.ttl("{lineman}:calls") == -1
    attempt(store, waiting, steps.PLACED)
    assert client.ttl("{lineman}:calls") > MONTH

    add(store, "3")
    assert client.ttl("{lineman}:calls") == -1


def test_one_runner_a_slot(client: redis.Redis) -> None:
    one, other = Scripts(client), Scripts(client)

    assert one.take_slot("dispatch", 60)

    assert not other.take_slot("dispatch", 60)
    assert other.take_slot("alerts", 60)
    assert 0 < client.pttl(one.key("slot", "dispatch")) <= 60_000


def test_a_gate_s_view_says_when_the_next_call_may_go(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    trip(gate)
    refused(store, id)

    seen = look(gate, T0 + 12)

    assert (seen["retry_after"], seen["deferred"]) == (18_000, 1)


def test_a_slot_that_a_clock_set_back_made_longer_than_its_length_is_free(
    client: redis.Redis, scripts: Scripts
) -> None:
    assert scripts.take_slot("dispatch", 60)
    client.pexpire(scripts.key("slot", "dispatch"), 3_600_000)

    assert scripts.take_slot("dispatch", 60)

    assert not scripts.take_slot("dispatch", 60)
    assert 0 < client.pttl(scripts.key("slot", "dispatch")) <= 60_000


OURS = json.dumps({"body": "W10=", "headers": {"task": "tasks.calls.place_call", "id": "1"}})


def adopt(scripts: Scripts, most: int = 100) -> int:
    return int(scripts.run("adopt_strays", {**STRAY_LISTS, "most": most, "kept": 60_000}))


def test_a_call_sent_without_a_queue_is_adopted_and_somebody_else_s_message_is_not(
    client: redis.Redis, scripts: Scripts
) -> None:
    mentions = json.dumps({"body": "tasks.calls.place_call", "headers": {"task": "shop.send_invoice"}})
    theirs = [mentions, "no JSON: tasks.calls.place_call", "[]", '{"headers": 7}']
    client.lpush("celery", theirs[0], OURS, *theirs[1:])

    moved = [adopt(scripts), adopt(scripts)]

    assert moved == [1, 0]
    assert client.lrange("calls", 0, -1) == [OURS]
    assert client.lrange("celery", 0, -1) == theirs[::-1]


def test_what_was_sent_with_a_priority_is_adopted_too(client: redis.Redis, scripts: Scripts) -> None:
    client.lpush("calls\x06\x169", OURS, "broken")
    client.lpush("celery\x06\x163", OURS + " ", json.dumps({"headers": {"task": "shop.send_invoice"}}))

    moved = [adopt(scripts), adopt(scripts)]

    assert moved == [3, 0]
    assert set(client.lrange("calls", 0, -1)) == {OURS, "broken", OURS + " "}
    assert client.llen("celery\x06\x163") == 1


@pytest.mark.parametrize("before", ["", "x", "xx"])
@pytest.mark.parametrize("space", [" ", ""])
def test_a_call_of_protocol_1_is_adopted_although_only_its_body_names_the_task(
    client: redis.Redis, scripts: Scripts, before: str, space: str
) -> None:
    body = f'{{"id": "{before}", "task":{space}"tasks.calls.place_call", "args": []}}'
    message = json.dumps({"body": base64.b64encode(body.encode()).decode(), "headers": {}})
    theirs = json.dumps({"body": base64.b64encode(body.encode()).decode(), "headers": {"task": "shop.send_invoice"}})
    client.lpush("celery", message, theirs)

    assert adopt(scripts) == 1
    assert client.lrange("celery", 0, -1) == [theirs]


def test_messages_that_stay_hide_no_call_behind_them(client: redis.Redis, scripts: Scripts) -> None:
    theirs = [json.dumps({"headers": {"task": "shop.send_invoice", "id": n}}) for n in range(350)]
    client.lpush("celery", *theirs[:250], OURS, *theirs[250:], OURS + " ")

    moved = [adopt(scripts) for _ in range(4)]
    client.lpush("celery", OURS + "  ")
    again = [adopt(scripts) for _ in range(4)]

    assert (moved, again) == ([0, 0, 1, 1], [0, 0, 0, 1])
    assert client.lrange("calls", 0, -1) == [OURS + "  ", OURS + " ", OURS]
    assert client.lrange("celery", 0, -1) == theirs[::-1]
