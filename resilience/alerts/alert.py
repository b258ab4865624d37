"""One round of telling: which incidents become alerts now, and on which channels. Pure.

Below critical, what the quiet hours keep back is told when they end, as one alert where it is several. What a silence
keeps back is told when it ends, if it still goes on. An alert is kept as the incidents that it speaks of; its words
come from alert_text.py when it is sent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from resilience.alerts.decisions import State, after, decide, forget, is_over, key_of
from resilience.alerts.incidents import Incident, Kind, Word, load
from resilience.config.alerts import channels_for
from resilience.config.settings import Alerts


@dataclass(frozen=True)
class Alert:
    """One message to the admin. `at` is unix seconds. `follows` are the ids of alerts that must arrive before it."""

    id: str
    at: float
    said: tuple[tuple[Word, Incident], ...]
    channels: tuple[str, ...]
    follows: tuple[str, ...] = ()

    def dump(self) -> str:
        """As JSON."""
        said = [[word, incident.as_dict()] for word, incident in self.said]
        return json.dumps(
            {"id": self.id, "at": self.at, "said": said, "channels": self.channels, "follows": self.follows}
        )


def load_alert(text: str) -> Alert:
    """An alert from what `dump` gave."""
    data: dict[str, Any] = json.loads(text)
    said = tuple((Word(word), load(incident)) for word, incident in data["said"])
    return Alert(data["id"], data["at"], said, tuple(data["channels"]), tuple(data["follows"]))


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
        """False where its service or channel is no longer configured: no event will ever end it."""
        return incident.service in {*self.services, *self.enabled, "dispatcher"}


def go_round(state: State, now: float, situation: Situation) -> tuple[State, list[Alert]]:
    """The incidents after this round, and the alerts it calls for."""
    state = _without_what_is_over(state, now, situation)
    quiet = situation.rules.quiet_hours is not None and situation.rules.quiet_hours.cover(now)
    alone: list[tuple[Word, Incident]] = []
    waited: dict[tuple[str, ...], list[tuple[Word, Incident]]] = defaultdict(list)
    stays: dict[str, Incident] = {}
    for key, incident in state.items():
        silent = incident.service in situation.silenced
        word = decide(incident, now, situation.rules, silent=silent, folded=_is_folded(incident, state))
        keep = quiet and word is not Word.NOTHING and incident.kind.severity != "critical"
        hushed = incident.hushed or (silent and incident.kind.ends and incident.fires)
        stays[key] = replace(incident, hushed=hushed, kept=incident.kept or keep)
        if word is Word.NOTHING or keep:
            continue
        if incident.kept:
            waited[situation.channels(incident)].append((word, incident))
        else:
            alone.append((word, incident))
    alerts = [_alert([said], situation.channels(said[1]), now) for said in alone]
    alerts += [_alert(said, channels, now) for channels, said in waited.items()]
    for alert in alerts:
        for word, incident in alert.said:
            stays[key_of(incident.kind, incident.service)] = after(incident, word, alert.id, now)
    return stays, alerts


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


def _alert(said: Sequence[tuple[Word, Incident]], channels: tuple[str, ...], now: float) -> Alert:
    first = said[0][1]
    id = f"{first.kind}-{first.service}-{first.since * 1000:.0f}-{first.said + 1}"
    if len(said) > 1:
        id = f"quiet_hours-{id}"
    follows = tuple(incident.alerts[-1] for _, incident in said if incident.alerts)
    return Alert(id, now, tuple(said), channels, follows)


def a_test(id: str, channel: str, who: str, now: float) -> Alert:
    """The alert that only shows that alerts arrive."""
    incident = Incident("", Kind.TEST, since=now, fired=now, at=now, reason=who)
    return Alert(id, now, ((Word.FIRST, incident),), (channel,))
