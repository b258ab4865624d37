"""A real Redis, whose clock is virtual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis

from resilience.errors import StoreUnavailable
from resilience.store.scripts import Scripts
from tests.simulation.provider import EPOCH
from tests.simulation.scheduler import Host, Scheduler


class VirtualRedis:
    """A client of a Redis whose clock is virtual."""

    def __init__(self, client: redis.Redis, clock: Callable[[], float]) -> None:
        self._client, self._clock = client, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def time(self) -> tuple[int, int]:
        return divmod(round(self._clock() * 1_000_000), 1_000_000)


class VirtualScripts(Scripts):
    """Every script runs at Redis's virtual time. Redis may be away, or its answer may get lost."""

    def __init__(self, client: redis.Redis, scheduler: Scheduler, host: Host) -> None:
        self.host, self.scheduler = host, scheduler
        self.away_until, self.replies_to_lose = 0.0, 0
        self._slots: dict[str, float] = {}
        super().__init__(VirtualRedis(client, self.clock))  # type: ignore[arg-type]

    def clock(self) -> float:
        return EPOCH + self.scheduler.now + self.host.ahead

    def run(self, name: str, args: Mapping[str, Any], now: float | None = None, *, pipe: Any = None) -> Any:
        if self.scheduler.now < self.away_until:
            raise StoreUnavailable("away", service="redis", code="ConnectionError")
        answer = super().run(name, args, self.clock() if now is None else now, pipe=pipe)
        if self.replies_to_lose and name in ("begin_attempt", "finish_attempt", "dispatch", "resolve_doubt"):
            self.replies_to_lose -= 1
            raise StoreUnavailable("the reply got lost", service="redis", code="TimeoutError")
        return answer

    def take_slot(self, name: str, seconds: float) -> bool:
        """The slot's key has the life that it would have by the virtual clock: the one TTL that is ever read."""
        key = self.key("slot", name)
        left = self._slots.get(key, 0.0) - self.clock()
        if left <= 0:
            self.client.delete(key)
        else:
            self.client.pexpire(key, max(1, round(left * 1000)))
        taken = super().take_slot(name, seconds)
        if taken:
            self._slots[key] = self.clock() + seconds
        return taken
