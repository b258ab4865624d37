"""A look-up proves by identity: with the real client, against a provider that lists more, less or at another time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from demo.stand_in import StandIn
from resilience.calls.call import State
from resilience.calls.processor import CallProcessor
from resilience.calls.store import CallStore
from resilience.store.scripts import Scripts
from services.elevenlabs import ElevenLabs
from tests.store.steps import LEASE, add, contact, make_settings
from tests.support import wait_until

Provide = Callable[..., StandIn]


@pytest.fixture
def provide() -> Iterator[Provide]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(StandIn(**options))


def processor_of(client: redis.Redis, stand_in: StandIn) -> CallProcessor:
    settings = make_settings(calls={"look_up": {"delay": 0.001}})
    dialer = ElevenLabs(
        base_url=stand_in.url, api_key="key", agent_id="agent", agent_phone_number_id="number", timeout=(3, 5)
    )
    return CallProcessor(CallStore(Scripts(client), settings), dialer, settings)


def looked_up(processor: CallProcessor, id: str) -> str:
    """The call's state after its first look-up, which must find that it did not ring."""
    wait_until(lambda: processor.look_up(id) and processor.store.get(id)["looks"] != "0", what="the look-up to be due")
    assert processor.store.get(id)["absent"] == "1"
    return processor.store.get(id)["state"]


@pytest.mark.parametrize("behind", [120, 7200, -7200], ids=["2 minutes behind", "2 hours behind", "2 hours ahead"])
def test_the_providers_clock_does_not_matter(real_redis: redis.Redis, provide: Provide, behind: float) -> None:
    """The look-up asked for conversations since the dial on Redis's clock; 13 of 20 contacts rang twice."""
    stand_in = provide(clock=lambda: time.time() - behind)
    stand_in.fault("elevenlabs", "dial", "accept_then_fin", count=1)
    processor = processor_of(real_redis, stand_in)
    [id] = add(processor.store, "1")
    assert processor.process(id).state == State.IN_DOUBT

    assert processor.look_up(id).state == State.PLACED

    [rang] = stand_in.rang
    assert processor.store.get(id)["conversation_id"] == rang.conversation_id


def test_a_filter_that_the_provider_ignores_adopts_nobody_elses_conversation(
    real_redis: redis.Redis, provide: Provide
) -> None:
    """One contact adopted another's conversation: `placed`, and never called."""
    stand_in = provide()
    processor = processor_of(real_redis, stand_in)
    first, second = add(processor.store, "1", "2")
    assert processor.process(first).state == State.PLACED
    stand_in.fault("elevenlabs", "dial", "internal_error", count=1)
    stand_in.fault("elevenlabs", "conversations", "filter_ignored")
    assert processor.process(second).state == State.IN_DOUBT

    assert looked_up(processor, second) == State.IN_DOUBT


def test_two_installations_in_one_workspace_do_not_see_each_other(
    real_redis: redis.Redis, fake_redis: redis.Redis, provide: Provide
) -> None:
    stand_in = provide()
    production, staging = processor_of(real_redis, stand_in), processor_of(fake_redis, stand_in)
    [id] = add(production.store, "1")
    assert add(staging.store, "1") == [id]
    assert production.process(id).state == State.PLACED
    stand_in.fault("elevenlabs", "dial", "internal_error", count=1)
    assert staging.process(id).state == State.IN_DOUBT

    assert looked_up(staging, id) == State.IN_DOUBT


def test_a_store_that_lost_its_data_leaves_what_it_called_before_to_an_operator(
    real_redis: redis.Redis, provide: Provide
) -> None:
    stand_in = provide()
    processor = processor_of(real_redis, stand_in)
    [id] = add(processor.store, "1")
    assert processor.process(id).state == State.PLACED

    real_redis.flushall()
    again = processor_of(real_redis, stand_in)
    again.store.remember(again.dialer.has_called(), now=time.time() - LEASE - 1)
    again.store.enqueue([contact("1")], "spring")
    again.process(id)

    assert len(stand_in.rang) == 1
    call = again.store.get(id)
    assert call["state"] == State.NEEDS_REVIEW
    assert stand_in.rang[0].conversation_id in call["reason"]
