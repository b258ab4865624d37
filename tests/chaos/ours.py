"""What the traps do with a fleet of the product, and what they observe."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from resilience.calls.contacts import Contact
from resilience.calls.store import CallStore
from resilience.store.scripts import Scripts
from tests.chaos.fleet import Fleet
from tests.chaos.plain import held
from tests.support import PREFIX, wait_until

PHONE = "+14155550111"


class Ours:
    """One fleet, and the campaign `trap` on it. `until` waits, and keeps the fleet supervised meanwhile."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.store = CallStore(Scripts(fleet.redis), fleet.settings)

    def until(self, predicate: Callable[[], Any], timeout: float, what: str) -> Any:
        return wait_until(lambda: self.fleet.supervise() or predicate(), timeout, what)

    def enqueue(self, contact: str) -> None:
        self.store.enqueue([Contact(contact, PHONE)], "trap")

    def state(self, contact: str) -> str:
        return self.store.get(f"trap:{contact}").get("state", "")

    def rang(self, contact: str) -> int:
        return sum(ring["call_id"] == f"trap:{contact}" for ring in self.fleet.control("rang")["rang"])

    def fault(self, kind: str, seconds: float = 0.0, count: int = 1) -> None:
        self.fleet.control("fault", service="elevenlabs", endpoint="dial", kind=kind, seconds=seconds, count=count)

    def dialing(self, contact: str, seconds: float = 0.9) -> None:
        """Enqueues a contact whose dial takes `seconds`, and waits until its telephone rings."""
        self.fault("slow", seconds)
        self.enqueue(contact)
        self.until(lambda: self.rang(contact), 15, "the telephone to ring")

    def kill(self, *names: str) -> None:
        for name in names:
            self.fleet.members[name].signal(signal.SIGKILL)

    @contextmanager
    def benched(self, name: str) -> Iterator[None]:
        """Keeps a member down inside the block."""
        member = self.fleet.members[name]
        member.benched = True
        self.kill(name)
        self.until(lambda: member.process is None, 10, f"{name} to end")
        yield
        member.benched = False

    def popped(self, contact: str) -> bool:
        """Enqueues a contact and waits until its message is published. Returns whether Redis no longer holds it."""
        client, id = self.fleet.redis, f"trap:{contact}"
        self.enqueue(contact)
        self.until(lambda: client.zscore(f"{PREFIX}:backlog", id) is None, 10, "the dispatcher to take the call")
        tick = client.get(f"{PREFIX}:dispatched")
        self.until(lambda: client.get(f"{PREFIX}:dispatched") != tick, 10, "the dispatcher to have published")
        return held(client, id) == 0

    def send_again(self, contact: str) -> None:
        """Sends the message of the call four times more."""
        with Celery(broker=self.fleet.server.url, set_as_current=False) as app:
            for _ in range(4):
                app.send_task("tasks.calls.place_call", kwargs={"call_id": f"trap:{contact}"}, queue="calls")

    def events(self, contact: str) -> list[dict[str, Any]]:
        return self.store.history(f"trap:{contact}")

    def placed_once(self, contact: str, timeout: float = 40) -> None:
        """Waits until the call is placed, and asserts that its telephone rang once."""
        self.until(lambda: self.fleet.is_up and self.state(contact) == "placed", timeout, f"{contact} to be placed")
        assert self.rang(contact) == 1
