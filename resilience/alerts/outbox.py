"""The alerts' outbox: each (alert, channel) is in it until its delivery is over.

A delivery is claimed before the alert is sent, and ended afterwards. When the claim of a worker that died runs out,
another takes the delivery over and knows that the alert may have arrived already. How often a channel was tried, and
why it refused, is kept with the alert. Nothing waits in Celery: a delivery that is to be tried later comes due later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resilience.alerts.alert import Alert, load_alert
from resilience.store.outbox import Outbox
from resilience.store.scripts import Scripts, ms, store_errors

KEPT = 30 * 24 * 3600
IN_ORDER = 2.0  # seconds until an alert that follows another checks again whether that one has arrived


@dataclass(frozen=True)
class Track:
    """What became of an alert on one channel. `until` and `at` are unix seconds.

    `owner` has claimed it until then; `unclear`: an earlier try may have arrived; `outcome` is sent, failed, or empty.
    """

    attempts: int = 0
    owner: str = ""
    until: float = 0.0
    unclear: bool = False
    outcome: str = ""
    at: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Delivery:
    """One claimed delivery. `attempt` counts from 1."""

    alert: Alert
    channel: str
    owner: str
    attempt: int
    unclear: bool


class AlertOutbox:
    """Every method raises StoreUnavailable. `now` is unix seconds, the server's time where it is left out."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts, self.pending = scripts, Outbox(scripts, "alerts")

    def clock(self) -> float:
        """The server's time, the same for all workers, in whole milliseconds as the scripts have it."""
        seconds, micros = self._reach(lambda client: client.time())
        return float((seconds * 1000 + micros // 1000) / 1000)

    def put(self, pipe: Any, alert: Alert, *, due: float | None = None) -> None:
        """Adds the alert to a transaction. Until `due` (now where left out) nobody but its writer delivers it."""
        key = self.scripts.key("alert", alert.id)
        pipe.hset(key, "alert", alert.dump())
        pipe.expire(key, KEPT)
        for channel in alert.channels:
            pipe.zadd(self.pending.key, {f"{alert.id}|{channel}": alert.at if due is None else due})

    def put_alone(self, alert: Alert, *, due: float) -> None:
        """Puts one alert that no event called for."""

        def write(client: Any) -> None:
            with client.pipeline() as pipe:
                self.put(pipe, alert, due=due)
                pipe.execute()

        self._reach(write)

    def take_due(self, *, now: float, again: float) -> list[tuple[str, str]]:
        """The (alert id, channel) pairs to deliver now. Each comes again after `again` seconds unless it is over."""
        members = self.pending.take_due(now=now, again=again)
        return [(id, channel) for id, _, channel in (member.rpartition("|") for member in members)]

    def claim(self, id: str, channel: str, owner: str, *, lease: float, now: float | None = None) -> Delivery | None:
        """Claims the delivery for `lease` seconds.

        None: it is over, claimed by another, or an alert that must arrive before it is not yet delivered.
        """
        args = {"id": id, "channel": channel, "owner": owner, "lease": ms(lease), "in_order": ms(IN_ORDER)}
        a = self.scripts.run("alert_claim", args, now)
        if not a["claimed"]:
            return None
        return Delivery(load_alert(a["alert"]), channel, owner, int(a["attempt"]), bool(a["unclear"]))

    def sent(self, delivery: Delivery, *, now: float | None = None) -> bool:
        """Ends a delivery that arrived; its channel is on again. False: another had taken the delivery over."""
        return self._change("alert_end", delivery, now, outcome="sent", reason="")

    def failed(
        self,
        delivery: Delivery,
        reason: str,
        *,
        off: float | None = None,
        report: bool = True,
        now: float | None = None,
    ) -> bool:
        """Gives a delivery up.

        `off`: the seconds for which its channel is switched off; `report`: the other channels report the failure.
        """
        pause = None if off is None else ms(off)
        return self._change(
            "alert_end", delivery, now, outcome="failed", reason=reason, off=pause, report=report or None
        )

    def later(self, delivery: Delivery, reason: str, *, delay: float, unclear: bool, now: float | None = None) -> bool:
        """Tries a delivery again after `delay` seconds. `unclear`: this try may have arrived."""
        return self._change("alert_later", delivery, now, reason=reason, delay=ms(delay), unclear=unclear)

    def off(self, channel: str) -> str | None:
        """Why the channel is switched off now, None where it is on."""
        reason: str | None = self._reach(lambda client: client.get(self.scripts.key("alerts", "off", channel)))
        return reason

    def tracks(self, id: str) -> tuple[Alert, dict[str, Track]] | None:
        """An alert and what became of it on each channel that was tried; None where it is no longer kept."""
        stored: dict[str, str] = self._reach(lambda client: client.hgetall(self.scripts.key("alert", id)))
        if "alert" not in stored:
            return None
        alert = load_alert(stored.pop("alert"))
        return alert, {channel: Track(**json.loads(text)) for channel, text in stored.items()}

    def _change(self, script: str, delivery: Delivery, now: float | None, **args: Any) -> bool:
        args |= {"id": delivery.alert.id, "channel": delivery.channel, "owner": delivery.owner, "kept": ms(KEPT)}
        return bool(self.scripts.run(script, args, now))

    def _reach(self, step: Callable[[Any], Any]) -> Any:
        with store_errors():
            return step(self.scripts.client)
