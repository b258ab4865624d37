"""A full Redis refuses new contacts first, with nothing half-written, and finishes and forgets what it has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from local.redis_server import RedisServer
from resilience.calls.call import State
from resilience.calls.contacts import Contact
from resilience.calls.store import CallStore
from resilience.errors import StoreFull
from resilience.store.events import Event
from resilience.store.outbox import Outbox
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import LEASE, T0, attempt, contact, make_settings

RETENTION = 30 * 24 * 3600.0
ROOM = 6_000_000  # bytes


@pytest.fixture
def client(tmp_path: Path) -> Iterator[redis.Redis]:
    """A server of its own, which has this room and no more."""
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.config_set("maxmemory", used(client) + ROOM)
        yield client


@pytest.fixture
def store(client: redis.Redis) -> CallStore:
    store = CallStore(Scripts(client), make_settings(), ["crm"])
    store.remember(False)
    return store


def used(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def fill(store: CallStore, prefix: str = "") -> int:
    """Enqueues contacts until they are refused. Returns how many the store has."""
    people = (contact(f"{prefix}{n}", note="x" * 1000) for n in range(20_000))
    with pytest.raises(StoreFull, match="full"):
        store.enqueue(people, "spring", now=T0)
    return sum(store.stats().values())


def pretend_full(client: redis.Redis) -> None:
    """Not a byte is left, for whatever reason."""
    client.config_set("maxmemory", 1)


def test_new_contacts_are_refused_before_the_memory_is_used_up_and_none_is_half_written(
    client: redis.Redis, store: CallStore
) -> None:
    count = fill(store)
    begins = (
        store.begin(f"spring:new{n}", "me", contact=contact(f"new{n}"), campaign="spring", now=T0) for n in range(1000)
    )
    with pytest.raises(StoreFull):
        list(begins)

    assert 200 <= count < 10_000
    assert used(client) < int(client.config_get("maxmemory")["maxmemory"])
    keys = len(list(client.scan_iter("{lineman}:call:*", count=1000)))
    lines = [client.zcard(f"{{lineman}}:{key}") for key in ("calls", "due")]
    assert [keys, *lines] == [sum(store.stats().values())] * 3
    assert client.zcard("{lineman}:backlog") == store.stats()["queued"] == count
    events = [fields["event"] for _, fields in client.xrange("{lineman}:events")]
    assert events.count(Event.STORE_FULL) == 1


def test_the_calls_that_were_taken_have_room_to_their_end(client: redis.Redis, store: CallStore) -> None:
    people = (contact(str(n)) for n in range(20_000))
    with pytest.raises(StoreFull):
        store.enqueue(people, "spring", now=T0)

    for id in [call["id"] for call in store.calls()]:
        attempt(store, id, steps.PLACED)

    assert store.stats()["placed"] > 1000
    assert used(client) < int(client.config_get("maxmemory")["maxmemory"])


def test_what_is_known_already_is_no_new_contact(store: CallStore) -> None:
    fill(store)

    assert store.enqueue([contact("1")], "spring", now=T0) == (0, 1)


def test_a_full_redis_finishes_what_it_has(client: redis.Redis, store: CallStore) -> None:
    store.enqueue([contact(str(n)) for n in range(6)], "spring", now=T0)
    pretend_full(client)

    placed, failed, retried, doubtful, throttled, last = store.dispatch(9, now=T0).place
    attempt(store, placed, steps.PLACED)
    attempt(store, failed, steps.FAILED)
    attempt(store, retried, steps.RETRY)
    attempt(store, doubtful, steps.DOUBT)
    attempt(store, last, steps.PLACED)
    attempt(store, throttled, steps.THROTTLED)
    assert store.dispatch(9, now=T0 + 60).look_up == [doubtful]
    store.resolve(doubtful, 0, "found", ["conv_1"], now=T0 + 60)
    store.dispatch(9, now=T0 + 61)
    attempt(store, retried, steps.PLACED, T0 + 120)

    crm = Outbox(store.scripts, "crm")
    assert sorted(crm.take_due(again=60, now=T0 + 120)) == sorted([placed, failed, retried, doubtful, last])
    assert crm.done(placed)
    assert store.scripts.take_slot("dispatch", 60)
    assert store.command(throttled, "cancel", now=T0 + LEASE).answer == "done"


def test_a_full_redis_takes_no_new_contact_even_where_it_cannot_be_asked(client: redis.Redis, store: CallStore) -> None:
    store.enqueue([contact("1")], "spring", now=T0)
    client.acl_setuser("blind", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-info"])
    url = client.connection_pool.connection_kwargs
    pretend_full(client)
    with redis.Redis(host=url["host"], port=url["port"], username="blind", decode_responses=True) as blind:
        other = CallStore(Scripts(blind), make_settings())

        for step in (
            lambda: other.enqueue([contact("2")], "spring", now=T0),
            lambda: other.begin("spring:2", "me", contact=contact("2"), campaign="spring", now=T0),
        ):
            with pytest.raises(StoreFull):
                step()

        attempt(other, "spring:1", steps.PLACED)
    assert not client.exists("{lineman}:call:spring:2")
    assert sum(store.stats().values()) == client.zcard("{lineman}:calls") == 1


def test_a_full_redis_forgets_what_has_expired_and_then_takes_contacts_again(
    client: redis.Redis, store: CallStore
) -> None:
    count = fill(store)
    for call in list(store.calls()):
        store.command(call["id"], "cancel", now=T0)
    limit = client.config_get("maxmemory")["maxmemory"]
    pretend_full(client)
    before = used(client)

    for _ in range(count // 500 + 1):
        store.dispatch(9, now=T0 + RETENTION)

    assert store.stats()[State.CANCELLED] == 0
    assert before - used(client) > ROOM / 4
    client.config_set("maxmemory", limit)
    assert store.enqueue([Contact("new", "+4930123456")], "spring", now=T0 + RETENTION) == (1, 0)
