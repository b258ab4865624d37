"""What a Redis must be to hold the store: workers refuse to start on any other, and `check` shows it.

A Redis that loses or evicts calls, or in which a restart cannot be noticed, breaks the promise that no contact is lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import redis

from resilience.store.connection import where
from resilience.store.scripts import store_errors

OLDEST = (6, 2)
Persistence = Literal["required", "optional"]


class Finding(NamedTuple):
    """What was found about `what`. `text` says what to do about it, where `mark` is not ok."""

    mark: Literal["ok", "warn", "FAIL"]
    what: str
    text: str


def examine(client: redis.Redis, persistence: Persistence) -> Iterator[Finding]:
    """Compares the server with what the store needs, by one INFO. Raises StoreUnavailable if it is out of reach."""
    try:
        with store_errors():
            info: Any = client.info()
    except redis.ResponseError:
        allow = "without it a restart that lost calls goes unnoticed; allow it, for example by ACL SETUSER NAME +info"
        yield Finding("FAIL", "redis", f"refuses INFO to this user: {allow}")
        return
    version = info["redis_version"]
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST:
        yield Finding("ok", "redis", f"{version} at {where(client)}")
    else:
        yield Finding("FAIL", "redis", f"{version} is older than 6.2: use a newer one")
    eviction = info.get("maxmemory_policy", "unknown")
    if eviction == "noeviction":
        yield Finding("ok", "eviction", eviction)
    else:
        yield Finding("FAIL", "eviction", f"{eviction}: an evicted call is lost; set maxmemory-policy noeviction")
    if info.get("aof_enabled"):
        yield Finding("ok", "appendonly", "on")
    else:
        what = "off: a crash of Redis loses calls; set appendonly yes"
        without = ", or redis.persistence: optional in config.yml to go on without"
        required = persistence == "required"
        yield Finding("FAIL" if required else "warn", "appendonly", what + (without if required else ""))
