"""Alerts on their way to the channels: each (alert, channel) stands here until its delivery is over.

A delivery is claimed before it is sent and marked over afterwards. Whoever finds the claim of one that died takes it
over when its time is up, and knows that the alert may have arrived already. How often a channel was tried, and why it
refused, is kept with the alert. Nothing here waits in Celery: what is to be tried later comes due later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from resilience.alerts.alert import Alert, load_alert
from resilience.alerts.incident import load
from resilience.alerts.incidents import key_of
from resilience.alerts.kinds import Kind
from resilience.store.outbox import Outbox
from resilience.store.scripts import Scripts, ms, reached

T = TypeVar("T")
KEPT = 30 * 24 * 3600
IN_ORDER = 2.0  # seconds until an alert asks again whether the one before it has arrived
EVENTS_KEPT = 100_000  # as in lua/shared/base.lua


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
        """The server's time, the same for all workers."""
        return self._reach(lambda client: _seconds(client.time()))

    def put(self, pipe: Any, alert: Alert, *, due: float | None = None) -> None:
        """Adds the alert to a transaction. Until `due` (now where left out) nobody but its writer delivers it."""
        key = self.scripts.key("alert", alert.id)
        pipe.hset(key, "alert", alert.dump())
        pipe.expire(key, KEPT)
        for channel in alert.channels:
            pipe.zadd(self.pending.key, {_member(alert.id, channel): alert.at if due is None else due})

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
        """Leave to deliver for `lease` seconds. None: it is over, another has it, or one before it is on its way."""
        now = self.clock() if now is None else now

        def step(pipe: Any, track: Track, text: str | None) -> Delivery | None:
            waits = pipe.zscore(self.pending.key, _member(id, channel)) is not None
            if not waits or (track.owner not in ("", owner) and track.until > now):
                return None
            if text is None:
                pipe.multi()
                pipe.zrem(self.pending.key, _member(id, channel))
                return None
            alert, lost = load_alert(text), track.owner not in ("", owner)
            before = [pipe.zscore(self.pending.key, _member(other, channel)) for other in alert.follows]
            pipe.multi()
            if any(due is not None for due in before):
                pipe.zadd(self.pending.key, {_member(id, channel): now + IN_ORDER}, xx=True)
                return None
            new = track.owner != owner
            track = replace(track, attempts=track.attempts + new, owner=owner, until=now + lease,
                            unclear=track.unclear or lost)  # fmt: skip
            pipe.hset(self.scripts.key("alert", id), channel, _dump(track))
            pipe.zadd(self.pending.key, {_member(id, channel): now + lease}, xx=True)
            return Delivery(alert, channel, owner, track.attempts, track.unclear)

        return self._change(id, channel, step)

    def sent(self, delivery: Delivery, *, now: float | None = None) -> bool:
        """The channel took it, so it is not switched off any longer. False: another had taken the delivery over."""

        def write(pipe: Any) -> None:
            pipe.delete(self._switch(delivery.channel))

        def look(pipe: Any) -> bool:
            text = pipe.hget(self.scripts.key("alerts", "state"), key_of(Kind.CHANNEL_BROKEN, delivery.channel))
            return text is not None and load(json.loads(text)).fires

        return self._end(delivery, now, "sent", look=look, event="alert_channel_well", write=write)

    def failed(
        self,
        delivery: Delivery,
        reason: str,
        *,
        off: float | None = None,
        tell: bool = True,
        now: float | None = None,
    ) -> bool:
        """It is given up. `off`: the seconds for which the channel is spared; `tell`: the other channels say so."""

        def write(pipe: Any) -> None:
            if off:
                pipe.set(self._switch(delivery.channel), reason, px=ms(off))

        event = "alert_channel_broken"
        return self._end(delivery, now, "failed", reason, look=lambda _: tell, event=event, write=write)

    def later(self, delivery: Delivery, reason: str, *, delay: float, unclear: bool, now: float | None = None) -> bool:
        """It is tried again after `delay` seconds. `unclear`: this try may have arrived."""
        at = self.clock() if now is None else now

        def step(pipe: Any, track: Track, _: str | None) -> bool:
            if track.owner != delivery.owner:
                return False
            pipe.multi()
            track = replace(track, owner="", until=0.0, at=at, reason=reason, unclear=track.unclear or unclear)
            pipe.hset(self.scripts.key("alert", delivery.alert.id), delivery.channel, _dump(track))
            pipe.zadd(self.pending.key, {_member(delivery.alert.id, delivery.channel): at + delay}, xx=True)
            return True

        return self._change(delivery.alert.id, delivery.channel, step)

    def off(self, channel: str) -> str | None:
        """Why the channel is switched off now, None where it is not."""
        why: str | None = self._reach(lambda client: client.get(self._switch(channel)))
        return why

    def tracks(self, id: str) -> tuple[Alert, dict[str, Track]] | None:
        """An alert and what became of it on each channel that was tried; None where it is no longer kept."""
        stored: dict[str, str] = self._reach(lambda client: client.hgetall(self.scripts.key("alert", id)))
        if "alert" not in stored:
            return None
        alert = load_alert(stored.pop("alert"))
        return alert, {channel: Track(**json.loads(text)) for channel, text in stored.items()}

    def _end(self, delivery: Delivery, now: float | None, outcome: str, reason: str = "", *, event: str,
             look: Callable[[Any], bool],
             write: Callable[[Any], None]) -> bool:  # fmt: skip
        id, channel = delivery.alert.id, delivery.channel
        at = self.clock() if now is None else now

        def step(pipe: Any, track: Track, _: str | None) -> bool:
            if track.outcome or track.owner != delivery.owner:
                return track.owner == delivery.owner
            told = look(pipe)
            pipe.multi()
            track = replace(track, until=0.0, outcome=outcome, at=at, reason=reason)
            pipe.hset(self.scripts.key("alert", id), channel, _dump(track))
            pipe.zrem(self.pending.key, _member(id, channel))
            write(pipe)
            if told:
                said: Any = {"event": event, "at": ms(at), "service": channel, "channel": channel, "reason": reason}
                pipe.xadd(self.scripts.key("events"), said, maxlen=EVENTS_KEPT)
            return True

        return self._change(id, channel, step)

    def _change(self, id: str, channel: str, step: Callable[..., T]) -> T:
        """Runs `step` on the alert's record; it is begun again where another changed the record meanwhile."""
        key = self.scripts.key("alert", id)

        def attempt(pipe: Any) -> T:
            text, track = pipe.hmget(key, ["alert", channel])
            return step(pipe, Track(**json.loads(track)) if track else Track(), text)

        def run(client: Any) -> T:
            value: T = client.transaction(attempt, key, value_from_callable=True)
            return value

        return self._reach(run)

    def _switch(self, channel: str) -> str:
        return self.scripts.key("alerts", "off", channel)

    def _reach(self, step: Callable[[Any], T]) -> T:
        with reached():
            return step(self.scripts.client)


def _member(id: str, channel: str) -> str:
    return f"{id}|{channel}"


def _dump(track: Track) -> str:
    return json.dumps(asdict(track))


def _seconds(time: Any) -> float:
    return int(time[0]) + int(time[1]) / 1_000_000
