"""A Redis that restarted or failed over may have forgotten a dial: what is older is looked up before it is dialed.

fakeredis knows no INFO inside a script, so this is shown on the real server alone; another run id in the store's
record stands for the restart.
"""

from __future__ import annotations

import time

import pytest
import redis

from resilience.calls.call import Claim, State, Verdict
from resilience.calls.processor import CallProcessor
from resilience.calls.store import CallStore
from resilience.circuit_breaker import Outcome, Report
from resilience.config.settings import Settings
from resilience.errors import TransientError
from resilience.store.scripts import Scripts
from tests.store.steps import DOUBT, LEASE, PLACED, RETRY, T0, add, attempt, claim, make_settings, refused

SERVER = "{lineman}:server"


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def store(real_redis: redis.Redis, settings: Settings) -> CallStore:
    return CallStore(Scripts(real_redis), settings)


def restart(client: redis.Redis) -> None:
    """What the store knows of its server is now of another one."""
    client.hset(SERVER, "run_id", "0" * 40)


def test_on_a_server_that_never_changed_nothing_is_looked_up_first(store: CallStore) -> None:
    [first, second] = add(store, "1", "2")
    attempt(store, first, PLACED)

    begun = claim(store, second)

    assert (begun.look_first, begun.must_look) == (False, False)


def test_after_a_restart_an_older_call_waits_for_a_forgotten_lease_and_must_be_looked_up(
    real_redis: redis.Redis, store: CallStore
) -> None:
    [first, id] = add(store, "1", "2")
    attempt(store, first, PLACED)
    restart(real_redis)

    early = refused(store, id, T0 + 5)
    begun = claim(store, id, T0 + 5 + LEASE)

    assert early.answer == "early"
    assert begun.must_look


def test_what_came_after_the_restart_is_dialed_at_once(real_redis: redis.Redis, store: CallStore) -> None:
    [first] = add(store, "1")
    attempt(store, first, PLACED)
    restart(real_redis)
    refused(store, add(store, "2")[0], T0 + 5)
    hours_later = T0 + 7200
    [later] = add(store, "3", now=hours_later)

    assert not claim(store, later, hours_later).must_look


def test_a_list_that_is_sent_again_after_the_restart_is_looked_up(real_redis: redis.Redis, store: CallStore) -> None:
    """Its acceptance may have been forgotten together with its dials."""
    [first] = add(store, "1")
    attempt(store, first, PLACED)
    restart(real_redis)
    refused(store, add(store, "2")[0], T0 + 5)
    [again] = add(store, "3", now=T0 + 1800)

    begun = claim(store, again, T0 + 1800)

    assert begun.must_look


def test_one_that_was_looked_up_is_an_ordinary_call_again(real_redis: redis.Redis, store: CallStore) -> None:
    [first, id] = add(store, "1", "2")
    attempt(store, first, PLACED)
    restart(real_redis)
    refused(store, id, T0 + 5)

    finished = attempt(store, id, PLACED, T0 + 5 + LEASE)

    assert finished.state == State.PLACED


class Provider:
    """Finds what it is given, and counts the dials."""

    def __init__(self, *looks: object) -> None:
        self.looks, self.dials = list(looks), 0

    def dial(self, **_: object) -> str:
        self.dials += 1
        return "conv_new"

    def has_called(self) -> bool:
        return False

    def look_up(self, *_: object, **__: object) -> object:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return look


class Found:
    id, attempt_id, ours = "conv_forgotten", "spring:1:1", True


@pytest.mark.parametrize(
    ("look", "state", "conversation", "dials"),
    [
        ([Found()], State.PLACED, "conv_forgotten", 0),
        ([], State.PLACED, "conv_new", 1),
        (TransientError("503", service="elevenlabs"), State.RETRYING, None, 0),
    ],
    ids=["it had rung", "it had not", "nobody knows"],
)
def test_a_forgotten_dial_is_adopted_and_nothing_is_dialed_on_a_guess(
    real_redis: redis.Redis, look: object, state: State, conversation: str | None, dials: int
) -> None:
    settings = make_settings({"timeout": {"connect": 0.05, "read": 0.05}}, calls={"lease_margin": 0.05})
    store = CallStore(Scripts(real_redis), settings)
    provider = Provider(look)
    began = time.time() - 10  # the processor goes by the server's clock
    [first, id] = add(store, "1", "2", now=began)
    attempt(store, first, PLACED, began)
    restart(real_redis)
    assert refused(store, id, began + 1).answer == "early"

    result = CallProcessor(store, provider, settings, clock=lambda: 0.0).process(id)

    assert result.state == state
    assert store.get(id).get("conversation_id") == conversation
    assert provider.dials == dials


def test_the_dispatcher_sees_a_restart_so_that_a_call_much_later_does_not_wait(
    real_redis: redis.Redis, store: CallStore
) -> None:
    store.dispatch(9, now=T0)
    [id] = add(store, "1")
    restart(real_redis)
    store.dispatch(9, now=T0 + 1)

    assert claim(store, id, T0 + 600).must_look


def test_a_call_that_needed_review_is_not_dialed_again_on_a_guess(real_redis: redis.Redis, store: CallStore) -> None:
    """Its dial's answer was lost, and so were the look-ups': a person's retry must not ring twice either."""
    [id] = add(store, "1")
    attempt(store, id, DOUBT)
    real_redis.hset(f"{{lineman}}:call:{id}", "state", "needs_review")
    assert store.command(id, "retry", now=T0 + 60).answer == "done"

    nobody_knows = Verdict(State.RETRYING, Report(Outcome.IGNORED), delay=5, dialed=False, used=False)
    assert claim(store, id, T0 + 61).must_look
    with_error = claim_again(store, id, nobody_knows)
    not_there = store.finish(with_error, RETRY, now=T0 + 80)

    assert with_error.must_look
    assert not_there.state == State.RETRYING
    assert not claim(store, id, T0 + 200).must_look


def claim_again(store: CallStore, id: str, verdict: Verdict) -> Claim:
    """Ends the running attempt with this verdict and begins the next."""
    owner = store.get(id)["owner"]
    running = store.begin(id, owner, now=T0 + 62)
    assert isinstance(running, Claim)
    store.finish(running, verdict, now=T0 + 63)
    return claim(store, id, T0 + 70)
