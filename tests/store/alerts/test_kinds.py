"""Every event that may alert arrives on a real channel, and what resolves it, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from demo.stand_in import StandIn
from resilience.alerts.kinds import COUNTED, ENDED_BY, FIRED_BY, Kind
from resilience.circuit_breaker import CircuitBreaker, Outcome, Report
from resilience.config.settings import load
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.alerts import watch
from tasks.celery import app
from tests.store.steps import LEASE, T0
from tests.support import ROOT

SERVICES = {"alert_channel_broken": "email", "dispatcher_silent": "dispatcher"}


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def rt(scripts: Scripts, provider: StandIn) -> runtime.Runtime:
    environment = {
        "ELEVEN_API_KEY": "key",
        "WEBHOOK_URL": f"{provider.url}/webhook",
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": "9",
    }
    routes = [{"channels": ["webhook"]}]
    settings = load(str(ROOT / "config.yml"), environment)
    alerts = settings.alerts.model_validate(settings.alerts.model_dump() | {"routes": routes})
    return runtime.build(settings.model_copy(update={"alerts": alerts}), scripts)


def happen(rt: runtime.Runtime, event: str, service: str, at: float = T0, **fields: Any) -> None:
    """Writes an event, and does what beat and the workers do in a second."""
    entry: Any = {"event": event, "service": service, "at": int(at * 1000), "reason": "a reason", **fields}
    rt.scripts.client.xadd("{lineman}:events", entry)
    deliver(rt, at)


def deliver(rt: runtime.Runtime, at: float) -> None:
    rt.collector.collect(now=at)
    for id, channel in rt.sender.take_due(now=at):
        rt.sender.deliver(id, channel, now=at)


def arrived(provider: StandIn) -> list[tuple[str, str]]:
    """(kind, status) of each."""
    bodies = [json.loads(alert.text) for alert in provider.alerts.webhooks]
    return [(body["type"], body["status"]) for body in bodies]


@pytest.mark.parametrize(("event", "kind"), FIRED_BY.items())
def test_what_lasts_arrives_when_it_fires_and_when_it_ends(
    rt: runtime.Runtime, provider: StandIn, event: str, kind: Kind
) -> None:
    service = SERVICES.get(event, "elevenlabs")
    [ending] = [name for name, ended in ENDED_BY.items() if ended is kind]

    happen(rt, event, service)
    happen(rt, ending, service, T0 + 60)

    assert arrived(provider) == [(kind, "firing"), (kind, "resolved")]


@pytest.mark.parametrize("service", ["elevenlabs", "lineman", "redis", "crm", "a reader"])
@pytest.mark.parametrize("event", COUNTED)
def test_what_counts_arrives_whichever_service_it_is_about(
    rt: runtime.Runtime, provider: StandIn, event: str, service: str
) -> None:
    happen(rt, event, service, until=int((T0 + 3600) * 1000))

    assert arrived(provider) == [(event, "firing")]


def test_an_unclassified_answer_of_a_dial_arrives(rt: runtime.Runtime, provider: StandIn) -> None:
    happen(rt, "call_in_doubt", "elevenlabs", code="unknown", call_id="spring:1")

    assert arrived(provider) == [("unknown_error", "firing")]


@app.task(name="tests.fails")
def fails() -> None:
    raise ZeroDivisionError


def test_an_unexpected_exception_of_a_task_arrives(fake_redis: redis.Redis, provider: StandIn) -> None:
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    runtime.install(runtime.build(load(str(ROOT / "config.yml"), environment), Scripts(fake_redis)))
    app.conf.update(task_always_eager=True, task_eager_propagates=False)
    try:
        fails.delay()
        watch.delay()
    finally:
        app.conf.update(task_always_eager=False)
        runtime.install(None)

    assert arrived(provider) == [("unknown_error", "firing")]
    assert "ZeroDivisionError in tests.fails" in json.loads(provider.alerts.webhooks[0].text)["text"]


def test_a_dead_key_after_an_operators_own_holds_arrives_at_once(
    rt: runtime.Runtime, provider: StandIn, gate: CircuitBreaker
) -> None:
    """A dead key was reported five minutes late, and a spent quota never: the operator's holds counted as flapping."""
    for n in range(2):
        gate.control("hold", by="operator ada", now=T0 + 60 * n)
        deliver(rt, T0 + 60 * n)
        gate.control("close", by="operator ada", now=T0 + 60 * n + 30)
        deliver(rt, T0 + 60 * n + 30)
    for n, reason in enumerate(["the key is dead", "the quota is spent"], 3):
        gate.report(
            gate.admit(f"dial {n}", LEASE, now=T0 + 60 * n), Report(Outcome.IGNORED, hold=reason), now=T0 + 60 * n
        )
        deliver(rt, T0 + 60 * n)
        gate.control("release", by="operator ada", now=T0 + 60 * n + 30)

    texts = [json.loads(alert.text)["text"] for alert in provider.alerts.webhooks]
    assert ["the key is dead" in text for text in texts[4:]] == [True, False]
    assert "the quota is spent" in texts[-1]
