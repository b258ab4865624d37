"""Which events a person is told of, and when: once, grouped, and resolved. Pure: no clock and no Redis.

`apply` folds an event into the incidents, `decide` says what an incident calls for now, `after` remembers that it was
told, and `forget` drops what is over. The model is Alertmanager's
(https://prometheus.io/docs/alerting/latest/alertmanager/): the first at once, then a digest per `group_interval`, a
reminder per `repeat_interval`, and a `resolved`. What a service's outage does to its calls is told with the outage.
What fires again within `group_interval` of its end flaps: that is told once, and then only how it settles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from resilience.alerts.incidents import ALERTS_KEPT, FOLDED, LONGEST, Group, Incident, Kind, Word

LONG_PAUSE = 60.0  # seconds; a shorter throttle is daily business

State = Mapping[str, Incident]

FIRES = {
    "breaker_opened": Kind.SERVICE_DOWN,
    "service_held": Kind.SERVICE_DOWN,
    "health_down": Kind.HEALTH_DOWN,
    "alert_channel_broken": Kind.CHANNEL_BROKEN,
    "dispatcher_silent": Kind.DISPATCHER_SILENT,
}
ENDS = {
    "breaker_closed": Kind.SERVICE_DOWN,
    "health_up": Kind.HEALTH_DOWN,
    "alert_channel_well": Kind.CHANNEL_BROKEN,
    "dispatcher_well": Kind.DISPATCHER_SILENT,
}
COUNTED = (Kind.CALL_FAILED, Kind.CALL_NEEDS_REVIEW, Kind.CALL_DOUBT_LONG, Kind.CALL_RANG_TWICE, Kind.CONTACT_REFUSED,
           Kind.UNKNOWN_ERROR)  # fmt: skip


class Rules(Protocol):
    """Seconds."""

    @property
    def group_interval(self) -> float: ...
    @property
    def repeat_interval(self) -> float: ...


def key_of(kind: Kind, service: str) -> str:
    """The name of the incident of this kind and service."""
    return f"{kind}:{service}"


def apply(state: State, event: Mapping[str, str], group_interval: float) -> State:
    """The incidents after this event of the stream."""
    name, service = event.get("event", ""), event.get("service", "")
    if not event.get("at", "").isdigit():
        return state  # not ours: it must not stop what comes after it
    if name in FIRES:
        return _fire(state, FIRES[name], service, event, group_interval)
    if name in ENDS:
        return _end(state, ENDS[name], service, event)
    return _happen(state, name, service, event)


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
    if name == "service_throttled":
        long = _seconds(event.get("until")) - _at(event) >= LONG_PAUSE
        return Kind.SERVICE_THROTTLED if long else None
    return Kind(name) if name in COUNTED else None


def _fire(state: State, kind: Kind, service: str, event: Mapping[str, str], group_interval: float) -> State:
    at, known = _at(event), state.get(key_of(kind, service))
    now = known or Incident(service, kind, since=at, fired=at, at=at)
    if known and not known.fires:
        untold = {} if known.word == Word.RESOLVED else known.calls
        if at - known.ended < group_interval:
            now = replace(known, fired=at, ended=0.0, times=known.times + 1, calls=untold)
        else:
            now = Incident(service, kind, since=at, fired=at, at=at, calls=untold)
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


def decide(incident: Incident, now: float, rules: Rules, *, silent: bool = False, folded: bool = False) -> Word:
    """What the incident calls for at unix second `now`.

    `silent`: its service is silenced. `folded`: an outage of the service fires, which says as much.
    """
    if silent:
        return Word.NOTHING
    if not incident.kind.ends:
        waits = incident.told and now - incident.told < rules.group_interval
        if not incident.new.count or waits:
            return Word.NOTHING
        return Word.MORE if incident.told else Word.FIRST
    if not incident.fires:
        return _decide_end(incident, now, rules)
    return Word.NOTHING if folded else _decide_firing(incident, now, rules)


def _decide_end(incident: Incident, now: float, rules: Rules) -> Word:
    if incident.word == Word.RESOLVED or not (incident.told or incident.kept):
        return Word.NOTHING
    if incident.flaps and now - incident.ended < rules.group_interval:
        return _reminder(incident, now, rules)
    return Word.RESOLVED


def _decide_firing(incident: Incident, now: float, rules: Rules) -> Word:
    settled = incident.word == Word.FLAPPING and now - incident.fired >= rules.group_interval
    if incident.held and not incident.told_held:
        return Word.FIRST
    if incident.times > 1 and not incident.flaps:
        return Word.FLAPPING
    if not incident.told or incident.hushed or settled:
        return Word.FIRST
    return _reminder(incident, now, rules)


def _reminder(incident: Incident, now: float, rules: Rules) -> Word:
    return Word.REPEAT if now - incident.told >= rules.repeat_interval else Word.NOTHING


def after(incident: Incident, word: Word, id: str, now: float) -> Incident:
    """The incident once the alert `id` has said `word` of it."""
    return replace(
        incident,
        told=now,
        word=word,
        new=Group(),
        told_held=incident.told_held or incident.held,
        flaps=incident.flaps or (incident.times > 1 and word is not Word.RESOLVED),
        hushed=False,
        kept=False,
        said=incident.said + 1,
        alerts=(*incident.alerts, id)[-ALERTS_KEPT:],
    )


def is_over(incident: Incident, now: float, rules: Rules, *, silent: bool = False) -> bool:
    """Whether nothing is left to be told, so that it can be forgotten."""
    if not incident.kind.ends:
        if incident.new.count:
            # Of what happens while its service is silenced, only what goes on is told afterwards.
            return silent and now - incident.at >= rules.group_interval
        return now - incident.told >= rules.group_interval
    if incident.fires:
        return False
    if incident.word == Word.RESOLVED:
        return now - incident.ended >= rules.group_interval
    return not (incident.told or incident.kept)


def forget(state: State, key: str) -> State:
    """Without that incident. What was folded into an outage nobody was told of stands for itself again."""
    gone = state[key]
    state = {name: incident for name, incident in state.items() if name != key}
    if gone.word != Word.RESOLVED:
        for kind, group in gone.calls.items():
            state = _count(state, Kind(kind), gone.service, group)
    return state


def _with(state: State, incident: Incident) -> State:
    return {**state, key_of(incident.kind, incident.service): incident}


def _reason(event: Mapping[str, str]) -> str:
    return " ".join(event.get("reason", "").split())[:LONGEST]


def _at(event: Mapping[str, str]) -> float:
    return _seconds(event["at"])


def _seconds(ms: str | None) -> float:
    return int(ms or 0) / 1000
