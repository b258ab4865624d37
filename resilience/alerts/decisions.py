"""Which notices the incidents call for, when, and on which channels. Pure.

`decide_alerts` decides a whole round, by `decide` for each incident. The model is Alertmanager's
(https://prometheus.io/docs/alerting/latest/alertmanager/): the first notice at once, then a digest per
`group_interval`, a reminder per `repeat_interval`, and a `resolved`. What fires again within `group_interval` of its
end and for the same cause flaps: one notice says so, and the next one says how it settled. A new cause is notified at
once. During quiet hours only critical notices go out; the others follow when they end, joined into one alert. After a
silence, what still fires is notified.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from resilience.alerts.alert import Alert
from resilience.alerts.incident import Group, Incident, Notice
from resilience.alerts.incidents import State, forget, key_of
from resilience.alerts.kinds import Kind
from resilience.config.alerts import channels_for
from resilience.config.settings import Alerts

ALERTS_KEPT = 5  # ids of the last alerts of an incident
OWN = ("dispatcher", "lineman", "redis")  # what is ours, and is no service and no channel


class Intervals(Protocol):
    """Seconds."""

    @property
    def group_interval(self) -> float: ...
    @property
    def repeat_interval(self) -> float: ...


@dataclass(frozen=True)
class Situation:
    """What a round goes by: the configuration, and what is silenced now. `enabled`: the channels, in their order."""

    rules: Alerts
    services: Collection[str]
    enabled: Sequence[str]
    silenced: Collection[str] = ()

    def channels(self, incident: Incident) -> tuple[str, ...]:
        """Where an alert of it goes; never through the channel that it is about."""
        found = channels_for(incident.kind.severity, incident.service, self.rules.routes, self.enabled)
        return tuple(name for name in found if (incident.kind, name) != (Kind.CHANNEL_BROKEN, incident.service))

    def knows(self, incident: Incident) -> bool:
        """False for one that no event will ever end, since its service or channel is no longer configured."""
        return not incident.kind.ends or incident.service in {*self.services, *self.enabled, *OWN}


def decide_alerts(state: State, now: float, situation: Situation) -> tuple[State, list[Alert]]:
    """Decides which incidents are notified at unix second `now`, and where.

    Returns the incidents after this round, and its alerts.
    """
    state = _without_what_is_over(state, now, situation)
    quiet = situation.rules.quiet_hours is not None and situation.rules.quiet_hours.cover(now)
    alone: list[tuple[Notice, Incident]] = []
    waited: dict[tuple[str, ...], list[tuple[Notice, Incident]]] = defaultdict(list)
    left: dict[str, Incident] = {}
    for key, incident in state.items():
        silent = incident.service in situation.silenced
        notice = decide(incident, now, situation.rules, silent=silent, folded=_is_folded(incident, state))
        waits = quiet and notice is not None and incident.kind.severity != "critical"
        silenced = incident.silenced or (silent and incident.kind.ends and incident.fires)
        left[key] = replace(incident, silenced=silenced, held_for_quiet_hours=incident.held_for_quiet_hours or waits)
        if notice is None or waits:
            continue
        if incident.held_for_quiet_hours:
            waited[situation.channels(incident)].append((notice, incident))
        else:
            alone.append((notice, incident))
    alerts = [_alert([one], situation.channels(one[1]), now) for one in alone]
    alerts += [_alert(notices, channels, now) for channels, notices in waited.items()]
    for alert in alerts:
        for notice, incident in alert.notices:
            left[key_of(incident.kind, incident.service)] = after(incident, notice, alert.id, now)
    return left, alerts


def _without_what_is_over(state: State, now: float, situation: Situation) -> State:
    for key in list(state):
        incident = state[key]  # another one that was forgotten may have given its calls back to it
        silent = incident.service in situation.silenced
        if is_over(incident, now, situation.rules, silent=silent) or not situation.knows(incident):
            state = forget(state, key)
    return state


def _is_folded(incident: Incident, state: State) -> bool:
    down = state.get(key_of(Kind.SERVICE_DOWN, incident.service))
    return incident.kind is Kind.HEALTH_DOWN and down is not None and down.fires


def _alert(notices: Sequence[tuple[Notice, Incident]], channels: tuple[str, ...], now: float) -> Alert:
    first = notices[0][1]
    id = f"{first.kind}-{first.service}-{first.since * 1000:.0f}-{first.notice_count + 1}"
    if len(notices) > 1:
        id = f"quiet_hours-{id}"
    follows = tuple(incident.alerts[-1] for _, incident in notices if incident.alerts)
    return Alert(id, now, tuple(notices), channels, follows)


def decide(
    incident: Incident, now: float, rules: Intervals, *, silent: bool = False, folded: bool = False
) -> Notice | None:
    """The notice that the incident calls for at unix second `now`; None: it calls for none.

    `silent`: its service is silenced. `folded`: an outage of the service fires, which says as much.
    """
    if silent:
        return None
    if not incident.kind.ends:
        waits = incident.notified_at and not _passed(incident.notified_at, now, rules.group_interval)
        if not incident.new.count or waits:
            return None
        return Notice.DIGEST if incident.notified_at else Notice.OPENED
    if not incident.fires:
        return _decide_end(incident, now, rules)
    return None if folded else _decide_firing(incident, now, rules)


def _decide_end(incident: Incident, now: float, rules: Intervals) -> Notice | None:
    if incident.notice == Notice.RESOLVED or not _concerns_admin(incident):
        return None
    if incident.flaps and not _passed(incident.ended, now, rules.group_interval):
        return _reminder(incident, now, rules)
    return Notice.RESOLVED


def _concerns_admin(incident: Incident) -> bool:
    return bool(incident.notified_at or incident.held_for_quiet_hours)


def _decide_firing(incident: Incident, now: float, rules: Intervals) -> Notice | None:
    settled = incident.notice == Notice.FLAPPING and _passed(incident.fired, now, rules.group_interval)
    if incident.cause_changed:
        return Notice.OPENED
    if incident.times > 1 and not incident.flaps:
        return Notice.FLAPPING
    if not incident.notified_at or incident.silenced or settled:
        return Notice.OPENED
    return _reminder(incident, now, rules)


def _reminder(incident: Incident, now: float, rules: Intervals) -> Notice | None:
    return Notice.REMINDER if _passed(incident.notified_at, now, rules.repeat_interval) else None


def after(incident: Incident, notice: Notice, id: str, now: float) -> Incident:
    """The incident once the alert `id` carries `notice`."""
    return replace(
        incident,
        notified_at=now,
        notice=notice,
        new=Group(),
        cause_changed=False,
        flaps=incident.flaps or (incident.times > 1 and notice is not Notice.RESOLVED),
        silenced=False,
        held_for_quiet_hours=False,
        notice_count=incident.notice_count + 1,
        alerts=(*incident.alerts, id)[-ALERTS_KEPT:],
    )


def is_over(incident: Incident, now: float, rules: Intervals, *, silent: bool = False) -> bool:
    """Whether no notice is left to give, so that the incident can be forgotten."""
    if not incident.kind.ends:
        if incident.new.count:
            # Of what happens while its service is silenced, only what goes on is notified afterwards.
            return silent and _passed(incident.at, now, rules.group_interval)
        return _passed(incident.notified_at, now, rules.group_interval)
    if incident.fires:
        return False
    if incident.notice == Notice.RESOLVED:
        return _passed(incident.ended, now, rules.group_interval)
    return not _concerns_admin(incident)


def _passed(then: float, now: float, seconds: float) -> bool:
    """Whether so many seconds lie in between. The server's clock may have been set back: then `then` lies ahead."""
    return abs(now - then) >= seconds
