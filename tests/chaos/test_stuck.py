"""A worker that gets SIGTERM while Redis is away ends by itself.

What happened: the cold shutdown of Celery 5.7.0 runs in the signal handler, inside the wait for the next connection,
and blocks for ever on the pipe of a child that is gone. What holds now: tasks/worker/stuck_worker.py ends the worker
after the time of the longest task.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import CELERY, ROOT, Processes
from demo.timeline import Timeline
from demo.world import World
from local import child_process
from resilience.config.settings import load
from tests.support import wait_until


@pytest.mark.timeout(240)
def test_a_worker_told_to_stop_while_redis_is_away_ends(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text((ROOT / "config.yml").read_text().replace("read: 30}", "read: 2}").replace(
        "republish: 30 ", "republish: 3 "))  # fmt: skip
    settings = load(str(config))
    with Processes(tmp_path, config) as processes:
        world = World(processes, settings, Timeline(3))
        world.start()
        processes.kill("calls")
        with start(processes) as worker:
            world.control("fault", service="elevenlabs", endpoint="dial", kind="slow", seconds=1.5)
            for n in range(4):
                contact = {"id": str(n), "phone": f"+1415555010{n}"}
                processes.send_task("tasks.calls.place_call", {"contact": contact}, queue="calls")
            wait_until(lambda: len(world.control("rang")["rang"]) >= 2, what="dials that run")
            processes.redis.kill()
            wait_until(
                lambda: "Trying again" in processes.tail("worker", 20), timeout=20, what="the worker to reconnect"
            )

            os.kill(worker.pid, signal.SIGTERM)

            # The soft shutdown comes first, and takes up to a task's time limit.
            limit = 2 * settings.task_time_limit + 8 * settings.calls.dispatch.republish
            wait_until(lambda: worker.poll() is not None, timeout=limit, what="the worker to end")
        world.close()
        processes.redis.start()


def start(processes: Processes) -> subprocess.Popen[bytes]:
    """Starts a calls worker with two processes and the signals that Compose sets."""
    arguments = ["2" if argument == "1" else argument for argument in CELERY["calls"]]
    with (processes.folder / "worker.log").open("ab") as log:
        return child_process.start(
            [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
            cwd=processes.folder,
            env=processes.env | {"REMAP_SIGTERM": "SIGQUIT"},
            stdout=log,
            stderr=log,
        )
