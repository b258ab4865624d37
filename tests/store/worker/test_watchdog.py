"""A silent dispatcher is reported by the calls workers, without beat and without the control queue."""

from __future__ import annotations

import os
import subprocess
import sys
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
from tasks.worker.watchdog import Rounds, Watchdog, look, watch
from tests.support import FAKETIME, ROOT, needs_faketime, wait_until

SLOT = "{lineman}:slot:watchdog"


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def rt(scripts: Scripts, provider: StandIn) -> runtime.Runtime:
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    return runtime.build(load(str(ROOT / "config.yml"), environment), scripts)


def sent(provider: StandIn) -> list[str]:
    return [alert.subject.removeprefix("[Lineman] ").partition(" since ")[0] for alert in provider.alerts.webhooks]


class Clock:
    """A process's monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """A calls worker whose watchdog looks when the test says so."""

    def __init__(self, rt: runtime.Runtime) -> None:
        self.rt, self.clock = rt, Clock()
        self.rounds = Rounds(self.clock)
        self.look()

    def look(self, later: float = 0.0) -> int:
        """Looks after so many seconds. Returns how many alerts it sent."""
        self.clock.now += later
        self.rt.scripts.client.delete(SLOT)
        return look(self.rt, self.rounds)


@pytest.fixture
def worker(rt: runtime.Runtime) -> Worker:
    return Worker(rt)


def test_a_dispatcher_that_goes_on_is_no_incident(rt: runtime.Runtime, worker: Worker, provider: StandIn) -> None:
    for n in range(30):
        rt.store.dispatch(1, now=rt.outbox.clock() + n)
        assert worker.look(later=10) == 0

    assert sent(provider) == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_only_the_workers_own_clock_decides_what_silence_is(rt: runtime.Runtime, provider: StandIn, hours: int) -> None:
    """The dispatcher's mark is a time of Redis's clock, which may be an hour off: a worker compared it with its own."""
    rt.store.dispatch(1, now=rt.outbox.clock() + hours * 3600)
    worker = Worker(rt)

    early, late = worker.look(later=50), worker.look(later=10)

    assert (early, late) == (0, 1)
    assert sent(provider) == ["dispatcher silent"]


def test_a_worker_that_has_just_started_waits_for_the_first_round(worker: Worker, provider: StandIn) -> None:
    assert worker.look(later=59) == 0
    assert sent(provider) == []
    assert worker.look(later=1) == 1


def test_a_worker_that_was_suspended_takes_its_own_absence_for_no_silence(
    rt: runtime.Runtime, worker: Worker, provider: StandIn
) -> None:
    rt.store.dispatch(1)

    assert worker.look(later=7200) == 0
    assert sent(provider) == []


def test_silence_is_sent_once_by_the_channels_directly_and_so_is_its_end(
    rt: runtime.Runtime, provider: StandIn
) -> None:
    rt.store.dispatch(1, now=rt.outbox.clock() - 70)
    worker, another = Worker(rt), Worker(rt)

    counts = [worker.look(later=70), worker.look(later=10), another.look(later=10)]
    rt.store.dispatch(1)
    worker.look(later=10)
    assert rt.collector.collect(now=rt.outbox.clock()) == 1

    assert counts == [1, 0, 0]
    assert sent(provider) == ["dispatcher silent"]
    [(id, channel)] = rt.outbox.take_due(now=rt.outbox.clock() + 1, again=60)
    delivery = rt.outbox.claim(id, channel, "me", lease=60)
    assert delivery
    assert delivery.alert.notices[0][0] == "resolved"
    rt.outbox.sent(delivery)


def test_a_mark_that_expires_is_no_round(rt: runtime.Runtime, provider: StandIn) -> None:
    rt.store.dispatch(1)
    worker = Worker(rt)
    rt.scripts.client.delete("{lineman}:dispatched")

    counts = [worker.look(later=50), worker.look(later=10), worker.look(later=10)]

    assert counts == [0, 1, 0]
    assert sent(provider) == ["dispatcher silent"]


def test_while_it_is_silent_the_other_alerts_are_sent_from_here_as_well(
    rt: runtime.Runtime, worker: Worker, provider: StandIn
) -> None:
    rt.breakers["elevenlabs"].control("open", by="ada")

    assert worker.look(later=61) == 2

    assert sorted(sent(provider)) == ["dispatcher silent", "elevenlabs down"]


def test_one_worker_of_the_fleet_looks_at_a_time(rt: runtime.Runtime, provider: StandIn) -> None:
    workers = [Worker(rt) for _ in range(8)]
    rt.scripts.client.delete(SLOT)
    for worker in workers:
        worker.clock.now += 61

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda worker: look(rt, worker.rounds), workers))

    assert sum(counts) == 1
    assert sent(provider) == ["dispatcher silent"]


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
        wait_until(lambda: sent(provider), what="the alert")
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


def test_a_redis_out_of_reach_is_reported_from_memory_and_so_is_its_return(tmp_path: Path, provider: StandIn) -> None:
    """Without Redis there is neither an event nor an outbox."""
    environment = {"ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook"}
    settings = load(str(ROOT / "config.yml"), environment)
    with RedisServer(tmp_path / "redis") as server:
        runtime.install(runtime.build(settings, Scripts(connect(server.url, connect_timeout=0.1, timeout=0.1))))
        stopped = threading.Event()
        thread = threading.Thread(target=watch, args=(stopped, 0.02, 0.2))
        server.stop()
        thread.start()
        try:
            wait_until(lambda: sent(provider) == ["Redis out of reach"], what="the alert")
            server.start()
            wait_until(lambda: len(sent(provider)) > 1, what="the end")
        finally:
            stopped.set()
            thread.join(5)
            runtime.install(None)

    assert sent(provider)[1].startswith("resolved: Redis answers again")


WATCH = """
import threading
from tasks.worker.watchdog import watch
watch(threading.Event(), 0.05, 0.5)
"""


@needs_faketime
@pytest.mark.parametrize("hours", ["-1", "+1"])
def test_a_process_on_a_host_an_hour_off_notices_a_silent_dispatcher(
    real_redis: redis.Redis, redis_server: RedisServer, provider: StandIn, tmp_path: Path, hours: str
) -> None:
    config = tmp_path / "config.yml"
    config.write_text((ROOT / "config.yml").read_text().replace("interval: 1 ", "interval: 0.1 "))
    real_redis.set("{lineman}:dispatched", 1, ex=60)
    environment = os.environ | {
        "ELEVEN_API_KEY": "key", "WEBHOOK_URL": f"{provider.url}/webhook", "REDIS_URL": redis_server.url,
        "CONFIG_FILE": str(config), "LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{hours}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", WATCH], cwd=ROOT, env=environment) as process:
        try:
            wait_until(lambda: sent(provider) == ["dispatcher silent"], what="the alert", timeout=20)
            wait_until(lambda: not real_redis.exists("{lineman}:alerts:due"), what="the end of the delivery")
        finally:
            process.kill()
