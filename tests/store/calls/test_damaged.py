"""A call that cannot be read, after a stranger's command or a bug of ours, stops no other and goes to an operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from resilience.calls.call import State
from resilience.calls.store import BACKLOG_CHECK, CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.store.events import Event
from tests.store import steps
from tests.store.steps import LEASE, T0, add, attempt, claim, refused, trip

RETENTION = 30 * 24 * 3600.0
CALL = "{lineman}:call:spring:2"

DAMAGES: dict[str, Callable[[redis.Redis], object]] = {
    "another type": lambda client: (client.delete(CALL), client.set(CALL, "x")),
    "no state": lambda client: client.hdel(CALL, "state"),
    "an unknown state": lambda client: client.hset(CALL, "state", "ringing"),
    "no service": lambda client: client.hdel(CALL, "service"),
    "no creation": lambda client: client.hdel(CALL, "created"),
    "no phone": lambda client: client.hdel(CALL, "phone"),
    "no number": lambda client: client.hset(CALL, "attempts", "many"),
    "not a number": lambda client: client.hset(CALL, "seq", "nan"),
    "another's id": lambda client: client.hset(CALL, "id", "spring:1"),
}


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest, client: redis.Redis) -> Callable[[], object]:
    return lambda: DAMAGES[request.param](client)


def reports(client: redis.Redis) -> list[tuple[str, str]]:
    events = [fields for _, fields in client.xrange("{lineman}:events")]
    return [(e["call_id"], e["service"]) for e in events if e["event"] == Event.CALL_DAMAGED]


def end(store: CallStore, now: float = T0) -> None:
    for call in list(store.calls()):
        store.command(call["id"], "cancel", now=now)


def test_a_damaged_call_needs_review_is_reported_once_and_the_others_go_on(
    client: redis.Redis, store: CallStore, damage: Callable[[], object]
) -> None:
    one, two, three = add(store, "1", "2", "3")
    store.dispatch(9, now=T0)
    damage()
    late = T0 + BACKLOG_CHECK + 60

    works = [store.dispatch(9, now=late + BACKLOG_CHECK * n) for n in range(3)]

    assert [list(work.place) for work in works] == [[one, three]] * 3
    assert reports(client) == [(two, "elevenlabs")]
    [damaged] = store.calls(state=State.NEEDS_REVIEW)
    assert (damaged["id"], damaged["campaign"], damaged["contact_id"]) == (two, "spring", "2")
    assert damaged["reason"].startswith("damaged: ")
    assert store.stats()["needs_review"] == 1
    end(store)


def test_a_damaged_call_stops_no_release(
    client: redis.Redis, store: CallStore, gate: CircuitBreaker, damage: Callable[[], object]
) -> None:
    one, two, three = add(store, "1", "2", "3")
    trip(gate)
    for id in (one, two, three):
        refused(store, id)
    gate.control("close", by="ada", now=T0)
    damage()

    placed = [id for n in range(9) for id in store.dispatch(9, now=T0 + n).place]

    assert placed == [one, three]
    assert reports(client) == [(two, "elevenlabs")]
    assert client.zcard("{lineman}:deferred:elevenlabs") == 0
    end(store)


@pytest.mark.parametrize("damage", [{"looks": "x"}, {"state": "in_doubt", "looks": "1"}])
def test_a_damaged_call_that_may_have_rung_is_not_dialed_again(
    client: redis.Redis, store: CallStore, damage: dict[str, str]
) -> None:
    one, two, three = add(store, "1", "2", "3")
    for id in (one, two, three):
        claim(store, id)
    client.hset(CALL, mapping=damage)

    work = store.dispatch(9, now=T0 + LEASE)

    assert (work.place, work.look_up) == ((), [one, three])
    assert store.get(two)["state"] == State.NEEDS_REVIEW
    store.command(two, "retry", now=T0 + LEASE)
    assert claim(store, two, T0 + LEASE).must_look
    for id in store.dispatch(9, now=T0 + 3 * LEASE).look_up:
        store.resolve(id, int(store.get(id)["looks"]), "found", ["conv_1"], now=T0 + 3 * LEASE)


def test_a_damaged_call_that_has_expired_is_forgotten(
    client: redis.Redis, store: CallStore, damage: Callable[[], object]
) -> None:
    for id in add(store, "1", "2", "3"):
        attempt(store, id, steps.PLACED)
    damage()

    store.dispatch(9, now=T0 + RETENTION)

    assert list(store.calls()) == []
    assert not client.exists("{lineman}:calls", CALL)


def test_a_damaged_history_stops_no_call(client: redis.Redis, store: CallStore) -> None:
    one, two = add(store, "1", "2")
    claim(store, one)
    claim(store, two)
    client.delete("{lineman}:history:spring:1")
    client.set("{lineman}:history:spring:1", "x", px=60_000)

    assert store.dispatch(9, now=T0 + LEASE).look_up == [one, two]
    for id in (one, two):
        store.resolve(id, 0, "found", ["conv_1"], now=T0 + LEASE)
