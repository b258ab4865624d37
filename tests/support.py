"""What tests of every tier share: waiting for a condition instead of sleeping, and what Redis holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from resilience.calls.call import State

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
PREFIX = "{lineman}"
KEPT_FOR_EVER = {f"{PREFIX}:stats", f"{PREFIX}:events"}
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)  # gives a process another clock
# In CI it must be there (.ci/run installs it), so that these tests are not left out by mistake.
needs_faketime = pytest.mark.skipif(
    FAKETIME is None and not os.environ.get("CI"), reason="needs libfaketime (apt-get install faketime)"
)
READERS = {"string": "get", "hash": "hgetall", "list": "lrange", "zset": "zrange", "stream": "xrange"}


def wait_until(predicate: Callable[[], T], timeout: float = 10, what: str = "a condition") -> T:
    """Asks until the answer is true, and returns it. Seconds. Fails with what was waited for and the last answer."""
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while True:
        seen = predicate()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; last seen: {seen!r}")
        time.sleep(0.01)


def dump(client: redis.Redis) -> dict[str, Any]:
    """Everything the store holds, by key. Two dumps are equal where nothing was written in between."""
    options: dict[str, Any] = {"list": {"start": 0, "end": -1}, "zset": {"start": 0, "end": -1, "withscores": True}}
    found = {}
    for key in sorted(client.scan_iter(f"{PREFIX}*")):
        kind = client.type(key)
        found[key] = getattr(client, READERS[kind])(key, **options.get(kind, {}))
    return found


def leaked_keys(client: redis.Redis) -> list[str]:
    """Keys that would stay for ever. Empty as long as one call is not terminal: its keys may not expire."""
    states = [client.hget(key, "state") for key in client.scan_iter(f"{PREFIX}:call:*")]
    if not all(State(state).is_terminal for state in states):
        return []
    keys = sorted(set(client.scan_iter(f"{PREFIX}*")) - KEPT_FOR_EVER)
    return [key for key in keys if client.ttl(key) == -1]
