"""A dispatcher that ticked while its broker was away never ticked again.

What happened: an error inside `with app.pool.acquire()` closes the connection and puts it back into the pool, which
gives it out again as it is; `connection.channel()` then fails with `AttributeError: 'NoneType' object has no
attribute ...`, for ever. What holds now: the queue is asked on a connection that is opened again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from demo.processes import ROOT
from local.redis_server import RedisServer

# A line for each line of its input: the queue's length, or that the broker is away.
SCRIPT = """
import sys
from kombu.exceptions import OperationalError
from tasks.dispatch import queue_length
print("ready", flush=True)
for _ in sys.stdin:
    try:
        print(queue_length("calls"), flush=True)
    except OperationalError:
        print("away", flush=True)
"""


def test_the_queue_is_asked_again_after_the_broker_was_away(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        env = os.environ | {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT]
        with subprocess.Popen(command, cwd=tmp_path, env=env, stdin=-1, stdout=-1, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def length() -> str:
                process.stdin.write("\n")
                process.stdin.flush()
                return process.stdout.readline().strip()

            assert process.stdout.readline() == "ready\n"
            before = length()
            server.stop()
            during = length()
            server.start()
            after = [length(), length()]
            process.stdin.close()

    assert (before, during, after) == ("0", "away", ["0", "0"])
