"""Outboxes: a call that ends is in each one that is on, and what is taken comes again until it is done."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis

from resilience.calls.call import Verdict
from resilience.calls.store import CallStore
from resilience.config.settings import Settings
from resilience.store.outbox import Outbox
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import T0, add, attempt, claim


@pytest.fixture
def outboxes(scripts: Scripts) -> Sequence[Outbox]:
    return [Outbox(scripts, "crm"), Outbox(scripts, "results")]


@pytest.fixture
def store(scripts: Scripts, settings: Settings) -> CallStore:
    return CallStore(scripts, settings, ["crm", "results"])


@pytest.mark.parametrize("verdict", [steps.PLACED, steps.FAILED])
def test_a_call_that_ends_is_in_each_outbox_that_is_on(
    scripts: Scripts, store: CallStore, outboxes: Sequence[Outbox], verdict: Verdict
) -> None:
    [id] = add(store, "1")
    begun = claim(store, id)
    assert [outbox.take_due(again=60, now=T0) for outbox in outboxes] == [[], []]

    store.finish(begun, verdict, now=T0)

    assert [outbox.take_due(again=60, now=T0) for outbox in outboxes] == [[id], [id]]
    assert Outbox(scripts, "other").take_due(again=60, now=T0) == []


def test_a_call_that_goes_on_is_in_no_outbox(store: CallStore, outboxes: Sequence[Outbox]) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.RETRY)

    assert not any(outbox.waits(id) for outbox in outboxes)
    store.command(id, "cancel", now=T0)


def test_what_is_taken_comes_again_until_it_is_done(store: CallStore, outboxes: Sequence[Outbox]) -> None:
    crm, results = outboxes
    [id] = add(store, "1")
    attempt(store, id, steps.PLACED)

    assert [crm.take_due(again=60, now=T0 + n) for n in (0, 59, 60, 61)] == [[id], [], [id], []]
    assert (crm.done(id), crm.done(id), crm.waits(id)) == (True, False, False)
    assert (crm.take_due(again=60, now=T0 + 999), results.waits(id)) == ([], True)


def test_what_is_put_off_comes_at_its_time_and_what_is_done_does_not(
    store: CallStore, outboxes: Sequence[Outbox]
) -> None:
    crm, _ = outboxes
    [id] = add(store, "1")
    attempt(store, id, steps.PLACED)

    assert crm.later(id, 30.5, now=T0)
    assert [crm.take_due(again=60, now=T0 + n) for n in (30.499, 30.5)] == [[], [id]]
    crm.done(id)

    assert not crm.later(id, 1, now=T0)
    assert not crm.waits(id)


def test_the_oldest_are_taken_first(client: redis.Redis, store: CallStore, outboxes: Sequence[Outbox]) -> None:
    crm, _ = outboxes
    for n, id in enumerate(add(store, *"312")):
        attempt(store, id, steps.PLACED, T0 + n)

    assert crm.take_due(again=60, most=2, now=T0 + 9) == ["spring:3", "spring:1"]
    assert crm.take_due(again=60, most=2, now=T0 + 9) == ["spring:2"]
    assert client.pttl(crm.key) > 0
