"""A Redis that would lose calls is found by one INFO: it evicts, it has no file, it refuses INFO, it is too old."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from local.redis_server import RedisServer
from resilience.errors import StoreUnavailable
from resilience.store.connection import connect
from resilience.store.requirements import Persistence, examine


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, appendonly=True) as server:
        yield server


@pytest.fixture
def sound(server: RedisServer) -> Iterator[redis.Redis]:
    with connect(server.url, connect_timeout=1, timeout=1) as client:
        yield client


def marks(client: redis.Redis, persistence: Persistence = "required") -> dict[str, str]:
    return {finding.what: finding.mark for finding in examine(client, persistence)}


def test_a_sound_redis_is_taken(sound: redis.Redis) -> None:
    assert marks(sound) == {"redis": "ok", "eviction": "ok", "appendonly": "ok"}


def test_one_that_evicts_is_not(sound: redis.Redis) -> None:
    sound.config_set("maxmemory-policy", "volatile-ttl")

    assert marks(sound, "optional")["eviction"] == "FAIL"


@pytest.mark.parametrize(("persistence", "mark"), [("required", "FAIL"), ("optional", "warn")])
def test_one_without_its_file_is_taken_only_where_that_is_optional(
    sound: redis.Redis, persistence: Persistence, mark: str
) -> None:
    sound.config_set("appendonly", "no")

    assert marks(sound, persistence)["appendonly"] == mark


def test_one_that_refuses_info_is_not(server: RedisServer, sound: redis.Redis) -> None:
    sound.execute_command("ACL", "SETUSER", "us", "on", ">pw", "~*", "&*", "+@all", "-info")

    with connect(server.url.replace("//", "//us:pw@"), connect_timeout=1, timeout=1) as client:
        (finding,) = examine(client, "optional")

    assert (finding.mark, finding.what) == ("FAIL", "redis")
    assert "+info" in finding.text


def test_one_that_is_out_of_reach_says_nothing_about_itself(server: RedisServer, sound: redis.Redis) -> None:
    server.stop()

    with pytest.raises(StoreUnavailable):
        list(examine(sound, "required"))
