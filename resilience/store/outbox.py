"""An outbox: work that must be done by a task of its own, kept here until that task has done it.

A script that ends a call enrols it in every outbox that is on. A member that is taken comes due again unless it is
done, so a message that gets lost costs time only.
"""

from __future__ import annotations

from resilience.store.scripts import Scripts, ms, store_errors


class Outbox:
    """One ZSET of members, scored by the unix second when they are due. Every method raises StoreUnavailable.

    `now` is unix seconds, the server's time where it is left out.
    """

    def __init__(self, scripts: Scripts, name: str) -> None:
        self.scripts, self.name, self.key = scripts, name, scripts.key(name, "due")

    def take_due(self, *, again: float, most: int = 100, now: float | None = None) -> list[str]:
        """The members that are due, oldest first. Each comes due again after `again` seconds."""
        args = {"outbox": self.name, "again": ms(again), "most": most}
        return list(self.scripts.run("outbox_take", args, now))

    def later(self, member: str, delay: float, *, now: float | None = None) -> bool:
        """Puts a member off by `delay` seconds. False: it is done."""
        args = {"outbox": self.name, "member": member, "delay": ms(delay)}
        return bool(self.scripts.run("outbox_later", args, now))

    def waits(self, member: str) -> bool:
        """Whether the member is not done yet."""
        with store_errors():
            return self.scripts.client.zscore(self.key, member) is not None

    def done(self, member: str) -> bool:
        """Takes a member out. False: it was done before."""
        return bool(self.scripts.run("outbox_done", {"outbox": self.name, "member": member}))
