"""Notices, from a calls worker, that the dispatcher is silent: beat, or every control worker, is away.

The alerts would be silent with it. So a thread of the worker's main process watches the mark that each round of the
dispatcher leaves in Redis. A mark that stays the same for too long, by this process's monotonic clock, is an
incident; no two clocks are compared. Until there are rounds again, the thread turns events into alerts and sends
them, one worker of the fleet at a time. While Redis is out of reach, it reports that straight through the channels,
once a process.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery import bootsteps

from resilience.alerts.alert import Alert
from resilience.alerts.incident import Incident, Notice
from resilience.alerts.kinds import Kind
from resilience.alerts.text import render
from resilience.errors import LinemanError, StoreUnavailable
from resilience.logger import log
from resilience.store.events import Event, Events
from resilience.store.scripts import Scripts, ms, store_errors
from tasks.celery import app
from tasks.runtime import Runtime, runtime

INTERVAL = 10.0  # seconds between looks
SILENT = 60.0  # seconds without a round that are an incident


class Watchdog(bootsteps.StartStopStep):
    """The worker's part that runs the thread, in workers that read the queue `calls`."""

    requires = frozenset({"celery.worker.components:Pool"})  # the children are forked before there is a thread

    def __init__(self, parent: Any, **_: Any) -> None:
        self._stopped = threading.Event()

    def include_if(self, parent: Any) -> bool:
        return "calls" in parent.app.amqp.queues.consume_from

    def start(self, parent: Any) -> None:
        threading.Thread(target=watch, args=(self._stopped,), name="watchdog", daemon=True).start()

    def stop(self, parent: Any) -> None:
        self._stopped.set()


app.steps["worker"].add(Watchdog)


class Rounds:
    """What this process saw of the dispatcher's rounds. `clock` gives seconds and is never set back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.forget()

    def forget(self) -> None:
        """Starts afresh: the dispatcher gets its time again."""
        self.go_on = False
        self._mark: str | None = None
        self._since: float | None = None

    def look(self, scripts: Scripts) -> float:
        """Seconds for which there was no round. Sets `go_on` once there was one. Raises StoreUnavailable."""
        now = self.clock()  # before the reading: what takes long is not silence
        with store_errors():
            mark: Any = scripts.client.get(scripts.key("dispatched"))
        if self._since is None or mark not in (None, self._mark):  # it expires when the rounds stay away for long
            self.go_on = self._since is not None
            self._mark, self._since = mark, self.clock()
        return max(0.0, now - self._since)


def watch(stopped: threading.Event, interval: float = INTERVAL, silent: float = SILENT) -> None:
    """Looks each `interval` seconds until `stopped` is set. Times in seconds."""
    rounds, away = Rounds(), Outage()
    while not stopped.wait(interval):
        try:
            look(runtime(), rounds, interval, silent)
            away.end(runtime())
        except StoreUnavailable as exc:
            rounds.forget()
            log("store_away", level=logging.ERROR, service="redis", reason=str(exc), next_action="it looks again")
            away.go_on(runtime(), str(exc), silent)
        except LinemanError as exc:
            log("watchdog_failed", level=logging.ERROR, reason=str(exc), next_action="it looks again")
        except Exception:  # noqa: BLE001 whatever it is, the next look may find it gone
            log("watchdog_failed", exc_info=True, next_action="it looks again")


def look(rt: Runtime, rounds: Rounds, interval: float = INTERVAL, silent: float = SILENT) -> int:
    """Looks once; acts unless another worker of the fleet has just acted. Returns how many alerts were sent.

    Times in seconds. Raises StoreUnavailable.
    """
    still = rounds.look(rt.scripts)
    if not rt.scripts.take_slot("watchdog", interval / 2):
        return 0
    now, known = rt.outbox.clock(), rt.collector.get(Kind.DISPATCHER_SILENT, "dispatcher")
    fires = known is not None and known.fires
    away = still >= max(silent, 3 * rt.settings.calls.dispatch.interval)
    if away and not fires:
        reason = f"no round for {still:.0f} s"
        Events(rt.scripts).append(Event.DISPATCHER_SILENT, now=now - still, service="dispatcher", reason=reason)
    elif fires and rounds.go_on and not away:
        Events(rt.scripts).append(Event.DISPATCHER_WELL, now=now, service="dispatcher")
    if not away and (rounds.go_on or not fires):
        return 0
    rt.collector.collect(now=now)
    return [rt.sender.deliver(id, channel) for id, channel in rt.sender.take_due()].count("sent")


class Outage:
    """A Redis that is out of reach, as this process sees it. Durations are measured by `clock`, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._incident: Incident | None = None
        self._began = 0.0

    def go_on(self, rt: Runtime, reason: str, silent: float) -> None:
        """Notes that Redis is out of reach, and reports it once that has lasted for `silent` seconds."""
        now = time.time()
        if self._incident is None:
            self._began = self.clock()
            self._incident = Incident("redis", Kind.STORE_AWAY, since=now, fired=now, at=now, reason=reason)
        if not self._incident.notified_at and self.clock() - self._began >= silent:
            self._incident = replace(self._incident, notified_at=now)
            _send(rt, Notice.OPENED, self._incident, now)

    def end(self, rt: Runtime) -> None:
        """Reports that Redis answers again, if its absence was reported."""
        incident, self._incident = self._incident, None
        if incident and incident.notified_at:
            ended = incident.since + self.clock() - self._began
            _send(rt, Notice.RESOLVED, replace(incident, ended=ended), ended)


def _send(rt: Runtime, notice: Notice, incident: Incident, at: float) -> None:
    """Sends this straight through the channels, each once: without Redis there is no outbox."""
    id = f"{ms(incident.since)}-{socket.gethostname()}-{notice}"
    alert = Alert(id, at, ((notice, incident),), rt.collector.situation.channels(incident))
    message = render(alert, rt.settings.secrets)
    for channel in alert.channels:
        try:
            rt.channels[channel].send(message)
            log("alert_sent", service=channel, alert_id=id, kind=message.kind, subject=message.subject)
        except LinemanError as exc:
            log("alert_failed", level=logging.ERROR, service=channel, alert_id=id, reason=str(exc), next_action="none")
