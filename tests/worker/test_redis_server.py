"""The embedded Redis: it comes up, keeps its data, and never outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from local.redis_server import RedisServer, find
from resilience.errors import ConfigError
from tests.support import ROOT, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", appendonly=True, appendfsync="always") as server:
        yield server


def answers(url: str, **options: object) -> bool:
    with redis.Redis.from_url(url, retry=None, socket_timeout=0.2, **options) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def in_foreground(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "local.redis_server", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_started_server_answers_evicts_nothing_and_takes_no_snapshots(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        settings = client.config_get("*")

    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""
    assert settings["appendonly"] == "yes"
    assert settings["bind"] == "127.0.0.1"
    assert settings["protected-mode"] == "yes"


def test_a_stopped_server_is_gone_and_stopping_it_again_is_harmless(server: RedisServer) -> None:
    server.stop()
    server.stop()

    assert server.wait(0) == 0
    assert not answers(server.url)


def test_a_killed_server_comes_back_on_its_port_with_its_data(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.set("call", "queued")
    url = server.url

    server.kill()
    server.start()

    assert server.url == url
    with redis.Redis.from_url(url, decode_responses=True) as client:
        assert client.get("call") == "queued"


def test_a_suspended_server_is_silent_until_it_is_resumed_and_can_be_stopped(server: RedisServer) -> None:
    server.suspend()
    assert not answers(server.url)

    server.resume()
    assert answers(server.url)

    server.suspend()
    server.stop()
    assert server.wait(0) == 0


def test_two_servers_on_port_0_do_not_meet(server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "other") as other:
        assert other.port != server.port
        assert answers(other.url)


def test_a_taken_port_is_reported_and_the_process_on_it_is_left_alone(server: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Port {server.port} on 127.0.0.1 is taken: stop what listens there"):
        RedisServer(tmp_path / "second", port=server.port).start()

    assert answers(server.url)


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)redis\.log ends with:.*appendfsync.*argument must be one of"):
        RedisServer(tmp_path, appendonly=True, appendfsync="sometimes").start()


def test_a_redis_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"6\.2 or newer, and .*/redis-server is older: install it \(apt-get install"):
        find()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_server_ends_with_its_owner_even_when_that_one_is_killed(tmp_path: Path) -> None:
    owner = in_foreground("--port", "0", "--dir", tmp_path, "--", "sh", "-c", 'echo "$REDIS_URL"; exec sleep 60')
    with owner:
        assert owner.stdout
        url = owner.stdout.readline().strip()
        assert answers(url)

        owner.kill()

    wait_until(lambda: not answers(url), what="the orphaned server's end")


def test_in_the_foreground_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "before") as before:
        port, url = before.port, before.url

    with in_foreground("--port", str(port), "--dir", tmp_path / "data") as server:
        wait_until(lambda: answers(url), what="the server's first answer")
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0

    assert "User requested shutdown" in (tmp_path / "data" / "redis.log").read_text()
    assert not answers(url)


def test_a_command_finds_its_redis_again_after_that_was_killed_and_gives_its_exit_status(tmp_path: Path) -> None:
    script = (
        "import os, redis, signal\n"
        "client = redis.Redis.from_url(os.environ['REDIS_URL'], decode_responses=True)\n"
        "client.set('call', 'queued')\n"
        "client.config_set('appendfsync', 'always')\n"
        "pid = client.info()['process_id']\n"
        "os.kill(pid, signal.SIGKILL)\n"
        "while True:\n"
        "    try:\n"
        "        assert client.info()['process_id'] != pid and client.get('call') == 'queued'\n"
        "        raise SystemExit(7)\n"
        "    except redis.ConnectionError:\n"
        "        pass\n"
    )

    with in_foreground("--port", "0", "--dir", tmp_path, "--", sys.executable, "-c", script) as owner:
        _, shown = owner.communicate(timeout=20)

    assert owner.returncode == 7, shown
    assert "started again" in shown


def test_in_the_foreground_a_taken_port_is_one_sentence(server: RedisServer, tmp_path: Path) -> None:
    with in_foreground("--port", str(server.port), "--dir", tmp_path) as second:
        _, shown = second.communicate(timeout=20)

    assert second.returncode == 1
    assert shown == (
        f"Port {server.port} on 127.0.0.1 is taken: stop what listens there, choose another port, "
        f"or, if it is the Redis to use, set REDIS_URL=redis://127.0.0.1:{server.port}/0.\n"
    )


def test_a_folder_that_cannot_be_made_is_reported_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with in_foreground("--port", "0", "--dir", tmp_path / "file" / "data") as server:
        _, shown = server.communicate(timeout=20)

    assert server.returncode == 1
    assert shown.count(os.linesep) == 1
    assert "Not a directory" in shown
