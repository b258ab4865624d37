"""What goes on: one incident a service and kind, and how each event of the stream changes them. Pure.

`apply` takes an event in, `forget` drops an incident that is over. What an outage does to the calls of its service is
counted with the outage. Moments are unix seconds of the server's clock, 0 for none. Incidents are kept in Redis as
JSON: a field that this release does not know is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from resilience.alerts.kinds import COUNTED, ENDED_BY, FIRED_BY, FOLDED, Kind

EXAMPLES = 3
LONGEST = 300  # characters of a reason
ALERTS_KEPT = 5  # ids of the last alerts
LONG_PAUSE = 60.0  # seconds; a shorter throttle is daily business


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
    held: bool = False  # service_down: the gate is held, so waiting does not help
    until: float = 0.0  # service_down: when the next probe may go out
    waiting: int = 0  # service_down: calls that waited at the last transition
    resumed: int = 0  # service_down: calls released since it fired
    calls: Mapping[str, Group] = field(default_factory=dict)  # service_down: what is counted with it, by kind
    new: Group = Group()  # of a kind without an end: what nobody was notified of
    total: int = 0  # of a kind without an end: all since it began
    notified_at: float = 0.0
    notice: str = ""  # the last one
    hold_notified: bool = False
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
    "told_held": "hold_notified",
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
    known["alerts"] = tuple(known.get("alerts", ()))
    return Incident(**known)


def load_notice(stored: str) -> str:
    """The present name of a notice."""
    return FORMER_NOTICES.get(stored, stored)


def _group(data: Mapping[str, Any]) -> Group:
    examples = tuple((id, reason) for id, reason in data.get("examples", ()))
    return Group(data.get("count", 0), data.get("since", 0.0), examples)


State = Mapping[str, Incident]


def key_of(kind: Kind, service: str) -> str:
    """The name of the incident of this kind and service."""
    return f"{kind}:{service}"


def apply(state: State, event: Mapping[str, str], group_interval: float) -> State:
    """The incidents after this event of the stream. `group_interval` is in seconds."""
    name, service = event.get("event", ""), event.get("service", "")
    if not event.get("at", "").isdigit():
        return state  # not one of ours: it must not stop those after it
    if name in FIRED_BY:
        return _fire(state, FIRED_BY[name], service, event, group_interval)
    if name in ENDED_BY:
        return _end(state, ENDED_BY[name], service, event)
    return _happen(state, name, service, event)


def forget(state: State, key: str) -> State:
    """Without that incident. Calls counted with an outage that was never notified count by themselves again."""
    gone = state[key]
    state = {name: incident for name, incident in state.items() if name != key}
    if gone.notice != Notice.RESOLVED:
        for kind, group in gone.calls.items():
            state = _count(state, Kind(kind), gone.service, group)
    return state


def _happen(state: State, name: str, service: str, event: Mapping[str, str]) -> State:
    down = state.get(key_of(Kind.SERVICE_DOWN, service))
    if name == "call_released" and down and down.fires:
        return _with(state, replace(down, resumed=down.resumed + 1))
    kind = _counted(name, event)
    if kind is None:
        return state
    group = Group(1, _at(event), ((event.get("call_id", ""), _reason(event)),))
    if kind in FOLDED and down and down.fires:
        return _with(state, _fold(down, kind, group))
    return _count(state, kind, service, group)


def _counted(name: str, event: Mapping[str, str]) -> Kind | None:
    if name == "call_in_doubt":
        return Kind.UNKNOWN_ERROR if event.get("code") in ("unknown", "unknown_status") else None
    if name == Kind.SERVICE_THROTTLED and _seconds(event.get("until")) - _at(event) < LONG_PAUSE:
        return None
    return Kind(name) if name in COUNTED else None


def _fire(state: State, kind: Kind, service: str, event: Mapping[str, str], group_interval: float) -> State:
    at, known = _at(event), state.get(key_of(kind, service))
    now = known or Incident(service, kind, since=at, fired=at, at=at)
    if known and not known.fires:
        unreported = {} if known.notice == Notice.RESOLVED else known.calls
        if at - known.ended < group_interval:
            now = replace(known, fired=at, ended=0.0, times=known.times + 1, calls=unreported)
        else:
            now = Incident(service, kind, since=at, fired=at, at=at, calls=unreported)
    now = replace(now, at=at, reason=_reason(event), held=event["event"] == "service_held",
                  until=_seconds(event.get("until")), waiting=int(event.get("waiting", 0)))  # fmt: skip
    if kind is Kind.SERVICE_DOWN:
        for of_call in FOLDED:
            pending = state.get(key_of(of_call, service))
            if pending and pending.new.count:
                now = _fold(now, of_call, pending.new)
                state = _with(state, replace(pending, new=Group()))
    return _with(state, now)


def _end(state: State, kind: Kind, service: str, event: Mapping[str, str]) -> State:
    firing = state.get(key_of(kind, service))
    if firing is None or not firing.fires:
        return state
    at = _at(event)
    return _with(state, replace(firing, at=at, ended=at, waiting=int(event.get("waiting", 0))))


def _count(state: State, kind: Kind, service: str, group: Group) -> State:
    start = group.since
    known = state.get(key_of(kind, service)) or Incident(service, kind, since=start, fired=start, at=start)
    reason = group.examples[0][1] if group.examples else ""
    new, total = known.new.plus(group), known.total + group.count
    return _with(state, replace(known, at=start, reason=reason, new=new, total=total))


def _fold(down: Incident, kind: Kind, group: Group) -> Incident:
    return replace(down, calls={**down.calls, kind: down.calls.get(kind, Group()).plus(group)})


def _with(state: State, incident: Incident) -> State:
    return {**state, key_of(incident.kind, incident.service): incident}


def _reason(event: Mapping[str, str]) -> str:
    return " ".join(event.get("reason", "").split())[:LONGEST]


def _at(event: Mapping[str, str]) -> float:
    return _seconds(event["at"])


def _seconds(ms: str | None) -> float:
    return int(ms or 0) / 1000
