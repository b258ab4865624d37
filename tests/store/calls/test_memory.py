"""A store without memory asks whether it is new; one that lost its data looks calls up before it dials them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import redis

from resilience.calls.call import Claim, NotBegun, State
from resilience.calls.processor import CallProcessor
from resilience.calls.store import CallStore
from resilience.config.settings import Settings
from resilience.errors import TransientError
from resilience.store.events import Event
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import LEASE, PLACED, T0, attempt, claim, contact

RETENTION = 30 * 24 * 3600.0


@dataclass
class Provider:
    """Remembers what rang. `asked` counts the questions whether it has called before."""

    rang: list[str] = field(default_factory=list)
    asked: int = 0
    away: bool = False

    def dial(self, *, call_id: str, **_: object) -> str:
        self.rang.append(call_id)
        return f"conv_{len(self.rang)}"

    def look_up(self, call_id: str, *_: object, **__: object) -> list[Found]:
        return [Found(f"conv_{n}") for n, id in enumerate(self.rang, 1) if id == call_id]

    def has_called(self) -> bool:
        self.asked += 1
        if self.away:
            raise TransientError("503", service="elevenlabs")
        return bool(self.rang)


@dataclass(frozen=True)
class Found:
    id: str
    attempt_id: str = ""
    ours: bool = True


@pytest.fixture
def store(scripts: Scripts, settings: Settings) -> CallStore:
    return CallStore(scripts, settings)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def processor(store: CallStore, provider: Provider, settings: Settings) -> CallProcessor:
    return CallProcessor(store, provider, settings, clock=lambda: 0.0)


def enqueue(store: CallStore, *ids: str, now: float | None = None) -> list[str]:
    store.enqueue([contact(id) for id in ids], "spring", now=now)
    return [f"spring:{id}" for id in ids]


def lost(store: CallStore, *, now: float = T0) -> None:
    """The data of a store are lost, and somebody has found that out."""
    store.scripts.client.flushall()
    store.remember(True, now=now)


def test_a_new_store_asks_once_and_dials_at_once(
    store: CallStore, processor: CallProcessor, provider: Provider
) -> None:
    one, two = enqueue(store, "1", "2")

    results = [processor.process(id).state for id in (one, two)]

    assert (results, provider.rang, provider.asked) == ([State.PLACED] * 2, [one, two], 1)


def test_a_list_that_is_sent_again_after_the_data_were_lost_rings_nobody_twice(
    client: redis.Redis, store: CallStore, processor: CallProcessor, provider: Provider
) -> None:
    ids = enqueue(store, *"12345")
    for id in ids:
        processor.process(id)
    client.flushall()

    enqueue(store, *"12345")
    waiting = [processor.process(id).state for id in ids]
    server = client.hgetall("{lineman}:server")
    client.hset("{lineman}:server", "lost_at", int(server["lost_at"]) - int(LEASE * 1000))
    for id in ids:
        client.hdel(f"{{lineman}}:call:{id}", "not_before")
    adopted = [processor.process(id).state for id in ids]

    assert (waiting, adopted) == ([State.QUEUED] * 5, [State.PLACED] * 5)
    assert provider.rang == ids
    events = [fields["event"] for _, fields in client.xrange("{lineman}:events")]
    assert events.count(Event.STORE_MEMORY_LOST) == 1


def test_while_nobody_knows_whether_it_is_new_nothing_is_dialed(
    client: redis.Redis, store: CallStore, processor: CallProcessor, provider: Provider
) -> None:
    [id] = enqueue(store, "1")
    provider.away = True

    states = [processor.process(id).state for _ in range(2)]

    assert (states, provider.rang, provider.asked) == ([State.QUEUED] * 2, [], 2)
    assert client.zscore("{lineman}:due", id) is not None
    provider.away = False
    assert processor.process(id).state == State.PLACED


def test_without_memory_no_attempt_begins(store: CallStore) -> None:
    [id] = enqueue(store, "1", now=T0)
    store.dispatch(9, now=T0)

    begun = store.begin(id, "me", now=T0)

    assert isinstance(begun, NotBegun)
    assert (begun.answer, begun.state) == ("no_memory", State.QUEUED)
    created = store.begin("spring:2", "me", contact=contact("2"), campaign="spring", now=T0)
    assert isinstance(created, NotBegun)
    assert created.answer == "no_memory"
    store.remember(False)
    for again in (id, "spring:2"):
        attempt(store, again, PLACED)


def test_as_long_as_a_repeated_list_is_recognised_calls_are_looked_up_first(store: CallStore) -> None:
    lost(store)
    [soon] = enqueue(store, "1", now=T0 + RETENTION)
    [late] = enqueue(store, "2", now=T0 + RETENTION + 1)

    found = [claim(store, id, T0 + RETENTION + 2).must_look for id in (soon, late)]

    assert found == [True, False]
    for id in (soon, late):
        store.finish(claim_again(store, id), PLACED, now=T0 + RETENTION + 3)


def test_a_call_whose_dials_are_all_known_is_not_looked_up_for_the_loss(store: CallStore) -> None:
    lost(store)
    [id] = enqueue(store, "1", now=T0)
    assert claim(store, id, T0 + LEASE).must_look
    store.finish(claim_again(store, id), steps.RETRY, now=T0 + LEASE)

    again = claim(store, id, T0 + LEASE + 5)

    assert (again.look_first, again.must_look) == (True, True)
    store.finish(again, PLACED, now=T0 + LEASE + 5)
    [other] = enqueue(store, "2", now=T0 + 2 * RETENTION)
    assert not claim(store, other, T0 + 2 * RETENTION).must_look
    store.finish(claim_again(store, other), PLACED, now=T0 + 2 * RETENTION)


def claim_again(store: CallStore, id: str) -> Claim:
    """The running attempt."""
    begun = store.begin(id, store.get(id)["owner"], now=T0)
    assert isinstance(begun, Claim)
    return begun


def test_the_first_answer_counts(store: CallStore) -> None:
    """The second may have seen the calls that followed the first."""
    assert store.remember(False, now=T0)
    [id] = enqueue(store, "1", now=T0)

    assert not store.remember(True, now=T0)

    assert not claim(store, id).must_look
    store.finish(claim_again(store, id), PLACED, now=T0)


def test_a_store_of_an_older_version_has_memory(client: redis.Redis, store: CallStore) -> None:
    store.remember(False)
    [id] = enqueue(store, "1", now=T0)
    attempt(store, id, PLACED)
    client.delete("{lineman}:server")

    [id] = enqueue(store, "2", now=T0)

    assert not claim(store, id).must_look
    store.finish(claim_again(store, id), PLACED, now=T0)


def test_every_dial_carries_the_id_of_its_store(scripts: Scripts, settings: Settings, store: CallStore) -> None:
    other = CallStore(scripts, settings)
    store.remember(False)
    one, two = enqueue(store, "1", "2", now=T0)

    ids = {store.installation(), other.installation(), claim(store, one).installation, claim(other, two).installation}

    assert len(ids) == 1
    assert len(ids.pop()) == 32
    for id in (one, two):
        store.finish(claim_again(store, id), PLACED, now=T0)


def test_a_store_that_lost_its_data_has_another_id(client: redis.Redis, store: CallStore) -> None:
    before = store.installation()
    client.flushall()

    [id] = enqueue(CallStore(Scripts(client), store.settings), "1", now=T0)
    store.remember(False)
    begun = claim(CallStore(Scripts(client), store.settings), id)

    assert begun.installation != before
    assert store.installation() == begun.installation
    store.finish(begun, PLACED, now=T0)
