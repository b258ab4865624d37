"""A worker does not start on a Redis that would lose calls, and says what to do. For a Redis out of reach it waits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from demo.processes import ROOT
from local import child_process
from local.redis_server import RedisServer, _free_port
from tests.support import wait_until

EVICTS = (("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"),)
NO_FILE = (("CONFIG", "SET", "appendonly", "no"),)
NO_INFO = (("ACL", "SETUSER", "us", "on", ">pw", "~*", "&*", "+@all", "-info"),)


@contextmanager
def worker(folder: Path, url: str, queue: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker whose output is in worker.log."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-Q", queue, "-c", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ELEVEN_API_KEY": "key", "REDIS_URL": url} | env
    with (folder / "worker.log").open("wb") as log:
        process = child_process.start(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("queue", ["calls", "control"])
@pytest.mark.parametrize(
    ("commands", "login", "says"),
    [
        (EVICTS, "", "eviction allkeys-lru: an evicted call is lost; set maxmemory-policy noeviction"),
        (
            NO_FILE,
            "",
            "appendonly off: a crash of Redis loses calls; set appendonly yes, or redis.persistence: optional",
        ),
        (NO_INFO, "us:pw@", "redis refuses INFO to this user"),
    ],
    ids=["evicts", "no file", "no INFO"],
)
def test_a_worker_refuses_a_redis_that_would_lose_calls(
    tmp_path: Path, queue: str, commands: tuple[tuple[str, ...], ...], login: str, says: str
) -> None:
    with RedisServer(tmp_path / "redis", appendonly=True) as server, redis.Redis.from_url(server.url) as client:
        for command in commands:
            client.execute_command(*command)
        with worker(tmp_path, server.url.replace("//", f"//{login}"), queue) as process:
            status = process.wait(30)

    shown = (tmp_path / "worker.log").read_text()
    assert status == 1, shown
    assert shown.splitlines()[0] == "the worker does not start:"
    assert f"Redis at 127.0.0.1:{server.port}: {says}" in shown
    assert "Traceback" not in shown


def test_a_worker_takes_a_redis_without_its_file_where_that_is_optional(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text((ROOT / "config.yml").read_text().replace("persistence: required", "persistence: optional"))
    log = tmp_path / "worker.log"
    with (
        RedisServer(tmp_path / "redis") as server,
        worker(tmp_path, server.url, "control", CONFIG_FILE=str(config)) as process,
    ):
        wait_until(lambda: " ready." in log.read_text(), timeout=30, what="the worker to be ready")
        assert process.poll() is None


def test_a_worker_waits_for_a_redis_that_is_out_of_reach(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    server = RedisServer(tmp_path / "redis", _free_port(), appendonly=True)
    with worker(tmp_path, server.url, "control") as process:
        wait_until(lambda: "Trying again" in log.read_text(), timeout=30, what="the worker to wait for Redis")
        assert process.poll() is None

        with server:
            wait_until(lambda: " ready." in log.read_text(), timeout=30, what="the worker to be ready")
