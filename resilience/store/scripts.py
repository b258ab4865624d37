"""The Lua scripts: every change of shared state is one of them, so it is atomic and takes one round trip.

A script names the shared files it uses in its first line; they are joined in front of it. Arguments travel as one
JSON object, times in it as whole milliseconds. Every script may be repeated with the same arguments: a call
whose reply got lost is sent again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import BusyLoadingError, ReadOnlyError

from resilience.errors import Sent, StoreFull, StoreUnavailable

FOLDER = Path(__file__).parent / "lua"
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, BusyLoadingError, ReadOnlyError)
# Redis 6.2 hides these in a script's error.
FULL = re.compile(r"(?:^|-)(OOM|STOREFULL)\b")
REFUSED = re.compile(r"(?:^|-)(READONLY|MISCONF|NOREPLICAS|BUSY|LOADING)\b|Link with MASTER is down")


@cache
def source(name: str) -> str:
    """A script's text with the shared files it uses in front."""
    text = (FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    uses = text.splitlines()[0].removeprefix("-- uses:").split()
    return "\n".join([*((FOLDER / "shared" / f"{part}.lua").read_text(encoding="utf-8") for part in uses), text])


class Scripts:
    """Runs the scripts on one Redis. Raises StoreUnavailable where Redis is out of reach."""

    def __init__(self, client: redis.Redis, prefix: str = "{lineman}") -> None:
        self.client, self.prefix = client, prefix
        self._loaded: dict[str, Any] = {}

    def key(self, *parts: str) -> str:
        """A key's full name."""
        return ":".join((self.prefix, *parts))

    def run(self, name: str, args: Mapping[str, Any], now: float | None = None, *, pipe: Any = None) -> Any:
        """Runs one script in one round trip, or adds it to the transaction `pipe` and returns None.

        Entries of `args` that are None are left out; `now` is in seconds.
        """
        given = {k: v for k, v in args.items() if v is not None}
        if now is not None:
            given["now"] = ms(now)
        if name not in self._loaded:
            self._loaded[name] = self.client.register_script(source(name))
        with store_errors():
            answer = self._loaded[name](keys=[self.prefix], args=[json.dumps(given)], client=pipe)
        return None if pipe is not None else json.loads(answer)

    def take_slot(self, name: str, seconds: float) -> bool:
        """Whether the caller is the first to ask for `name` in the last `seconds`: one runner a slot."""
        return bool(self.run("take_slot", {"name": name, "length": max(1, ms(seconds))}))


@contextmanager
def store_errors() -> Iterator[None]:
    """Raises StoreUnavailable where Redis is out of reach or takes no writes, StoreFull where it has no memory left."""
    try:
        yield
    except UNREACHABLE as exc:
        raise _unavailable(exc) from exc
    except redis.ResponseError as exc:
        if FULL.search(str(exc)) or isinstance(exc, redis.OutOfMemoryError):
            message = "Redis is full; it takes no new contacts until calls have ended or its `maxmemory` is raised"
            raise StoreFull(message, service="redis", code="full", sent=Sent.NO) from exc
        if not REFUSED.search(str(exc)):
            raise
        raise _unavailable(exc) from exc


def _unavailable(exc: Exception) -> StoreUnavailable:
    kind = type(exc).__name__
    return StoreUnavailable(
        f"Redis is out of reach ({kind}); nothing is dialed until it is back",
        service="redis",
        code=kind,
        sent=Sent.UNKNOWN,
    )


def ms(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)
