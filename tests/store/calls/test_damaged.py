"""A call that cannot be read, after a stranger's command or a bug of ours: it stops no other, and is reported once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

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


def end(client: redis.Redis, store: CallStore) -> None:
    """The damaged call is removed by hand, the others end."""
    client.delete(CALL, "{lineman}:history:spring:2", "{lineman}:damaged")
    for key in ("due", "calls", "backlog", "deferred:elevenlabs"):
        client.zrem(f"{{lineman}}:{key}", "spring:2")
    for call in list(store.calls()):
        store.command(call["id"], "cancel", now=T0)


def test_a_damaged_call_is_reported_once_and_the_others_go_on(
    client: redis.Redis, store: CallStore, damage: Callable[[], object]
) -> None:
    one, two, three = add(store, "1", "2", "3")
    store.dispatch(9, now=T0)
    damage()
    late = T0 + BACKLOG_CHECK + 60

    works = [store.dispatch(9, now=late + BACKLOG_CHECK * n) for n in range(3)]

    assert [list(work.place) for work in works] == [[one, three]] * 3
    assert reports(client) == [(two, "elevenlabs")]
    assert store.damaged().keys() == {two}
    assert [call["id"] for call in store.calls() if call["id"] == three] == [three]
    end(client, store)


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
    end(client, store)


def test_a_damaged_call_that_is_in_doubt_or_being_dialed_stops_no_look_up(
    client: redis.Redis, store: CallStore
) -> None:
    one, two, three = add(store, "1", "2", "3")
    for id in (one, two, three):
        claim(store, id)
    client.hset(CALL, "looks", "x")

    assert store.dispatch(9, now=T0 + LEASE).look_up == [one, three]
    client.hset(CALL, mapping={"state": "in_doubt", "looks": "1"})
    assert store.dispatch(9, now=T0 + LEASE + BACKLOG_CHECK).look_up == [one, three]
    end(client, store)
    for id in (one, three):
        store.resolve(id, 0, "found", ["conv_1"], now=T0 + LEASE)


def test_a_call_that_was_repaired_goes_on(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "2")
    client.hset(CALL, "attempts", "many")
    store.dispatch(9, now=T0 + BACKLOG_CHECK)
    assert store.damaged() == {id: "attempts is no number"}

    client.hset(CALL, "attempts", "0")

    assert store.dispatch(9, now=T0 + 2 * BACKLOG_CHECK).place == [id]
    assert store.damaged() == {}
    attempt(store, id, steps.PLACED, T0 + 2 * BACKLOG_CHECK)


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
