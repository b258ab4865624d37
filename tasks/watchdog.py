"""Notices, from a calls worker, that nobody hands out calls: beat, or every control worker, is away.

With them the alerts would be silent, too. So a thread of the worker's main process looks at the time of the
dispatcher's last tick; while that is too long ago, it does the alerts' work itself, and sends from here. One worker
of the fleet looks at a time. When the ticks are back, so is the usual way, which tells that.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import bootsteps

from resilience.alert_outbox import EVENTS_KEPT
from resilience.errors import LinemanError
from resilience.incident import Kind
from resilience.logger import log
from resilience.scripts import UNREACHABLE, Scripts, ms, unavailable

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
    while not stopped.wait(interval):
        try:
            look(runtime(), began, interval, silent)
        except LinemanError as exc:
            log("watchdog_failed", reason=str(exc), next_action="it looks again")
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
        _tell(rt.scripts, "dispatcher_silent", max(tick, began), f"no round for {now - max(tick, began):.0f} s")
    elif fires and now - tick < silent:
        _tell(rt.scripts, "dispatcher_well", now)
    if not away:
        return 0
    return [carry(rt, id, channel) for id, channel in collect(rt)].count("sent")


def _last_tick(scripts: Scripts) -> float:
    try:
        at: Any = scripts.client.get(scripts.key("dispatched"))
    except UNREACHABLE as exc:
        raise unavailable(exc) from exc
    return int(at or 0) / 1000


def _tell(scripts: Scripts, event: str, at: float, reason: str = "") -> None:
    fields: Any = {"event": event, "at": ms(at), "service": "dispatcher", "reason": reason}
    try:
        scripts.client.xadd(scripts.key("events"), fields, maxlen=EVENTS_KEPT)
    except UNREACHABLE as exc:
        raise unavailable(exc) from exc
