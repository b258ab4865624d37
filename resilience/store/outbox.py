"""Work that must reach a task of its own: kept here until that task says it is over.

A member that is handed out comes due again unless it is done, so a message that gets lost costs time only.
"""

from __future__ import annotations

from typing import Any

from resilience.store.scripts import Scripts, reached


class Outbox:
    """One ZSET of members by the unix second when they are due. Every method raises StoreUnavailable."""

    def __init__(self, scripts: Scripts, name: str) -> None:
        self.client, self.key = scripts.client, scripts.key(name, "due")

    def take_due(self, *, now: float, again: float, most: int = 100) -> list[str]:
        """The members due, oldest first. Each comes due again after `again` seconds."""
        with reached():
            members: Any = self.client.zrangebyscore(self.key, "-inf", now, start=0, num=most)
            if members:
                self.client.zadd(self.key, dict.fromkeys(members, now + again), xx=True)
        return list(members)

    def later(self, member: str, at: float) -> None:
        """Comes due at that unix second instead, if it is still here."""
        with reached():
            self.client.zadd(self.key, {member: at}, xx=True)

    def waits(self, member: str) -> bool:
        """Whether it is not done yet."""
        with reached():
            return self.client.zscore(self.key, member) is not None

    def done(self, member: str) -> bool:
        """It is over. False: it was over before."""
        with reached():
            return bool(self.client.zrem(self.key, member))
