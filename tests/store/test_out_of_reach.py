"""A Redis that is gone, hangs or is stopped: every step says so within its bounds, and does its work once it is back.

redis-py's defaults take 4 s for a refused connection and up to a minute for a server that hangs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from local.redis_server import RedisServer
from resilience.alerts.outbox import AlertOutbox
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.errors import StoreUnavailable
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import T0, add, contact, make_settings

# Three tries and their pauses; the rest is for a machine that is busy.
TRIES, REST_S = 3, 3.0

STEPS: dict[str, Callable[[Scripts, CallStore, CircuitBreaker], object]] = {
    "begin": lambda _, store, __: store.begin("spring:1", "me"),
    "enqueue": lambda _, store, __: store.enqueue([contact()], "spring"),
    "dispatch": lambda _, store, __: store.dispatch(9),
    "get": lambda _, store, __: store.get("spring:1"),
    "history": lambda _, store, __: store.history("spring:1"),
    "stats": lambda _, store, __: store.stats(),
    "calls": lambda _, store, __: list(store.calls()),
    "admit": lambda _, __, gate: gate.admit("me", 43),
    "health": lambda _, __, gate: gate.health(True, rise=2, fall=3),
    "slot": lambda scripts, _, __: scripts.take_slot("dispatch", 1),
    "alerts": lambda scripts, _, __: AlertOutbox(scripts).take_due(now=T0, again=1),
}


@pytest.fixture(params=["refused", "hung"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """One where nobody listens, or where whoever listens never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        number = listener.getsockname()[1]
        if request.param == "refused":
            listener.close()
        yield number


def bounded(step: Callable[[], object], timeout: float) -> None:
    """Runs what must raise StoreUnavailable within the bound that follows from the client's two timeouts."""
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as given:
        step()
    assert time.monotonic() - started < TRIES * 2 * timeout + REST_S
    assert "secret" not in str(given.value)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_says_so_within_its_bound(port: int, step: str) -> None:
    url = f"redis://:secret@127.0.0.1:{port}/0"
    with connect(url, connect_timeout=0.05, timeout=0.05) as client:
        scripts, settings = Scripts(client), make_settings()
        gate = CircuitBreaker(scripts, DIALER, policy_of(settings.services[DIALER]))

        bounded(lambda: STEPS[step](scripts, CallStore(scripts, settings), gate), timeout=0.05)


def test_a_redis_that_is_suspended_and_comes_back_has_lost_and_doubled_nothing(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, connect(server.url, connect_timeout=0.3, timeout=0.3) as client:
        store = CallStore(Scripts(client), make_settings())
        [id] = add(store, "1")
        claim = steps.claim(store, id)

        server.suspend()
        bounded(lambda: store.finish(claim, steps.RETRY, now=T0), timeout=0.3)
        server.resume()

        # What was sent while it slept may have been carried out when it woke: then this is a repetition.
        assert store.finish(claim, steps.RETRY, now=T0).answer in ("done", "repeated")
        assert (store.get(id)["state"], store.get(id)["attempts"]) == ("retrying", "1")
        assert store.stats()["retrying"] == 1


def test_a_redis_that_is_killed_and_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, appendonly=True) as server,
        connect(server.url, connect_timeout=0.3, timeout=0.3) as client,
    ):
        store = CallStore(Scripts(client), make_settings())
        ringing, waiting = add(store, "1", "2")
        claim = steps.claim(store, ringing)

        server.kill()
        bounded(lambda: store.finish(claim, steps.PLACED, now=T0), timeout=0.3)
        server.start()

        assert store.finish(claim, steps.PLACED, now=T0).answer == "done"
        assert store.dispatch(9, now=T0 + 60).place == [waiting]
