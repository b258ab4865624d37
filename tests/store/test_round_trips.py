"""What each step costs: commands that Redis is sent, once the scripts are known to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from redis.connection import Connection

from resilience.call_store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.errors import CircuitOpen
from resilience.scripts import Scripts, connect
from tests.store import steps
from tests.store.steps import LEASE, OK, T0, add, claim, contact, make_settings, refused, trip


class Counted(Connection):
    """Counts what it sends: a pipeline is one."""

    sent = 0

    def send_packed_command(self, command: object, check_health: bool = True) -> None:
        Counted.sent += 1
        super().send_packed_command(command, check_health=check_health)


@pytest.fixture
def store(real_redis: redis.Redis, redis_server: object) -> Iterator[CallStore]:
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


def cost(step: Callable[[], object]) -> int:
    before = Counted.sent
    step()
    return Counted.sent - before


def test_an_attempt_costs_two_round_trips(store: CallStore) -> None:
    [id] = add(store, "1")
    claims = []

    assert cost(lambda: claims.append(claim(store, id))) == 1
    assert cost(lambda: store.finish(claims[0], steps.RETRY, now=T0)) == 1


def test_a_contact_from_another_service_costs_no_more(store: CallStore) -> None:
    assert cost(lambda: store.begin("spring:1", "me", contact=contact("1"), campaign="spring", now=T0)) == 1


def test_a_shut_gate_refuses_a_call_in_one_round_trip(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    trip(gate)

    assert cost(lambda: refused(store, id)) == 1


def test_the_breaker_costs_one_round_trip_a_step(gate: CircuitBreaker) -> None:
    permits = []

    assert cost(lambda: permits.append(gate.admit("one", LEASE, now=T0))) == 1
    assert cost(lambda: gate.report(permits[0], OK, now=T0)) == 1
    trip(gate)
    assert cost(lambda: pytest.raises(CircuitOpen, gate.admit, "two", LEASE, now=T0)) == 1


def test_a_list_costs_one_round_trip_for_two_hundred_contacts(store: CallStore) -> None:
    people = [contact(str(n)) for n in range(1000)]

    assert cost(lambda: store.enqueue(people, "spring", now=T0)) == 5
    assert cost(lambda: store.dispatch(100, now=T0)) == 1


def test_a_restarted_redis_is_told_its_scripts_again(store: CallStore, real_redis: redis.Redis) -> None:
    [id] = add(store, "1")

    real_redis.script_flush()

    assert cost(lambda: claim(store, id)) == 3
