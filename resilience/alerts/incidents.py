"""What goes on: one incident a service and kind, and how each event of the stream changes them. Pure.

`apply` takes an event in, `forget` drops an incident that is over. What an outage does to the calls of its service is
counted with the outage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from resilience.alerts.incident import Group, Incident, Notice, constant
from resilience.alerts.kinds import COUNTED, ENDED_BY, FIRED_BY, FOLDED, Kind

LONGEST = 300  # characters of a reason
LONGEST_NUMBER = 13  # digits: milliseconds until the year 2286
CAUSES_KEPT = 10
LONG_PAUSE = 60.0  # seconds; a shorter throttle is daily business

State = Mapping[str, Incident]


def key_of(kind: Kind, service: str) -> str:
    """The name of the incident of this kind and service."""
    return f"{kind}:{service}"


def apply(state: State, event: Mapping[str, str], group_interval: float) -> State:
    """The incidents after this event of the stream. `group_interval` is in seconds."""
    name, service = event.get("event", ""), event.get("service") or "lineman"
    if not _number(event, "at"):
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
    group = Group(_number(event, "missed") or 1, _at(event), ((_id(event), _reason(event)),))
    if kind in FOLDED and down and down.fires:
        return _with(state, _fold(down, kind, group))
    return _count(state, kind, service, group)


def _id(event: Mapping[str, str]) -> str:
    """What a command shows the event by: a call's id, or a dead letter's."""
    return event.get("call_id") or event.get("dead_id", "")


def _counted(name: str, event: Mapping[str, str]) -> Kind | None:
    if name == "call_in_doubt":
        return Kind.UNKNOWN_ERROR if event.get("code") in ("unknown", "unknown_status") else None
    if name == Kind.SERVICE_THROTTLED and _number(event, "until") / 1000 - _at(event) < LONG_PAUSE:
        return None
    return Kind(name) if name in COUNTED else None


def _fire(state: State, kind: Kind, service: str, event: Mapping[str, str], group_interval: float) -> State:
    known, at = state.get(key_of(kind, service)), _at(event)
    now = _again(known, event, group_interval) if known else Incident(service, kind, since=at, fired=at, at=at)
    now = replace(now, at=at, reason=_reason(event), held=event["event"] == "service_held",
                  causes=tuple(dict.fromkeys((*now.causes, _cause(event))))[-CAUSES_KEPT:],
                  by_hand=now.by_hand or _is_by_hand(event), until=_number(event, "until") / 1000,
                  waiting=_number(event, "waiting"))  # fmt: skip
    if kind is Kind.SERVICE_DOWN:
        for of_call in FOLDED:
            pending = state.get(key_of(of_call, service))
            if pending and pending.new.count:
                now = _fold(now, of_call, pending.new)
                state = _with(state, replace(pending, new=Group()))
    return _with(state, now)


def _again(known: Incident, event: Mapping[str, str], group_interval: float) -> Incident:
    """The incident that fires once more, or one that begins: after a while, by hand, or for a cause of its own."""
    at, new_cause = _at(event), _cause(event) not in known.causes
    if known.fires:
        return replace(known, cause_changed=known.cause_changed or new_cause)
    unreported = {} if known.notice == Notice.RESOLVED else known.calls
    soon = abs(at - known.ended) < group_interval and not known.by_hand and not _is_by_hand(event)
    if soon and not new_cause:
        return replace(known, fired=at, ended=0.0, times=known.times + 1, calls=unreported)
    begins = Incident(known.service, known.kind, since=at, fired=at, at=at, calls=unreported, alerts=known.alerts)
    return replace(begins, causes=known.causes) if soon else begins


def _cause(event: Mapping[str, str]) -> str:
    """An outage is one cause whatever each answer was; each reason to hold a service is another."""
    return event["event"] + (f" {constant(_reason(event))}" if event["event"] == "service_held" else "")


def _is_by_hand(event: Mapping[str, str]) -> bool:
    closed_unasked = event["event"] == "breaker_closed" and event.get("from") in ("open", "held")  # without a probe
    return closed_unasked or event.get("by", "").startswith("operator")


def _end(state: State, kind: Kind, service: str, event: Mapping[str, str]) -> State:
    firing = state.get(key_of(kind, service))
    if firing is None or not firing.fires:
        return state
    at = _at(event)
    by_hand = firing.by_hand or _is_by_hand(event)
    return _with(state, replace(firing, at=at, ended=at, by_hand=by_hand, waiting=_number(event, "waiting")))


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
    return _number(event, "at") / 1000


def _number(event: Mapping[str, str], name: str) -> int:
    """A whole number; 0 where there is none, or one that no clock and no counter of ours gives."""
    text = event.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER else 0
