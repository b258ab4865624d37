"""Many at once on the real server: one claim a call, one probe a gate, one message a call and interval."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import redis

from local.redis_server import RedisServer
from resilience.calls.call import Claim
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, Permit, policy_of
from resilience.errors import CircuitOpen
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import LEASE, T0, add, look, make_settings, send, token, trip

T = TypeVar("T")
PROCESSES = 4
# Begins every call, each in a store of its own, as fast as it can; prints the attempts that it may dial.
WORKER = """
import json, sys
from resilience.calls.call import Claim
from resilience.calls.store import CallStore
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tests.store.steps import T0, make_settings, token
url, owner, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
with connect(url, connect_timeout=5, timeout=10) as client:
    store = CallStore(Scripts(client), make_settings())
    print("ready", flush=True)
    sys.stdin.readline()
    begun = [store.begin(id, f"{owner}-{id}", now=T0) for id in ids]
print(json.dumps([claim.attempt_id for claim in begun if isinstance(claim, Claim)]))
"""


@pytest.fixture
def client(real_redis: redis.Redis) -> redis.Redis:
    return real_redis


def at_once(times: int, step: Callable[[int], T]) -> list[T]:
    """What so many threads get that start together."""
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(step, range(times)))


def test_of_many_threads_that_begin_a_call_one_may_dial(store: CallStore) -> None:
    ids = add(store, *(str(n) for n in range(20)))

    begun = at_once(16, lambda _: [store.begin(id, token(), now=T0) for id in ids])

    claimed = Counter(claim.call_id for answers in begun for claim in answers if isinstance(claim, Claim))
    assert claimed == Counter(ids)


def test_of_many_processes_that_begin_a_call_one_may_dial(store: CallStore, redis_server: RedisServer) -> None:
    ids = add(store, *(str(n) for n in range(100)))
    command = [sys.executable, "-c", WORKER, redis_server.url]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, str(n), json.dumps(ids)], **pipes) for n in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"

    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    dialed = [id for worker in workers for id in json.loads(worker.communicate(timeout=60)[0])]

    assert sorted(dialed) == sorted(f"{id}:1" for id in ids)


def test_a_verdict_that_many_report_is_taken_once(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    claim = steps.claim(store, id)

    answers = at_once(16, lambda _: store.finish(claim, steps.RETRY, now=T0).answer)

    assert Counter(answers) == {"done": 1, "repeated": 15}
    send(gate, steps.SICK, T0, times=2)
    assert look(gate)["state"] == "closed"


def test_of_sixteen_that_ask_a_gate_that_may_recover_one_probes(gate: CircuitBreaker) -> None:
    trip(gate)

    def ask(n: int) -> Permit | float | None:
        try:
            return gate.admit(f"prober-{n}", LEASE, now=T0 + 30)
        except CircuitOpen as shut:
            return shut.retry_after

    answers = at_once(16, ask)

    assert Counter(isinstance(answer, Permit) for answer in answers) == {True: 1, False: 15}
    assert {answer for answer in answers if not isinstance(answer, Permit)} == {LEASE}


def test_a_failure_of_each_worker_counts(client: redis.Redis) -> None:
    policy = policy_of(make_settings({"circuit_breaker": {"failure_threshold": 64}}).services[DIALER])
    gates = [CircuitBreaker(Scripts(client), DIALER, policy) for _ in range(16)]

    at_once(16, lambda n: send(gates[n], steps.SICK, T0, times=3))
    assert look(gates[0])["state"] == "closed"
    send(gates[0], steps.SICK, T0, times=16)

    assert look(gates[0])["reason"].startswith("64 requests in a row")


def test_dispatchers_that_run_at_once_hand_each_call_out_once(store: CallStore) -> None:
    ids = add(store, *(str(n) for n in range(100)))
    doubtful, queued = ids[:3], ids[3:]  # too few to open the gate
    for id in doubtful:
        steps.claim(store, id)

    works = at_once(8, lambda _: [store.dispatch(5, now=T0 + LEASE) for _ in range(4)])

    assert Counter(id for ticks in works for work in ticks for id in work.place) == Counter(queued)
    assert Counter(id for ticks in works for work in ticks for id in work.look_up) == Counter(doubtful)


def test_lists_that_are_enqueued_at_once_create_each_call_once(store: CallStore) -> None:
    people = [steps.contact(str(n)) for n in range(300)]

    given = at_once(8, lambda _: store.enqueue(people, "spring", now=T0))

    assert sum(new for new, _ in given) == 300
    assert store.stats()["queued"] == 300
