"""The tasks in Celery's eager mode, on a fake Redis and a real stand-in: no worker, no broker, no waiting.

`task_eager_propagates` stays False: with True the first Retry leaves to the caller and nothing is retried.
"""

from __future__ import annotations

from collections.abc import Iterator

import fakeredis
import pytest

from demo.stand_in import StandIn
from resilience.calls.call import State
from resilience.config.settings import load
from resilience.errors import InvalidContact, PermanentError
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.alerts import deliver
from tasks.calls import look_up, place_call
from tasks.celery import app
from tasks.producer import enqueue
from tests.support import ROOT

CONTACT = {"id": "1", "phone": "+14155550111", "name": "Ada"}


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def eager(fake_redis: fakeredis.FakeRedis, provider: StandIn) -> Iterator[runtime.Runtime]:
    environment = {"ELEVEN_BASE_URL": provider.url, "ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    built = runtime.build(load(str(ROOT / "config.yml"), environment), Scripts(fake_redis))
    built.store.remember(False)
    runtime.install(built)
    app.conf.update(task_always_eager=True, task_eager_propagates=False)
    yield built
    app.conf.update(task_always_eager=False)
    runtime.install(None)


def dials(provider: StandIn) -> list[str]:
    return [r.attempt_id for r in provider.requests if r.endpoint == "dial"]


@pytest.mark.usefixtures("eager")
def test_a_contact_is_called(provider: StandIn) -> None:
    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert result.result == {"call_id": "spring:1", "state": "placed", "attempt": 1}
    assert [(r.call_id, r.attempt_id) for r in provider.rang] == [("spring:1", "spring:1:1")]


def test_a_transient_failure_is_retried_until_the_attempts_are_spent(eager: runtime.Runtime, provider: StandIn) -> None:
    provider.outage("elevenlabs")

    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert isinstance(result.result, PermanentError)
    assert dials(provider) == [f"spring:1:{n}" for n in (1, 2, 3, 4)]
    assert eager.store.get("spring:1")["state"] == State.FAILED
    assert eager.scripts.client.hget("{lineman}:cb:elevenlabs", "state") == "open"


def test_an_open_gate_defers_the_next_contact_without_a_request(eager: runtime.Runtime, provider: StandIn) -> None:
    eager.breakers["elevenlabs"].control("open", by="test")

    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert result.result["state"] == State.DEFERRED
    assert dials(provider) == []


@pytest.mark.usefixtures("eager")
def test_a_permanent_failure_of_the_contact_is_not_retried(provider: StandIn) -> None:
    provider.fault("elevenlabs", "dial", "invalid_number")

    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert isinstance(result.result, PermanentError)
    assert dials(provider) == ["spring:1:1"]


def test_the_second_attempt_adopts_a_call_that_rang_after_all(eager: runtime.Runtime, provider: StandIn) -> None:
    provider.fault("elevenlabs", "dial", "accept_then_503", count=1)

    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert result.result["state"] == State.PLACED
    assert len(provider.rang) == 1
    assert eager.store.get("spring:1")["conversation_id"] == provider.rang[0].conversation_id


def test_a_lost_answer_is_looked_up(eager: runtime.Runtime, provider: StandIn) -> None:
    provider.fault("elevenlabs", "dial", "accept_then_500", count=1)
    place_call.delay(contact=CONTACT, campaign="spring")
    assert eager.store.get("spring:1")["state"] == State.IN_DOUBT

    look_up.delay("spring:1")

    assert eager.store.get("spring:1")["state"] == State.PLACED
    assert len(provider.rang) == 1


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"contact": {"id": "1"}},
        {"contact": []},
        {"contact": CONTACT, "campaign": "a:b"},
        {"contact": CONTACT, "x": 1},
        {"contact": CONTACT, "campaign": None},
        {"call_id": 7},
        {"call_id": "\ud800"},
        {"contact": CONTACT, "call_id": "spring:1"},
    ],
)
def test_a_bad_payload_is_refused_and_changes_nothing(eager: runtime.Runtime, payload: dict[str, object]) -> None:
    result = place_call.apply(kwargs=payload)

    assert isinstance(result.result, InvalidContact)
    assert sum(eager.store.stats().values()) == 0
    [(_, event)] = eager.scripts.client.xrange("{lineman}:events")
    assert event["event"] == "contact_refused"
    assert event["reason"].startswith(str(result.result))


def test_a_contact_whose_task_ends_unexpectedly_before_the_store_had_it_is_kept(eager: runtime.Runtime) -> None:
    eager.scripts.client.set("{lineman}:call:spring:1", "no hash")

    result = place_call.delay(contact=CONTACT, campaign="spring")

    assert result.failed()
    [letter] = eager.dead_letters.all()
    assert (letter["contact_id"], letter["campaign"]) == ("1", "spring")
    assert "before the store had its call" in letter["reason"]


def test_a_call_that_fails_in_the_store_is_no_dead_letter(eager: runtime.Runtime, provider: StandIn) -> None:
    provider.fault("elevenlabs", "dial", "invalid_number")

    place_call.delay(contact=CONTACT, campaign="spring")

    assert list(eager.dead_letters.all()) == []


def test_enqueueing_twice_is_harmless(eager: runtime.Runtime) -> None:
    assert enqueue([CONTACT, {"id": "2", "phone": "+14155550112"}], "spring") == (2, 0)
    assert enqueue([CONTACT], "spring") == (0, 1)
    assert eager.store.stats()[State.QUEUED] == 2


def test_an_alert_reaches_its_channel_once(eager: runtime.Runtime, provider: StandIn) -> None:
    eager.breakers["elevenlabs"].control("open", by="test", reason="drill", now=1_000)
    eager.collector.collect(now=eager.outbox.clock())
    ((id, channel),) = eager.sender.take_due()

    deliver.delay(id, channel)
    deliver.delay(id, channel)

    [alert] = provider.alerts.webhooks
    assert alert.subject.startswith("[Lineman] elevenlabs down since ")


def test_an_unexpected_exception_is_an_event(eager: runtime.Runtime, provider: StandIn) -> None:
    place_call.delay(contact=CONTACT, campaign="spring")
    eager.scripts.client.set("{lineman}:call:spring:2", "no hash: a bug of ours, or a stranger's hand")

    result = place_call.delay(call_id="spring:2")

    assert result.failed()
    events = [event for _, event in eager.scripts.client.xrange("{lineman}:events")]
    assert [event["reason"] for event in events if event["event"] == "unknown_error"] == [
        "ResponseError in tasks.calls.place_call"
    ]
    assert len(provider.rang) == 1
