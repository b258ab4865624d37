"""Alerts on their way through the channels: to real sinks, with channels that fail and workers that are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.sinks import SmtpSink
from demo.stand_in import StandIn
from local.redis_server import RedisServer
from resilience.alerts.alert import load_alert
from resilience.alerts.delivery import OFF
from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import load
from resilience.store.scripts import Scripts
from tasks import runtime
from tests.store.steps import T0, trip
from tests.support import ROOT, wait_until

CHANNELS = ["email", "telegram", "webhook"]
DOWN = "elevenlabs down since 08:00 UTC: circuit breaker open"
UNCLEAR = "(Sent again: the first delivery's outcome is unknown.)"


class Sinks:
    """Where the alerts arrive: the stand-in's webhook and Telegram, and an SMTP server."""

    def __init__(self, stand_in: StandIn, smtp_port: int) -> None:
        self.stand_in, self.fault, self.recover = stand_in, stand_in.fault, stand_in.recover
        self.environment = {
            "ELEVEN_API_KEY": "key",
            "WEBHOOK_URL": f"{stand_in.url}/webhook",
            "TELEGRAM_BASE_URL": stand_in.url,
            "TELEGRAM_BOT_TOKEN": "1:secret",
            "TELEGRAM_CHAT_ID": "7",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(smtp_port),
        }

    def arrived(self) -> dict[str, list[tuple[str, str]]]:
        """(message id, text) of each alert that a channel accepted. Telegram has no ids, but subjects."""
        alerts = self.stand_in.alerts
        return {
            "email": [(alert.alert_id, alert.text.strip()) for alert in alerts.mails],
            "telegram": [(alert.subject, alert.text) for alert in alerts.telegrams],
            "webhook": [(alert.alert_id, json.loads(alert.text)["text"]) for alert in alerts.webhooks],
        }

    def subjects(self) -> dict[str, list[str]]:
        alerts = self.stand_in.alerts
        by_channel = {"email": alerts.mails, "telegram": alerts.telegrams, "webhook": alerts.webhooks}
        return {name: [a.subject.removeprefix("[Lineman] ") for a in found] for name, found in by_channel.items()}

    def clear(self) -> None:
        for found in (*vars(self.stand_in.alerts).values(), self.stand_in.requests):
            found.clear()


@pytest.fixture(scope="module")
def servers() -> Iterator[Sinks]:
    with StandIn() as stand_in, SmtpSink(stand_in.alerts, stand_in.faults) as smtp:
        yield Sinks(stand_in, smtp.port)


@pytest.fixture
def sinks(servers: Sinks) -> Iterator[Sinks]:
    yield servers
    for service in ("webhook", "telegram", "smtp"):
        servers.recover(service)
    servers.clear()


def build(scripts: Scripts, sinks: Sinks, path: Path = ROOT / "config.yml") -> runtime.Runtime:
    return runtime.build(load(str(path), sinks.environment), scripts)


@pytest.fixture
def rt(scripts: Scripts, sinks: Sinks) -> runtime.Runtime:
    return build(scripts, sinks)


def tick(rt: runtime.Runtime, now: float) -> Counter[str]:
    """What beat and the workers do in a second. Returns how the deliveries went."""
    rt.collector.collect(now=now)
    due = rt.sender.take_due(now=now)
    return Counter(rt.sender.deliver(id, channel, now=now).partition(":")[0] for id, channel in due)


def run(rt: runtime.Runtime, start: float, seconds: float, every: float = 5.0) -> Counter[str]:
    """Ticks from `start` on."""
    count: Counter[str] = Counter()
    for n in range(int(seconds / every) + 1):
        count += tick(rt, start + n * every)
    return count


def events(client: redis.Redis, kind: str) -> list[Any]:
    return [fields for _, fields in client.xrange("{lineman}:events") if fields["event"] == kind]


