"""A worker that is connected and answers pings, but takes nothing from its queue, ends, and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from local import child_process
from resilience.calls.call import State
from tests.support import wait_until

Fleet = Any  # see conftest.py
SOON = {"calls": {"dispatch": {"republish": 1}}}


def start(fleet: Fleet, order: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "celery", "-A", "tests.worker.stuck_app", "worker", "-Q", "calls", "-c", "1"]
    log = (fleet.processes.folder / "stuck.log").open("ab")
    with log:
        return child_process.start(
            [*command, "-n", "stuck@test"],
            cwd=fleet.processes.folder,
            env=fleet.processes.env | {"GET_STUCK": str(order)},
            stdout=log,
            stderr=log,
        )


@pytest.mark.parametrize("own_fleet", [SOON], indirect=True, ids=[""])
def test_a_worker_that_takes_nothing_ends_and_one_that_works_does_not(own_fleet: Fleet, tmp_path: Path) -> None:
    fleet = own_fleet
    fleet.processes.kill("calls")
    order = tmp_path / "order"
    with start(fleet, order) as worker:
        fleet.send({"id": "1", "phone": "+14155550111"}, queue="calls")
        wait_until(lambda: fleet.state("1") == State.PLACED, timeout=20, what="a call by the worker while it is well")

        order.touch()
        with Celery(broker=fleet.processes.redis.url, set_as_current=False) as app:
            wait_until(lambda: _not_taken(fleet), timeout=20, what="a message that nobody takes")
            assert app.control.inspect(destination=["stuck@test"], timeout=1).ping()

        wait_until(lambda: worker.poll() is not None, timeout=20, what="the stuck worker to end")

    assert worker.returncode == 1
    assert [line["event"] for line in fleet.log()].count("worker_stuck") == 1
    fleet.processes.start("calls")
    wait_until(lambda: fleet.count(State.PLACED) == fleet.sent, timeout=20, what="the next worker to take it all")


def _not_taken(fleet: Fleet) -> bool:
    fleet.sent = getattr(fleet, "sent", 1) + 1
    fleet.send({"id": str(fleet.sent), "phone": "+14155550112"}, queue="calls")
    return fleet.redis.llen("calls") > 1
