"""Turns the event stream into alerts: each event counts once, whichever worker reads it and whatever is killed.

The cursor, the place in the stream up to which events were read, is kept with the incidents in one hash. A round reads
the newer events, decides, and writes cursor, incidents and alerts in one transaction. The transaction fails if another
collector wrote the hash in between, and the round is repeated. A collector that is killed has changed nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from resilience.alerts.alert import Alert
from resilience.alerts.decisions import OWN, Situation, decide_alerts
from resilience.alerts.incident import Incident, load
from resilience.alerts.incidents import State, apply, key_of
from resilience.alerts.kinds import Kind
from resilience.alerts.outbox import AlertOutbox
from resilience.logger import log
from resilience.store.events import Event, Events
from resilience.store.scripts import Scripts, ms, store_errors

KEPT = 30 * 24 * 3600
PAGE = 1000
CURSOR = "cursor"
KINDS = frozenset(map(str, Kind))


class Collector:
    """The incidents of one Redis. Every method raises StoreUnavailable."""

    def __init__(self, scripts: Scripts, situation: Situation) -> None:
        self.scripts, self.situation = scripts, situation
        self.outbox = AlertOutbox(scripts)
        self.stream, self.key = Events(scripts), scripts.key("alerts", "state")

    def collect(self, *, now: float) -> int:
        """Reads the new events and puts the alerts that they call for into the outbox. Returns the number of alerts."""
        count = 0
        with store_errors():
            full = True
            while full:
                page: Any = partial(self._page, now=now)
                read: Any = self.scripts.client.transaction(page, self.key, value_from_callable=True)
                full, alerts = read
                self._log(alerts)
                count += len(alerts)
        return count

    def _page(self, pipe: Any, now: float) -> tuple[bool, Sequence[Alert]]:
        stored: dict[str, str] = pipe.hgetall(self.key)
        cursor = stored.pop(CURSOR, "")
        stored = _of_known_kinds(stored)
        read = self.stream.after(cursor, PAGE, pipe)
        state: State = {key: load(json.loads(text)) for key, text in stored.items()}
        for event in read.events:
            state = apply(state, event, self.situation.rules.group_interval)
        full, alerts = len(read.events) == PAGE, list[Alert]()
        if not full:  # a later event may end what this page began
            silenced = self._silenced(pipe, {incident.service for incident in state.values()})
            state, alerts = decide_alerts(state, now, replace(self.situation, silenced=silenced))
        after = {key: incident.dump() for key, incident in state.items()}
        if read.cursor:
            after[CURSOR] = read.cursor
        before = stored | ({CURSOR: cursor} if cursor else {})
        fades = bool(after) and pipe.ttl(self.key) < KEPT / 2
        pipe.multi()
        self._write(pipe, before, after, fades=fades)
        for alert in alerts:
            self.outbox.put(pipe, alert)
        if read.missed:
            log("events_missed", level=logging.ERROR, service="lineman", missed=read.missed,
                next_action="none: run the control worker all the time")  # fmt: skip
            self.stream.append(Event.EVENTS_MISSED, pipe=pipe, service="lineman", missed=read.missed)
        return full, alerts

    def _write(self, pipe: Any, before: Mapping[str, str], after: Mapping[str, str], *,
               fades: bool) -> None:  # fmt: skip
        gone = before.keys() - after.keys()
        changed = {key: text for key, text in after.items() if before.get(key) != text}
        if gone:
            pipe.hdel(self.key, *gone)
        if changed:
            pipe.hset(self.key, mapping=changed)
        if changed or fades:
            pipe.expire(self.key, KEPT)

    def _log(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            if not alert.channels:
                for notice, incident in alert.notices:
                    log("alert_without_channel", level=logging.WARNING, service=incident.service, kind=incident.kind,
                        notice=notice, reason=incident.reason, next_action="add a channel or a route")  # fmt: skip

    def incidents(self) -> list[Incident]:
        """The incidents that fire and those that have just ended, the oldest first."""
        with store_errors():
            stored: Any = self.scripts.client.hgetall(self.key)
        known = _of_known_kinds(stored)
        return sorted((load(json.loads(text)) for text in known.values()), key=lambda incident: incident.since)

    def get(self, kind: Kind, service: str) -> Incident | None:
        """One incident, None where there is none."""
        with store_errors():
            text: Any = self.scripts.client.hget(self.key, key_of(kind, service))
        return load(json.loads(text)) if text else None

    def silence(self, service: str, seconds: float, *, by: str) -> None:
        """Sends no alert about that service for so many seconds; zero ends the silence."""
        key = self.scripts.key("silence", service)
        with store_errors():
            if seconds:
                self.scripts.client.set(key, by, px=ms(seconds))
            else:
                self.scripts.client.delete(key)

    def silences(self) -> dict[str, tuple[str, float]]:
        """By silenced service: who silenced it, and the seconds left."""
        client: Any = self.scripts.client
        found = {}
        with store_errors():
            for service in sorted({*self.situation.services, *self.situation.enabled, *OWN}):
                key = self.scripts.key("silence", service)
                by, left = client.get(key), client.pttl(key)
                if by is not None and left > 0:
                    found[service] = (by, left / 1000)
        return found

    def _silenced(self, pipe: Any, services: Collection[str]) -> frozenset[str]:
        asked = sorted(services)
        if not asked:
            return frozenset()
        found: Any = pipe.mget([self.scripts.key("silence", service) for service in asked])
        return frozenset(service for service, by in zip(asked, found, strict=True) if by is not None)


def _of_known_kinds(stored: Mapping[str, str]) -> dict[str, str]:
    """Without the cursor, and without what a newer release wrote, which stays as it is."""
    return {key: text for key, text in stored.items() if key.partition(":")[0] in KINDS}