def test_an_outage_and_its_end_arrive_once_on_each_channel(
    rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    trip(gate)
    run(rt, T0, 30)
    gate.control("close", by="ada", now=T0 + 30)
    run(rt, T0 + 30, 30)

    sent = [DOWN, "resolved: elevenlabs is well again after 30 s"]
    assert sinks.subjects() == dict.fromkeys(CHANNELS, sent)


@pytest.mark.parametrize("kind", ["unavailable", "internal_error"])
def test_a_channel_that_fails_for_a_while_delays_no_other(
    rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker, kind: str
) -> None:
    sinks.fault("webhook", "post", kind)
    trip(gate)
    run(rt, T0, 600)
    before = sinks.subjects()
    sinks.recover("webhook")

    run(rt, T0 + 600, 1200)

    assert before == {"email": [DOWN], "telegram": [DOWN], "webhook": []}
    assert sinks.subjects() == {channel: [DOWN] for channel in CHANNELS}


def test_a_channel_that_fails_for_an_hour_is_reported_by_the_others_and_so_is_its_return(
    rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    sinks.fault("webhook", "post", "unavailable")
    trip(gate)
    tries = run(rt, T0, 5400)
    broken = sinks.subjects()
    sinks.recover("webhook")
    gate.control("close", by="ada", now=T0 + 5400)
    run(rt, T0 + 5400, 10)

    assert tries == {"sent": 4, "later": 12, "failed": 1}
    assert [sent[1].rpartition(" since")[0] for sent in (broken["email"], broken["telegram"])] == [
        "alerts by webhook not arriving", "alerts by webhook not arriving",
    ]  # fmt: skip
    assert broken["webhook"] == []
    resolved = "resolved: elevenlabs is well again after 90 min"
    assert sinks.subjects()["webhook"] == [resolved]
    *_, last, again = sinks.subjects()["email"]
    assert last == resolved
    assert again.startswith("resolved: alerts by webhook arrive again after 2")  # the jitter decides of the minutes


def test_a_retry_after_is_honoured(rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker) -> None:
    sinks.fault("webhook", "post", "rate_limited", count=1, seconds=120)
    trip(gate)

    run(rt, T0, 115)
    early = sinks.subjects()["webhook"]
    run(rt, T0 + 120, 5)

    assert (early, sinks.subjects()["webhook"]) == ([], [DOWN])


def test_a_channel_that_refuses_for_good_is_switched_off_and_reported_once(
    client: redis.Redis, rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    sinks.fault("telegram", "send_message", "refused")
    trip(gate)
    run(rt, T0, 30)
    gate.control("close", by="ada", now=T0 + 30)
    run(rt, T0 + 30, 30)

    asked = [r for r in sinks.stand_in.requests if r.service == "telegram"]
    sent = [DOWN, "alerts by telegram not arriving since 08:00 UTC", "resolved: elevenlabs is well again after 30 s"]
    assert sinks.subjects() == {"email": sent, "telegram": [], "webhook": sent}
    assert len(asked) == 1
    assert 0 < client.ttl("{lineman}:alerts:off:telegram") <= OFF
    assert len(events(client, "alert_channel_broken")) == 1


def test_two_channels_that_refuse_do_not_report_each_other_for_ever(
    client: redis.Redis, rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    sinks.fault("telegram", "send_message", "refused")
    sinks.fault("smtp", "mail", "refused")
    trip(gate)

    run(rt, T0, 3600, every=60)

    assert Counter(sinks.subjects()["webhook"]) == {
        DOWN: 1,
        "alerts by telegram not arriving since 08:00 UTC": 1,
        "alerts by email not arriving since 08:00 UTC": 1,
    }
    assert len(events(client, "alert_channel_broken")) == 2


def test_a_message_that_is_refused_for_its_own_sake_switches_no_channel_off(
    client: redis.Redis, rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    sinks.fault("webhook", "post", "invalid_number", count=1)
    trip(gate)
    run(rt, T0, 10)
    gate.control("close", by="ada", now=T0 + 30)
    run(rt, T0 + 30, 10)

    assert not client.exists("{lineman}:alerts:off:webhook")
    assert sinks.subjects()["webhook"] == ["resolved: elevenlabs is well again after 30 s"]


def test_an_answer_that_was_lost_is_no_second_alert(rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker) -> None:
    sinks.fault("webhook", "post", "accept_then_rst", count=1)
    sinks.fault("telegram", "send_message", "accept_then_rst", count=1)
    trip(gate)

    run(rt, T0, 60)

    arrived = sinks.arrived()
    assert [len(arrived[channel]) for channel in CHANNELS] == [1, 2, 2]
    assert len({id for id, _ in arrived["webhook"]}) == 1
    assert [text.endswith(UNCLEAR) for _, text in arrived["telegram"]] == [False, True]


def test_a_channel_that_is_no_longer_configured_ends_its_deliveries(
    scripts: Scripts, rt: runtime.Runtime, sinks: Sinks, gate: CircuitBreaker
) -> None:
    trip(gate)
    rt.collector.collect(now=T0)
    without = {name: value for name, value in sinks.environment.items() if name != "WEBHOOK_URL"}
    smaller = runtime.build(load(str(ROOT / "config.yml"), without), scripts)

    count = run(smaller, T0, 10)

    assert count == {"sent": 2, "failed": 1}


class Killed(BaseException):
    """The process is gone."""


class Mortal(redis.Connection):
    """Dies before or after one of the commands that go through it, and does nothing from then on."""

    left = 0

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self._live()
        super().send_packed_command(command, check_health)

    def read_response(self, *args: Any, **options: Any) -> Any:
        answer = super().read_response(*args, **options)
        self._live()
        return answer

    @classmethod
    def _live(cls) -> None:
        cls.left -= 1
        if cls.left < 0:
            raise Killed


@pytest.fixture
def mortal(redis_server: RedisServer) -> Iterator[Callable[[int], Scripts]]:
    """Makes a client that is killed after so many steps, half of them just before a command reaches Redis."""
    pools = []

    def make(steps: int) -> Scripts:
        pool = redis.ConnectionPool.from_url(redis_server.url, connection_class=Mortal, decode_responses=True)
        pools.append(pool)
        client = redis.Redis(connection_pool=pool)
        Mortal.left = 10**6
        client.ping()
        Mortal.left = steps
        return Scripts(client)

    yield make
    Mortal.left = 10**6
    for pool in pools:
        pool.disconnect()


def test_a_worker_that_is_killed_at_any_step_loses_and_doubles_nothing(
    real_redis: redis.Redis, mortal: Callable[[int], Scripts], sinks: Sinks
) -> None:
    survivor = build(Scripts(real_redis), sinks)
    again: Counter[str] = Counter()
    step = killed = 0
    while True:
        real_redis.flushall()
        sinks.clear()
        trip(survivor.breakers["elevenlabs"])
        try:
            tick(build(mortal(step), sinks), T0)
            break
        except Killed:
            Mortal.left = 10**6  # what is left of it may clean up behind itself
            killed += 1

        run(survivor, T0 + 1, 2 * survivor.sender.lease, every=survivor.sender.lease / 2)

        arrived = sinks.arrived()
        for channel in CHANNELS:
            assert len({id for id, _ in arrived[channel]}) == 1, (step, arrived)
            assert [text.endswith(UNCLEAR) for _, text in arrived[channel][1:]] in ([], [True]), (step, arrived)
            again[channel] += len(arrived[channel]) - 1
        assert real_redis.zcard("{lineman}:alerts:due") == 0
        step += 1
    assert killed == step > 30
    assert all(0 < again[channel] < 20 for channel in CHANNELS)


VICTIM = """
from resilience.config.settings import load
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tasks import runtime
import os, sys
settings = load(os.environ["CONFIG_FILE"])
rt = runtime.build(settings, Scripts(connect(settings.redis.url, connect_timeout=5, timeout=5)))
now = float(sys.argv[1])
rt.collector.collect(now=now)
for id, channel in rt.sender.take_due(now=now):
    rt.sender.deliver(id, channel, now=now)
"""


def test_a_process_that_is_killed_while_it_sends_is_taken_over(
    real_redis: redis.Redis, redis_server: RedisServer, sinks: Sinks
) -> None:
    survivor = build(Scripts(real_redis), sinks)
    trip(survivor.breakers["elevenlabs"])
    sinks.fault("telegram", "send_message", "slow", seconds=60)
    environment = (
        os.environ | sinks.environment | {"REDIS_URL": redis_server.url, "CONFIG_FILE": str(ROOT / "config.yml")}
    )
    with subprocess.Popen([sys.executable, "-c", VICTIM, str(T0)], cwd=ROOT, env=environment) as victim:
        wait_until(lambda: "telegram" in str(sending(real_redis)), what="the mark of the delivery", timeout=20)
        wait_until(lambda: len(sinks.arrived()["email"]) == 1, what="the mail")
        victim.send_signal(signal.SIGKILL)
    sinks.recover("telegram")

    assert tick(survivor, T0 + 1) == {}
    run(survivor, T0 + 1, 2 * survivor.sender.lease, every=survivor.sender.lease / 2)

    assert {channel: len(found) for channel, found in sinks.arrived().items() if channel != "telegram"} == {
        "email": 1, "webhook": 1,
    }  # fmt: skip
    assert sinks.arrived()["telegram"][-1][1].endswith(UNCLEAR)


def sending(client: redis.Redis) -> list[str]:
    """The channels that somebody is at."""
    marks = [fields for key in client.scan_iter("{lineman}:alert:*") for fields in client.hgetall(key).items()]
    return [name for name, text in marks if name != "alert" and json.loads(text)["owner"]]


def test_ten_thousand_events_and_a_channel_that_fails_half_of_the_time(
    client: redis.Redis, scripts: Scripts, sinks: Sinks, tmp_path: Path
) -> None:
    """No failed call is missing from the sum of the digests, and no digest arrives under two ids."""
    config = tmp_path / "config.yml"
    config.write_text((ROOT / "config.yml").read_text().replace("max_attempts: 13 ", "max_attempts: 99 "))
    environment = sinks.environment | {"CRM_API_KEY": "key"}
    rt = runtime.build(load(str(config), {**environment, "SMTP_HOST": "", "TELEGRAM_CHAT_ID": ""}), scripts)
    kinds = ["call_failed", "call_needs_review", "call_doubt_long", "call_rang_twice"]
    sinks.stand_in.mix("webhook", "post", {"ok": 5, "unavailable": 3, "accept_then_500": 2}, seed=7)
    rounds, interval = 20, rt.settings.alerts.group_interval
    for n in range(rounds):
        with client.pipeline() as pipe:
            for m in range(10_000 // rounds):
                at = int((T0 + n * interval) * 1000) + m
                fields: Any = {"event": kinds[m % 4], "at": at, "service": ("elevenlabs", "crm")[m % 8 // 4],
                               "call_id": f"soak:{n}-{m}", "reason": "bad number"}  # fmt: skip
                pipe.xadd("{lineman}:events", fields)
            pipe.execute()
        tick(rt, T0 + n * interval)
    last = T0 + rounds * interval
    while client.zcard("{lineman}:alerts:due"):
        last += 60
        tick(rt, last)

    sent = {alert.alert_id: json.loads(alert.text)["data"]["count"] for alert in sinks.stand_in.alerts.webhooks}
    alerts = [load_alert(client.hget(key, "alert") or "") for key in client.scan_iter("{lineman}:alert:*")]
    assert sum(sent.values()) == 10_000
    assert sent.keys() == {alert.id for alert in alerts}
    assert len(sent) == 8 * rounds
