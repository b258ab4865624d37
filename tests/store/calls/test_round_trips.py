"""What each step costs: commands that Redis is sent, once the scripts are known to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.connection import Connection

from local.redis_server import RedisServer
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.errors import CircuitOpen
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import LEASE, OK, T0, add, claim, contact, make_settings, refused, trip


class Counted(Connection):
    """Counts what it sends: a pipeline is one."""

    sent = 0

    def send_packed_command(self, command: object, check_health: bool = True) -> None:
        Counted.sent += 1
        super().send_packed_command(command, check_health=check_health)


@pytest.fixture
def store(real_redis: redis.Redis, redis_server: RedisServer) -> Iterator[CallStore]:
    real_redis.script_flush()
    with connect(redis_server.url, connect_timeout=1, timeout=2) as client:
        client.connection_pool.connection_class = Counted
        store = CallStore(Scripts(client), make_settings())
        # Every script, once: they are loaded then, and the connection is made.
        for id, verdict in zip(add(store, "a", "b"), (steps.PLACED, steps.FAILED), strict=True):
            steps.attempt(store, id, verdict)
        store.dispatch(9, now=T0)
        gate = CircuitBreaker(store.scripts, "crm", policy_of(store.settings.services[DIALER]))
        steps.send(gate, OK, T0)
        yield store


@pytest.fixture
def gate(store: CallStore) -> CircuitBreaker:
    return CircuitBreaker(store.scripts, DIALER, policy_of(store.settings.services[DIALER]))


@contextmanager
def costing(round_trips: int) -> Iterator[None]:
    """Fails unless so many are made."""
    before = Counted.sent
    yield
    assert Counted.sent - before == round_trips


def test_an_attempt_costs_two_round_trips(store: CallStore) -> None:
    [id] = add(store, "1")

    with costing(1):
        begun = claim(store, id)
    with costing(1):
        store.finish(begun, steps.RETRY, now=T0)


def test_a_contact_from_another_service_costs_no_more(store: CallStore) -> None:
    with costing(1):
        store.begin("spring:1", "me", contact=contact("1"), campaign="spring", now=T0)


def test_a_shut_gate_refuses_a_call_in_one_round_trip(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    trip(gate)

    with costing(1):
        refused(store, id)


def test_the_breaker_costs_one_round_trip_a_step(gate: CircuitBreaker) -> None:
    with costing(1):
        permit = gate.admit("one", LEASE, now=T0)
    with costing(1):
        gate.report(permit, OK, now=T0)
    with costing(24):
        steps.send(gate, steps.SICK, T0, times=12)
    with costing(1), pytest.raises(CircuitOpen):
        gate.admit("two", LEASE, now=T0)


def test_a_list_costs_one_round_trip_for_two_hundred_contacts(store: CallStore) -> None:
    people = [contact(str(n)) for n in range(1000)]

    with costing(5):
        store.enqueue(people, "spring", now=T0)
    with costing(1):
        store.dispatch(100, now=T0)


def test_a_restarted_redis_is_told_its_scripts_again(store: CallStore, real_redis: redis.Redis) -> None:
    [id] = add(store, "1")

    real_redis.script_flush()

    with costing(3):
        claim(store, id)
