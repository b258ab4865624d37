"""Beat adds no tick to a queue that nobody reads, and goes on when it is read again.

What happened: without a control worker two ticks a second piled up in Redis, 1 kB each, without a bound; a control
worker that came back after a day had 180,000 of them to take before any alert was delivered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import redis

from demo.processes import ROOT
from local.redis_server import RedisServer
from tasks.worker.schedule import MOST

THREE_TICKS = """
from tasks.celery import app
from tasks.worker.schedule import BoundedScheduler

assert app.conf.beat_scheduler == "tasks.worker.schedule:BoundedScheduler"
scheduler = BoundedScheduler(app, schedule_filename="schedule")
for _ in range(3):
    scheduler.apply_entry(scheduler.schedule["dispatch"])
"""


def tick_three_times(folder: Path, url: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ELEVEN_API_KEY": "key", "REDIS_URL": url}
    subprocess.run([sys.executable, "-c", THREE_TICKS], cwd=folder, env=environment, check=True, timeout=60)


def test_beat_leaves_ticks_out_while_their_queue_is_full(
    tmp_path: Path, redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    real_redis.lpush("control", *["{}"] * (MOST - 1))

    tick_three_times(tmp_path, redis_server.url)

    assert real_redis.llen("control") == MOST


def test_beat_goes_on_once_the_queue_is_read(
    tmp_path: Path, redis_server: RedisServer, real_redis: redis.Redis
) -> None:
    real_redis.lpush("control", *["{}"] * (MOST - 3))

    tick_three_times(tmp_path, redis_server.url)

    assert real_redis.llen("control") == MOST
