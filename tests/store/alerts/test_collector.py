"""From events to alerts in the outbox: each event counts once, whoever reads it, and whatever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis

from resilience.alerts.collector import KEPT, PAGE, Collector
from resilience.alerts.decisions import Situation
from resilience.alerts.kinds import Kind
from resilience.calls.store import CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import Alerts
from resilience.store.events import Event
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import LEASE, OK, T0, add, attempt, trip
from tests.support import dump

CHANNELS = ("email", "webhook")
AGAIN = 600.0
STATE = "{lineman}:alerts:state"
DOWN = [("opened service_down", channel) for channel in CHANNELS]


def situation(**rules: Any) -> Situation:
    return Situation(Alerts.model_validate(rules), ("elevenlabs", "crm"), CHANNELS)


@pytest.fixture
def collector(scripts: Scripts) -> Collector:
    return Collector(scripts, situation())


def delivered(collector: Collector, now: float = T0) -> list[tuple[str, str]]:
    """Delivers what is due. Returns (notice and kind, channel) of each, sorted."""
    outbox, found = collector.outbox, []
    for id, channel in outbox.take_due(now=now, again=AGAIN):
        delivery = outbox.claim(id, channel, "me", now=now, lease=AGAIN)
        if delivery is None:
            continue
        [(notice, incident)] = delivery.alert.notices
        found.append((f"{notice} {incident.kind}", channel))
        assert outbox.sent(delivery, now=now)
    return sorted(found)


def test_an_event_becomes_one_alert_on_each_channel(collector: Collector, gate: CircuitBreaker) -> None:
    trip(gate)

    assert collector.collect(now=T0) == 1

    assert delivered(collector) == DOWN
    assert collector.collect(now=T0 + 1) == 0
    assert delivered(collector, T0 + 2 * AGAIN) == []


def test_nothing_new_writes_nothing(client: redis.Redis, collector: Collector, gate: CircuitBreaker) -> None:
    trip(gate)
    collector.collect(now=T0)
    delivered(collector)
    before = dump(client)

    assert collector.collect(now=T0 + 1) == 0

    assert dump(client) == before


def test_the_place_in_the_stream_outlives_a_month_without_events(
    client: redis.Redis, collector: Collector, gate: CircuitBreaker
) -> None:
    trip(gate)
    collector.collect(now=T0)
    delivered(collector)
    client.expire(STATE, KEPT // 2 - 1)

    collector.collect(now=T0 + 1)

    assert client.ttl(STATE) > KEPT - 60


def test_an_outage_from_its_first_event_to_its_resolution(
    store: CallStore, collector: Collector, gate: CircuitBreaker
) -> None:
    ids = add(store, *(str(n) for n in range(13)))
    for id in ids[:12]:
        attempt(store, id, steps.RETRY)
    steps.refused(store, ids[12])
    collector.collect(now=T0)
    gate.report(gate.admit("probe", LEASE, now=T0 + 30), OK, now=T0 + 31)
    collector.collect(now=T0 + 31)

    due = [id for id, channel in collector.outbox.take_due(now=T0 + 31, again=AGAIN) if channel == "email"]
    alerts = [found[0] for found in map(collector.outbox.tracks, due) if found]

    [(_, down)], [(notice, over)] = (alert.notices for alert in alerts)
    assert (down.kind, down.reason) == (Kind.SERVICE_DOWN, "12 requests in a row failed, last: 503")
    assert (notice, over.ended - over.since, over.waiting) == ("resolved", 31, 1)
    assert delivered(collector, T0 + 2 * AGAIN) == [
        *DOWN,
        *(("resolved service_down", channel) for channel in CHANNELS),
    ]


def test_an_end_is_not_delivered_before_its_beginning(collector: Collector, gate: CircuitBreaker) -> None:
    trip(gate)
    collector.collect(now=T0)
    [(first, _), _] = collector.outbox.take_due(now=T0, again=AGAIN)
    gate.control("close", by="ada", now=T0 + 5)
    collector.collect(now=T0 + 5)
    [(end, channel), _] = collector.outbox.take_due(now=T0 + 5, again=1)

    assert collector.outbox.claim(end, channel, "me", now=T0 + 5, lease=60) is None

    beginning = collector.outbox.claim(first, channel, "me", now=T0 + 6, lease=60)
    assert beginning
    collector.outbox.failed(beginning, "550", now=T0 + 7, report=False)
    assert collector.outbox.claim(end, channel, "other", now=T0 + 8, lease=0.1)
    assert delivered(collector, T0 + AGAIN) == [("opened service_down", "webhook"), ("resolved service_down", "email")]
    assert delivered(collector, T0 + AGAIN + 2) == [("resolved service_down", "webhook")]


def test_a_call_that_is_in_doubt_for_long_is_notified_once(store: CallStore, collector: Collector) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.DOUBT)
    for n in range(9):
        store.resolve(id, n, "error", reason="no answer", now=T0 + 60 * (n + 1))
        collector.collect(now=T0 + 60 * (n + 1))

    events = [fields for _, fields in collector.scripts.client.xrange(collector.stream.key)]

    assert [fields["at"] for fields in events if fields["event"] == "call_doubt_long"] == [str(int(T0 + 300) * 1000)]
    assert delivered(collector, T0 + 540) == [("opened call_doubt_long", channel) for channel in CHANNELS]
    store.resolve(id, 9, "found", ["conv_1"], now=T0 + 600)


def test_collectors_that_run_at_once_notify_of_each_event_once(collector: Collector, gate: CircuitBreaker) -> None:
    trip(gate)

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: collector.collect(now=T0), range(8)))

    assert sum(counts) == 1
    assert delivered(collector) == DOWN


class Interrupted(Collector):
    """Does something between its reading and its writing, once."""

    def __init__(self, collector: Collector, meanwhile: Callable[[], object]) -> None:
        super().__init__(collector.scripts, collector.situation)
        self.meanwhile: Callable[[], object] | None = meanwhile

    def _write(self, *args: Any, **named: Any) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        super()._write(*args, **named)


def test_a_collector_that_was_suspended_and_overtaken_adds_nothing(store: CallStore, collector: Collector) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.FAILED)

    assert Interrupted(collector, lambda: collector.collect(now=T0)).collect(now=T0) == 0

    assert delivered(collector) == [("opened call_failed", channel) for channel in CHANNELS]
    assert collector.collect(now=T0 + 300) == 0


def test_a_killed_collector_has_changed_nothing(
    client: redis.Redis, collector: Collector, gate: CircuitBreaker
) -> None:
    trip(gate)
    before = dump(client)

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(collector, killed).collect(now=T0)

    assert dump(client) == before
    assert collector.collect(now=T0) == 1
    assert delivered(collector) == DOWN


def test_what_a_killed_collector_had_read_is_decided_before_what_is_newer(
    collector: Collector, gate: CircuitBreaker
) -> None:
    """An outage whose end was decided before its beginning was notified and never resolved."""
    trip(gate)

    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(collector, killed).collect(now=T0)
    gate.control("close", by="ada", now=T0 + 5)

    assert collector.collect(now=T0 + 6) == 0

    assert [incident for incident in collector.incidents() if incident.fires] == []
    assert delivered(collector, T0 + 6) == []


def test_a_long_stream_is_read_to_its_end_before_anything_is_decided(
    client: redis.Redis, collector: Collector, gate: CircuitBreaker
) -> None:
    trip(gate)
    with client.pipeline() as pipe:
        for n in range(2 * PAGE):
            event: Any = {"event": "call_failed", "at": int(T0 * 1000), "service": "elevenlabs", "call_id": f"a:{n}"}
            pipe.xadd(collector.stream.key, event)
        pipe.execute()
    gate.control("close", by="ada", now=T0 + 5)

    assert collector.collect(now=T0 + 6) == 1

    assert delivered(collector, T0 + 6) == [("opened call_failed", channel) for channel in CHANNELS]
    [calls] = [incident for incident in collector.incidents() if incident.kind is Kind.CALL_FAILED]
    assert calls.total == 2 * PAGE


def test_each_alert_takes_its_routes(scripts: Scripts, store: CallStore, gate: CircuitBreaker) -> None:
    routes = [{"channels": ["webhook"], "severities": ["critical"]}, {"channels": ["email"], "services": ["crm"]}]
    collector = Collector(scripts, situation(routes=routes))
    [id] = add(store, "1")
    attempt(store, id, steps.FAILED)
    collector.collect(now=T0)
    trip(gate)

    collector.collect(now=T0 + 1)

    assert delivered(collector, T0 + 1) == [("opened service_down", "webhook")]


def test_what_no_channel_takes_counts_as_notified(scripts: Scripts, gate: CircuitBreaker) -> None:
    alone = Collector(scripts, replace(situation(), enabled=()))
    trip(gate)

    assert alone.collect(now=T0) == 1

    assert alone.collect(now=T0 + 1) == 0
    assert delivered(alone, T0 + 1) == []


class TestSilence:
    def test_nothing_is_sent_until_it_is_over(self, collector: Collector, gate: CircuitBreaker) -> None:
        collector.silence("elevenlabs", 60, by="ada")
        trip(gate)

        assert collector.collect(now=T0) == 0
        assert collector.silences()["elevenlabs"][0] == "ada"

        collector.silence("elevenlabs", 0, by="ada")
        assert collector.silences() == {}
        assert collector.collect(now=T0 + 60) == 1
        assert delivered(collector, T0 + 60) == DOWN

    def test_it_ends_by_itself(self, client: redis.Redis, collector: Collector) -> None:
        collector.silence("crm", 7200, by="ada")

        assert 7190 < client.ttl("{lineman}:silence:crm") <= 7200

    def test_another_service_is_notified(self, collector: Collector, gate: CircuitBreaker) -> None:
        collector.silence("crm", 60, by="ada")
        trip(gate)

        collector.collect(now=T0)

        assert delivered(collector) == DOWN


def test_during_quiet_hours_what_is_not_critical_waits(
    scripts: Scripts, store: CallStore, gate: CircuitBreaker
) -> None:
    at_t0 = {"start": "07:30", "end": "08:30"}  # T0 is 08:00 UTC
    collector = Collector(scripts, situation(quiet_hours=at_t0))
    [id] = add(store, "1")
    attempt(store, id, steps.FAILED)

    assert collector.collect(now=T0) == 0
    assert collector.collect(now=T0 + 1800) == 1
    assert delivered(collector, T0 + 1800) == [("opened call_failed", channel) for channel in CHANNELS]
    trip(gate, T0 + 3600 * 24)
    assert collector.collect(now=T0 + 3600 * 24) == 1
    assert delivered(collector, T0 + 3600 * 24) == DOWN


def test_an_incident_that_another_release_wrote_is_read(
    client: redis.Redis, collector: Collector, gate: CircuitBreaker
) -> None:
    trip(gate)
    collector.collect(now=T0)
    delivered(collector)
    field, newer = "service_down:elevenlabs", "line_cut:elevenlabs"
    stored = json.loads(client.hget(STATE, field) or "")
    client.hset(STATE, field, json.dumps(stored | {"colour": "red"}))
    client.hset(STATE, newer, json.dumps(stored | {"kind": "line_cut"}))

    gate.control("close", by="ada", now=T0 + 5)

    assert collector.collect(now=T0 + 6) == 1
    assert delivered(collector, T0 + 6) == [("resolved service_down", channel) for channel in CHANNELS]
    assert [incident.kind for incident in collector.incidents()] == ["service_down"]
    assert client.hexists(STATE, newer)


def test_what_was_dropped_before_it_was_read_is_reported_once(client: redis.Redis, collector: Collector) -> None:
    stream = collector.stream
    stream.append(Event.HEALTH_UP, now=T0, service="crm")
    collector.collect(now=T0)
    for _ in range(3):
        stream.append(Event.HEALTH_UP, now=T0, service="crm")
    client.xtrim(stream.key, maxlen=1, approximate=False)

    for n in range(3):
        collector.collect(now=T0 + n)

    reported = [fields for _, fields in client.xrange(stream.key) if fields["event"] == Event.EVENTS_MISSED]
    assert [fields["missed"] for fields in reported] == ["2"]
    assert delivered(collector, T0 + 3) == [("opened events_missed", channel) for channel in CHANNELS]
