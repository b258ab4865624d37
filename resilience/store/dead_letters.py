"""Dead letters: the messages that reached us and cannot be a call, each with its reason.

A letter is kept for the retention, at most `MOST` of them and `MOST_BYTES` together. It is reported by one event, in
the script that writes it. Its id comes from its message, so a message that is delivered again is the same letter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from resilience.redact import QUOTED, quoted
from resilience.store.events import Event
from resilience.store.scripts import Scripts, ms, store_errors

MOST = 10_000
MOST_BYTES = 64 * 1024 * 1024
MESSAGE_BYTES = 1024 * 1024  # a larger message is kept without its content
FACT = 50  # characters of a field in an alert
PAGE = 500


@dataclass(frozen=True)
class Letter:
    """A message and why it is dead. `message` is JSON in ASCII, empty where it was too large; the rest may be shown."""

    queue: str
    reason: str
    message: str
    task: str = ""
    task_id: str = ""
    origin: str = ""
    contact_id: str = ""
    campaign: str = ""

    @property
    def id(self) -> str:
        """12 hex digits, the same for the same message."""
        return hashlib.sha256(f"{self.queue} {self.task_id} {self.message}".encode()).hexdigest()[:12]

    def summary(self) -> str:
        """One line for an alert: the reason, and what the message says of itself."""
        facts = {"contact": self.contact_id, "campaign": self.campaign, "sent by": self.origin, "task": self.task,
                 "task id": self.task_id}  # fmt: skip
        return self.reason + "".join(f"; {name} {value[:FACT]}" for name, value in facts.items() if value)


class DeadLetters:
    """The letters in one Redis. Every method raises StoreUnavailable. `now` is unix seconds, else the server's time."""

    def __init__(self, scripts: Scripts, retention: float, *, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self.scripts, self._retention, self._most, self._most_bytes = scripts, retention, most, most_bytes

    def put(
        self, letter: Letter, *, event: Event = Event.MESSAGE_DEAD, service: str = "lineman", now: float | None = None
    ) -> bool:
        """Keeps the letter and reports it. False: it is known already."""
        args = {
            "id": letter.id,
            "letter": vars(letter),
            "summary": letter.summary(),
            "event": event,
            "service": service,
            "most": self._most,
            "most_bytes": self._most_bytes,
            "retention": ms(self._retention),
        }
        return bool(self.scripts.run("dead_put", args, now))

    def get(self, id: str) -> Mapping[str, str]:
        """A letter's fields and its `id`, `at` (unix ms), `times` and `bytes`; empty where there is none."""
        with store_errors():
            found: Mapping[str, str] = self.scripts.client.hgetall(self.scripts.key("dead", id))  # type: ignore[assignment]
        return found

    def all(self) -> Iterator[Mapping[str, str]]:
        """Every letter, newest first."""
        with store_errors():
            ids: list[str] = self.scripts.client.zrevrange(self.scripts.key("dead"), 0, -1)  # type: ignore[assignment]
        for start in range(0, len(ids), PAGE):
            with store_errors():
                pipe = self.scripts.client.pipeline(transaction=False)
                for id in ids[start : start + PAGE]:
                    pipe.hgetall(self.scripts.key("dead", id))
                found = pipe.execute()
            yield from filter(None, found)

    def drop(self, id: str) -> bool:
        """Removes a letter. False: there is none."""
        return bool(self.scripts.run("dead_drop", {"id": id}))

    def dropped(self) -> int:
        """How many letters were dropped for lack of room, ever."""
        with store_errors():
            count: str | None = self.scripts.client.hget(self.scripts.key("stats"), "dead_dropped")  # type: ignore[assignment]
        return int(count or 0)


def shown(value: object) -> str:
    """A field from outside as it may be shown: one line, cut, without secrets and phone numbers; empty for no text."""
    return quoted(str(value)[: 4 * QUOTED]) if isinstance(value, str | int) else ""
