"""A dispatcher that hands out nothing is told from the calls workers, without beat and without the control queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from celery import Celery
from kombu import Queue

from demo.stand_in import StandIn
from local.redis_server import RedisServer
from resilience.config.settings import load
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.celery import app as tasks_app
from tasks.worker.watchdog import Watchdog, look, watch
from tests.support import ROOT, wait_until

SLOT = "{lineman}:slot:watchdog"


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def rt(scripts: Scripts, provider: StandIn) -> runtime.Runtime:
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    return runtime.build(load(str(ROOT / "config.yml"), environment), scripts)


def told(provider: StandIn) -> list[str]:
    return [alert.subject.removeprefix("[Lineman] ").partition(" since ")[0] for alert in provider.alerts.webhooks]


def look_at(rt: runtime.Runtime, began: float) -> int:
    rt.scripts.client.delete(SLOT)
    return look(rt, began)


def test_a_dispatcher_that_ticks_is_not_worth_a_word(rt: runtime.Runtime, provider: StandIn) -> None:
    rt.store.dispatch(1)

    assert look_at(rt, began=rt.outbox.clock() - 3600) == 0
    assert told(provider) == []


def test_a_worker_that_has_just_started_waits_for_the_first_tick(rt: runtime.Runtime, provider: StandIn) -> None:
    assert look_at(rt, began=rt.outbox.clock() - 50) == 0
    assert told(provider) == []


def test_silence_is_told_once_by_the_channels_directly_and_so_is_its_end(
    rt: runtime.Runtime, provider: StandIn
) -> None:
    now = rt.outbox.clock()
    rt.store.dispatch(1, now=now - 70)

    sent = [look_at(rt, began=now - 3600) for _ in range(3)]
    rt.store.dispatch(1)
    look_at(rt, began=now - 3600)
    assert rt.collector.collect(now=rt.outbox.clock()) == 1

    assert sent == [1, 0, 0]
    assert told(provider) == ["dispatcher silent"]
    [(id, channel)] = rt.outbox.take_due(now=rt.outbox.clock() + 1, again=60)
    delivery = rt.outbox.claim(id, channel, "me", lease=60)
    assert delivery
    assert delivery.alert.notices[0][0] == "resolved"
    rt.outbox.sent(delivery)


def test_while_it_is_silent_the_other_alerts_are_told_from_here_as_well(rt: runtime.Runtime, provider: StandIn) -> None:
    rt.breakers["elevenlabs"].control("open", by="ada")

    assert look_at(rt, began=rt.outbox.clock() - 61) == 2

    assert sorted(told(provider)) == ["dispatcher silent", "elevenlabs down"]


def test_one_worker_of_the_fleet_looks_at_a_time(rt: runtime.Runtime, provider: StandIn) -> None:
    began = rt.outbox.clock() - 61

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(lambda _: look(rt, began), range(8)))

    assert sum(sent) == 1
    assert told(provider) == ["dispatcher silent"]


@pytest.fixture
def installed(real_redis: redis.Redis, provider: StandIn) -> Iterator[runtime.Runtime]:
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    built = runtime.build(load(str(ROOT / "config.yml"), environment), Scripts(real_redis))
    runtime.install(built)
    yield built
    runtime.install(None)


def test_the_thread_looks_until_it_is_stopped(installed: runtime.Runtime, provider: StandIn) -> None:
    installed.store.dispatch(1, now=installed.outbox.clock() - 100)
    stopped = threading.Event()
    thread = threading.Thread(target=watch, args=(stopped, 0.02, 0.1))
    thread.start()
    try:
        wait_until(lambda: told(provider), what="the alert")
    finally:
        stopped.set()
        thread.join(5)

    assert not thread.is_alive()


@pytest.mark.parametrize(("queues", "has"), [(["calls"], True), (["control"], False), (["calls", "control"], True)])
def test_only_workers_that_take_calls_have_it(queues: list[str], has: bool) -> None:
    worker = SimpleNamespace(app=Celery(set_as_current=False))
    worker.app.conf.task_queues = [Queue("calls"), Queue("control")]
    worker.app.amqp.queues.select(queues)

    assert Watchdog(worker).include_if(worker) is has
    assert Watchdog in tasks_app.steps["worker"]


def test_a_redis_out_of_reach_is_told_from_memory_and_so_is_its_return(tmp_path: Path, provider: StandIn) -> None:
    """Neither an event nor an outbox can be had without it; nobody was told of it before."""
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    settings = load(str(ROOT / "config.yml"), environment)
    with RedisServer(tmp_path / "redis") as server:
        runtime.install(runtime.build(settings, Scripts(connect(server.url, connect_timeout=0.1, timeout=0.1))))
        stopped = threading.Event()
        thread = threading.Thread(target=watch, args=(stopped, 0.02, 0.2))
        server.stop()
        thread.start()
        try:
            wait_until(lambda: told(provider) == ["Redis out of reach"], what="the alert")
            server.start()
            wait_until(lambda: len(told(provider)) > 1, what="the end")
        finally:
            stopped.set()
            thread.join(5)
            runtime.install(None)

    assert told(provider)[1].startswith("resolved: Redis answers again")
