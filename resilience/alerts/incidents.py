"""What is wrong with one service in one way, as it stands: the value that the alerts are decided on.

Moments are unix seconds, 0 for none. It is kept in Redis as JSON: a field that an older or newer release wrote and
this one does not know is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, Literal

EXAMPLES = 3
LONGEST = 300  # characters of a reason
ALERTS_KEPT = 5  # ids of the last alerts


Severity = Literal["critical", "warning", "info"]


class Kind(StrEnum):
    """The ways in which something can be wrong."""

    SERVICE_DOWN = "service_down"
    HEALTH_DOWN = "health_down"
    CHANNEL_BROKEN = "channel_broken"
    DISPATCHER_SILENT = "dispatcher_silent"
    STORE_AWAY = "store_away"
    CALL_FAILED = "call_failed"
    CALL_NEEDS_REVIEW = "call_needs_review"
    CALL_DOUBT_LONG = "call_doubt_long"
    CALL_RANG_TWICE = "call_rang_twice"
    CONTACT_REFUSED = "contact_refused"
    UNKNOWN_ERROR = "unknown_error"
    SERVICE_THROTTLED = "service_throttled"
    TEST = "test"

    @property
    def severity(self) -> Severity:
        """critical, warning, or info for a test."""
        if self in CRITICAL:
            return "critical"
        return "info" if self is Kind.TEST else "warning"

    @property
    def ends(self) -> bool:
        """Whether it lasts until an event ends it; the others happen, and are counted."""
        return self in ENDING


ENDING = {Kind.SERVICE_DOWN, Kind.HEALTH_DOWN, Kind.CHANNEL_BROKEN, Kind.DISPATCHER_SILENT, Kind.STORE_AWAY}
CRITICAL = {Kind.SERVICE_DOWN, Kind.CALL_RANG_TWICE, Kind.DISPATCHER_SILENT, Kind.STORE_AWAY}
# What an outage does to calls is told with the outage. A call that rang twice is no outage's doing.
FOLDED = (Kind.CALL_FAILED, Kind.CALL_NEEDS_REVIEW, Kind.CALL_DOUBT_LONG, Kind.UNKNOWN_ERROR, Kind.SERVICE_THROTTLED)


class Word(StrEnum):
    """What is said of an incident."""

    FIRST = "first"
    MORE = "more"
    REPEAT = "repeat"
    FLAPPING = "flapping"
    RESOLVED = "resolved"
    NOTHING = "nothing"


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
    held: bool = False  # service_down: the gate is held, so waiting does not help
    until: float = 0.0  # service_down: when the next probe may go out
    waiting: int = 0  # service_down: calls that waited at the last transition
    resumed: int = 0  # service_down: calls released since it fired
    calls: Mapping[str, Group] = field(default_factory=dict)  # service_down: what is folded in, by kind
    new: Group = Group()  # of a kind without an end: what nobody was told of
    total: int = 0  # of a kind without an end: all since it began
    told: float = 0.0  # when a person was last told
    word: str = ""  # what they were told
    told_held: bool = False
    flaps: bool = False  # they were told that it flaps
    hushed: bool = False  # it fired while its service was silenced
    kept: bool = False  # kept back by the quiet hours
    said: int = 0  # alerts so far
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


def load(data: Mapping[str, Any]) -> Incident:
    """An incident from what `as_dict` gave."""
    known = {f.name: data[f.name] for f in fields(Incident) if f.name in data}
    known["kind"] = Kind(known["kind"])
    known["calls"] = {kind: _group(group) for kind, group in known.get("calls", {}).items()}
    known["new"] = _group(known.get("new", {}))
    known["alerts"] = tuple(known.get("alerts", ()))
    return Incident(**known)


def _group(data: Mapping[str, Any]) -> Group:
    examples = tuple((id, reason) for id, reason in data.get("examples", ()))
    return Group(data.get("count", 0), data.get("since", 0.0), examples)
