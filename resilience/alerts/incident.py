"""One incident: what is wrong with one service in one way, and what the admin was notified of.

Moments are unix seconds of the server's clock, 0 for none. Incidents are kept in Redis as JSON: a field that this
release does not know is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any

from resilience.alerts.kinds import Kind

EXAMPLES = 3
VARIES = re.compile(r"\b(?!\d{3}\b)\w*\d\w*\b")  # counts and ids in a reason, but no status such as 401


class Notice(StrEnum):
    """What an alert says of an incident."""

    OPENED = "opened"
    DIGEST = "digest"
    REMINDER = "reminder"
    FLAPPING = "flapping"
    RESOLVED = "resolved"


@dataclass(frozen=True)
class Group:
    """Some events of one kind: how many since when, and the first three as (call id, reason)."""

    count: int = 0
    since: float = 0.0
    examples: tuple[tuple[str, str], ...] = ()

    def plus(self, other: Group) -> Group:
        """Both together."""
        since = min(self.since or other.since, other.since or self.since)
        return Group(self.count + other.count, since, (*self.examples, *other.examples)[:EXAMPLES])


@dataclass(frozen=True)
class Incident:
    """`since`: it began; `fired`: it fired last; `ended`: it ended last; `at`: its latest event."""

    service: str
    kind: Kind
    since: float
    fired: float
    at: float
    ended: float = 0.0
    times: int = 1  # how often it fired since it began
    reason: str = ""
    causes: tuple[str, ...] = ()  # all since it began, and of the one before it where this follows soon
    cause_changed: bool = False  # nobody was notified of the present cause
    by_hand: bool = False  # an operator opened, held or closed
    held: bool = False  # service_down: the gate is held, so waiting does not help
    until: float = 0.0  # service_down: when the next probe may go out
    waiting: int = 0  # service_down: calls that waited at the last transition
    resumed: int = 0  # service_down: calls released since it fired
    calls: Mapping[str, Group] = field(default_factory=dict)  # service_down: what is counted with it, by kind
    new: Group = Group()  # of a kind without an end: what nobody was notified of
    total: int = 0  # of a kind without an end: all since it began
    notified_at: float = 0.0
    notice: str = ""  # the last one
    flaps: bool = False  # a notice said that it flaps
    silenced: bool = False  # it fired while its service was silenced
    held_for_quiet_hours: bool = False
    notice_count: int = 0
    alerts: tuple[str, ...] = ()  # the ids of the last ones

    @property
    def fires(self) -> bool:
        """It has not ended."""
        return not self.ended

    def as_dict(self) -> dict[str, Any]:
        """As plain data, without what is at its default."""
        plain = asdict(self)
        defaults = asdict(Incident(self.service, self.kind, self.since, self.fired, self.at))
        required = ("service", "kind", "since", "fired", "at")
        return {k: v for k, v in plain.items() if k in required or v != defaults[k]}

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict())


# What the first release called these. An incident that it stored must not be notified anew.
FORMER_FIELDS = {
    "told": "notified_at",
    "word": "notice",
    "hushed": "silenced",
    "kept": "held_for_quiet_hours",
    "said": "notice_count",
}
FORMER_NOTICES = {"first": "opened", "more": "digest", "repeat": "reminder"}


def load(data: Mapping[str, Any]) -> Incident:
    """An incident from what `as_dict` gave."""
    named = {FORMER_FIELDS.get(name, name): value for name, value in data.items()}
    known = {f.name: named[f.name] for f in fields(Incident) if f.name in named}
    known["kind"] = Kind(known["kind"])
    known["notice"] = load_notice(known.get("notice", ""))
    known["calls"] = {kind: _group(group) for kind, group in known.get("calls", {}).items()}
    known["new"] = _group(known.get("new", {}))
    known["alerts"], known["causes"] = tuple(known.get("alerts", ())), tuple(known.get("causes", ()))
    if data.get("told"):  # the first release kept no causes, but whether a hold was notified
        held = f"service_held {constant(data.get('reason', ''))}"
        known["causes"] = ("breaker_opened", held) if data.get("held") else ("breaker_opened",)
        known["cause_changed"] = bool(data.get("held")) and not data.get("told_held")
    return Incident(**known)


def load_notice(stored: str) -> str:
    """The present name of a notice."""
    return FORMER_NOTICES.get(stored, stored)


def _group(data: Mapping[str, Any]) -> Group:
    examples = tuple((id, reason) for id, reason in data.get("examples", ()))
    return Group(data.get("count", 0), data.get("since", 0.0), examples)


def constant(reason: str) -> str:
    """What is the same in each reason of one cause."""
    return VARIES.sub("", reason)
