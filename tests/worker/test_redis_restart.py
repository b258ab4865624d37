"""Celery 5.7.0's worker died when Redis restarted while a retry waited in it.

tasks/worker/kombu_fixes.py keeps it alive.

What happened: `Unrecoverable error: AttributeError 'NoneType' object has no attribute 'hostname'` out of the consumer's
shutdown, six times of six. What holds now: the same process reconnects and goes on consuming. The shim can go when
this passes without it.
"""

from __future__ import annotations

from typing import Any

import pytest

from resilience.calls.call import State
from tests.support import wait_until

Fleet = Any  # see conftest.py


LATE = {"services": {"elevenlabs": {"retry": {"initial_delay": 5}}}}


@pytest.mark.parametrize("own_fleet", [LATE], indirect=True, ids=[""])
def test_the_worker_lives_and_consumes_after_redis_restarts_while_a_retry_waits_in_it(own_fleet: Fleet) -> None:
    fleet = own_fleet
    fleet.fault("unavailable")
    fleet.send({"id": "1", "phone": "+14155550111"}, queue="calls")
    wait_until(lambda: fleet.state("1") == State.RETRYING, what="the retry to wait")
    wait_until(lambda: fleet.redis.hlen("unacked") == 1, what="the worker to hold the retry's message")
    pid = fleet.processes.pid("calls")

    fleet.processes.redis.stop()
    fleet.processes.redis.start()
    fleet.recover()

    fleet.send({"id": "2", "phone": "+14155550112"}, queue="calls")
    wait_until(lambda: fleet.state("2") == State.PLACED, timeout=20, what="the next call")
    wait_until(lambda: fleet.state("1") == State.PLACED, timeout=20, what="the call that waited")
    assert fleet.processes.pid("calls") == pid
    assert fleet.processes.dead() is None
