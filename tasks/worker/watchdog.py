"""Notices, from a calls worker, that nobody hands out calls: beat, or every control worker, is away.

With them the alerts would be silent, too. So a thread of the worker's main process looks at the time of the
dispatcher's last tick; while that is too long ago, it does the alerts' work itself, and sends from here. One worker
of the fleet looks at a time. When the ticks are back, so is the usual way, which tells that. A Redis that is out of
reach holds no alert: that, and its end, is told from memory, once a process.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import replace
from typing import Any

from celery import bootsteps

from resilience.alerts.alert import Alert
from resilience.alerts.incidents import Incident, Kind, Word
from resilience.alerts.message import Message
from resilience.alerts.text import render
from resilience.errors import LinemanError, StoreUnavailable
from resilience.logger import log
from resilience.store.events import Event, Events
from resilience.store.scripts import Scripts, ms, store_errors

INTERVAL = 10.0  # seconds between looks
SILENT = 60.0  # seconds without a tick that are told


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


def watch(stopped: threading.Event, interval: float = INTERVAL, silent: float = SILENT) -> None:
    """Looks each `interval` seconds until `stopped` is set. Times in seconds."""
    from tasks.runtime import runtime  # noqa: PLC0415 it needs the app that this module is a part of

    began = time.time()
    away: Incident | None = None
    while not stopped.wait(interval):
        try:
            look(runtime(), began, interval, silent)
            if away and away.told:
                say(runtime(), Word.RESOLVED, replace(away, ended=time.time()))
            away = None
        except StoreUnavailable as exc:
            now = time.time()
            began = now  # the dispatcher has been away with Redis: it gets its time to come back
            away = away or Incident("redis", Kind.STORE_AWAY, since=now, fired=now, at=now, reason=str(exc))
            log("store_away", level=logging.ERROR, service="redis", reason=str(exc), next_action="it looks again")
            if not away.told and now - away.since >= silent:
                away = replace(away, told=now)
                say(runtime(), Word.FIRST, away)
        except LinemanError as exc:
            log("watchdog_failed", level=logging.ERROR, reason=str(exc), next_action="it looks again")
        except Exception:  # noqa: BLE001 whatever it is, the next look may find it gone
            log("watchdog_failed", exc_info=True, next_action="it looks again")


def look(rt: Any, began: float, interval: float = INTERVAL, silent: float = SILENT) -> int:
    """One look, unless another worker has had it. Returns how many alerts were sent.

    `began`: the unix second since when a tick is expected. Raises StoreUnavailable.
    """
    from tasks.alerts import carry, collect  # noqa: PLC0415 likewise

    if not rt.scripts.take_slot("watchdog", interval / 2):
        return 0
    now, tick = rt.outbox.clock(), _last_tick(rt.scripts)
    known = rt.collector.get(Kind.DISPATCHER_SILENT, "dispatcher")
    fires = known is not None and known.fires
    away = now - max(tick, began) >= max(silent, 3 * rt.settings.calls.dispatch.interval)
    if away and not fires:
        reason = f"no round for {now - max(tick, began):.0f} s"
        Events(rt.scripts).append(Event.DISPATCHER_SILENT, now=max(tick, began), service="dispatcher", reason=reason)
    elif fires and now - tick < silent:
        Events(rt.scripts).append(Event.DISPATCHER_WELL, now=now, service="dispatcher")
    if not away:
        return 0
    return [carry(rt, id, channel) for id, channel in collect(rt)].count("sent")


def say(rt: Any, word: Word, incident: Incident) -> None:
    """Tells this straight through the channels, each once: there is no outbox without Redis."""
    id = f"{ms(incident.since)}-{socket.gethostname()}-{word}"
    alert = Alert(id, time.time(), ((word, incident),), rt.collector.situation.channels(incident))
    message = Message(**render(alert, rt.settings.secrets))
    for channel in alert.channels:
        try:
            rt.channels[channel].send(message)
            log("alert_sent", service=channel, alert_id=id, kind=message.kind, subject=message.subject)
        except LinemanError as exc:
            log("alert_failed", level=logging.ERROR, service=channel, alert_id=id, reason=str(exc), next_action="none")


def _last_tick(scripts: Scripts) -> float:
    with store_errors():
        at: Any = scripts.client.get(scripts.key("dispatched"))
    return int(at or 0) / 1000
