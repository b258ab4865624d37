"""Which events a person is told of, and when: once, grouped, and resolved.

`decide` is pure. A service's gate that opens or is held fires one alert; while it fires, the failed calls are folded
into it; when the gate closes it is resolved. Other kinds: the first at once, then one digest per `group_interval`.
The model is Alertmanager's (https://prometheus.io/docs/alerting/latest/alertmanager/). `collect` reads the event
stream by a consumer group and writes state, messages and acknowledgements in one transaction, so that a killed
collector loses nothing. Each (alert, channel) stands in an outbox until its delivery is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from resilience.logger import log
from resilience.outbox import Outbox
from resilience.scripts import UNREACHABLE, Scripts, ms, unavailable

GROUP = "alerts"
KEPT = 30 * 24 * 3600
EXAMPLES = 3
STALE_READ = 30.0  # seconds after which what a killed collector had read is taken over
LONG_PAUSE = 60.0  # a shorter throttle is daily business

GROUPED = {
    "call_failed": "calls failed",
    "call_needs_review": "calls need review",
    "call_rang_twice": "calls rang twice",
    "unknown_error": "unexpected errors",
    "service_throttled": "pauses asked for by the service",
    "alert_channel_broken": "alerts were not delivered",
}
NEXT = {
    "call_failed": "It is not dialed again. See `python -m tasks calls show ID`, then `python -m tasks calls retry ID`.",
    "call_needs_review": "Look the call up at the provider, then `python -m tasks calls retry ID` if it did not ring.",
    "call_rang_twice": "Both conversations are in `python -m tasks calls show ID`.",
    "unknown_error": "The call is looked up and not dialed again. The log has the traceback.",
    "service_throttled": "Its calls are deferred and go on by themselves. See `python -m tasks services list`.",
    "alert_channel_broken": "Check the channel's settings with `python -m tasks alerts test`.",
}


@dataclass(frozen=True)
class Alert:
    """One message to the admin. `not_to` names a channel that must not carry it, since it is about that channel."""

    id: str
    kind: str
    service: str
    subject: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)
    not_to: str = ""


def decide(state: dict[str, dict[str, Any]], events: Sequence[tuple[str, Mapping[str, str]]], now: float,
           group_interval: float) -> list[Alert]:
    """The alerts that these events (stream id, fields) call for at unix second `now`. Updates `state`."""
    fired: dict[str, str] = {}
    alerts: list[Alert] = []
    for id, event in events:
        kind, service = _kind(event), event.get("service", "")
        firing = state.get(f"down:{service}")
        if kind in ("breaker_opened", "service_held"):
            what = "held" if kind == "service_held" else "open"
            if firing is None or (what == "held" and firing["what"] != "held"):
                since = firing["since"] if firing else int(event["at"])
                state[f"down:{service}"] = {"failed": 0, "examples": [], **(firing or {}), "since": since,
                                            "what": what, "reason": event.get("reason", ""),
                                            "until": event.get("until"), "waiting": event.get("waiting", "0")}
                fired[service] = id
        elif kind == "breaker_closed" and firing:
            alerts.extend(_down(service, state, fired))
            alerts.append(_resolved(id, service, state.pop(f"down:{service}"), event))
        elif kind == "call_failed" and firing:
            firing["failed"] += 1
            firing["examples"] = [*firing["examples"], event.get("call_id", "")][:EXAMPLES]
        elif kind in GROUPED:
            group = state.setdefault(f"group:{kind}:{service}", {"sent": 0.0, "count": 0, "examples": []})
            group["count"] += 1
            group["id"] = id
            group["channel"] = event.get("channel", "")
            about = event.get("call_id") or event.get("channel", "")
            group["examples"] = [*group["examples"], f"{about}: {event.get('reason', '')}".strip(": ")][:EXAMPLES]
    for service in list(fired):
        alerts.extend(_down(service, state, fired))
    return alerts + _digests(state, now, group_interval)


def _kind(event: Mapping[str, str]) -> str:
    kind = event["event"]
    if kind == "call_in_doubt" and event.get("code") in ("unknown", "unknown_status"):
        return "unknown_error"
    if kind == "service_throttled" and int(event.get("until", 0)) - int(event["at"]) < ms(LONG_PAUSE):
        return "throttled_briefly"
    return kind


def _down(service: str, state: Mapping[str, Mapping[str, Any]], fired: dict[str, str]) -> list[Alert]:
    if service not in fired:
        return []
    now = state[f"down:{service}"]
    held = now["what"] == "held"
    title = f"{service} is {'held' if held else 'down: circuit breaker open'}"
    if held:
        follows = (f"Nothing is sent to {service} until it is released: by a health check that recovers, or by "
                   f"`python -m tasks services release {service}` once the cause is mended.")
    else:
        follows = f"Next probe at {_clock(now['until'])}, or when the health check finds the service well again."
    lines = [f"{title} since {_clock(now['since'])}.", f"Reason: {now['reason']}", follows,
             f"Calls step aside and go on by themselves; {now['waiting']} wait now."]
    if now["failed"]:
        lines.append(f"Calls failed for good: {now['failed']} ({', '.join(now['examples'])}).")
    lines.append("See `python -m tasks services list`.")
    data = {"state": now["what"], "reason": now["reason"], "since": _iso(now["since"]), "failed": now["failed"],
            "calls": now["examples"], "severity": "critical"}
    return [Alert(f"{fired.pop(service)}-down", "service_down", service, title, "\n".join(lines), data)]


def _resolved(id: str, service: str, was: Mapping[str, Any], event: Mapping[str, str]) -> Alert:
    lasted = timedelta(seconds=round((int(event["at"]) - int(was["since"])) / 1000))
    waiting = event.get("waiting", "0")
    title = f"resolved: {service} is well again"
    text = "\n".join([f"{service} is well again after {lasted}.", f"It was {was['what']}: {was['reason']}",
                      f"Calls that still waited: {waiting}. They are released by themselves, slowly at first.",
                      f"Calls that failed for good meanwhile: {was['failed']}."])
    data = {"state": "closed", "since": _iso(was["since"]), "duration_s": lasted.total_seconds(),
            "waiting": int(waiting), "failed": was["failed"], "severity": "info"}
    return Alert(f"{id}-resolved", "resolved", service, title, text, data)


def _digests(state: dict[str, dict[str, Any]], now: float, group_interval: float) -> list[Alert]:
    alerts = []
    for name in [n for n in state if n.startswith("group:")]:
        _, kind, service = name.split(":", 2)
        group = state[name]
        if now - group["sent"] < group_interval:
            continue
        if not group["count"]:
            del state[name]
            continue
        title = f"{service or 'alerts'}: {group['count']} {GROUPED[kind]}"
        shown = "\n".join(f"- {example}" for example in group["examples"])
        data = {"count": group["count"], "examples": group["examples"], "severity": "warning"}
        alerts.append(Alert(f"{group['id']}-{kind}", kind, service, title, f"{title}.\n{shown}\n{NEXT[kind]}", data,
                            group["channel"] if kind == "alert_channel_broken" else ""))
        group.update(sent=now, count=0, examples=[])
    return alerts


def _iso(at_ms: Any) -> str:
    return datetime.fromtimestamp(int(at_ms) / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _clock(at_ms: Any) -> str:
    return f"{datetime.fromtimestamp(int(at_ms or 0) / 1000, UTC):%H:%M:%S} UTC"


class AlertOutbox:
    """The alerts of one Redis on their way to the channels. Raises StoreUnavailable."""

    def __init__(self, scripts: Scripts, group_interval: float) -> None:
        self.scripts, self.group_interval = scripts, group_interval
        self.events, self.state = scripts.key("events"), scripts.key("alerts:state")
        self.pending = Outbox(scripts, "alerts")

    def collect(self, channels: Sequence[str], consumer: str, *, now: float) -> int:
        """Reads the new events and puts the alerts that they call for into the outbox. Returns how many."""
        try:
            events = self._read(consumer)
            return int(self.scripts.client.transaction(
                lambda pipe: self._decide(pipe, events, channels, now), self.state, value_from_callable=True))
        except UNREACHABLE as exc:
            raise unavailable(exc) from exc

    def _decide(self, pipe: redis.client.Pipeline, events: Sequence[tuple[str, Mapping[str, str]]],
                channels: Sequence[str], now: float) -> int:
        stored = pipe.hgetall(self.state)
        before = {k: json.loads(v) for k, v in stored.items()}
        state = json.loads(json.dumps(before))
        alerts = decide(state, events, now, self.group_interval)
        pipe.multi()
        self._put(pipe, alerts, channels, now)
        if state != before:
            pipe.delete(self.state)
            if state:
                pipe.hset(self.state, mapping={k: json.dumps(v) for k, v in state.items()})
                pipe.expire(self.state, KEPT)
        if events:
            pipe.xack(self.events, GROUP, *(id for id, _ in events))
        return len(alerts)

    def put(self, alert: Alert, channels: Sequence[str], *, now: float) -> None:
        """Puts one alert into the outbox."""
        try:
            with self.scripts.client.pipeline() as pipe:
                self._put(pipe, [alert], channels, now)
                pipe.execute()
        except UNREACHABLE as exc:
            raise unavailable(exc) from exc

    def _put(self, pipe: redis.client.Pipeline, alerts: Sequence[Alert], channels: Sequence[str], now: float) -> None:
        for alert in alerts:
            pipe.set(self.scripts.key("alert", alert.id), json.dumps(asdict(alert)), ex=KEPT)
            for channel in channels:
                if channel != alert.not_to:
                    pipe.zadd(self.pending.key, {f"{alert.id}|{channel}": now})

    def _read(self, consumer: str) -> list[tuple[str, Mapping[str, str]]]:
        client = self.scripts.client
        try:
            taken = client.xautoclaim(self.events, GROUP, consumer, ms(STALE_READ), count=500)[1]
        except redis.ResponseError as exc:
            if "NOGROUP" not in str(exc):
                raise
            client.xgroup_create(self.events, GROUP, id="0", mkstream=True)
            taken = []
        fresh = client.xreadgroup(GROUP, consumer, {self.events: ">"}, count=500)
        # RESP3 answers a mapping of lists of pages, RESP2 a list of pairs.
        pages = [p for pages in fresh.values() for p in pages] if isinstance(fresh, dict) else [p for _, p in fresh or []]
        return [(id, fields) for id, fields in [*taken, *(e for page in pages for e in page)] if fields]

    def take_due(self, *, now: float, again: float) -> list[tuple[str, str]]:
        """The (alert id, channel) pairs to deliver now. Each comes again after `again` seconds unless it is done."""
        members = self.pending.take_due(now=now, again=again)
        return [(id, channel) for id, _, channel in (m.rpartition("|") for m in members)]

    def get(self, id: str, channel: str) -> Alert | None:
        """An alert that its channel still has to carry, None when that is over."""
        if not self.pending.waits(f"{id}|{channel}"):
            return None
        try:
            text = self.scripts.client.get(self.scripts.key("alert", id))
        except UNREACHABLE as exc:
            raise unavailable(exc) from exc
        return Alert(**json.loads(text)) if text else None

    def done(self, id: str, channel: str, *, broken: str | None = None) -> None:
        """The delivery is over. `broken` says why the channel did not carry it, to be told by the others."""
        try:
            if self.pending.done(f"{id}|{channel}") and broken:
                self.scripts.client.xadd(self.events, {"event": "alert_channel_broken", "channel": channel,
                                                       "reason": broken, "at": id.split("-")[0]})
        except UNREACHABLE as exc:
            raise unavailable(exc) from exc
        if broken:
            log("alert_channel_broken", service=channel, alert_id=id, reason=broken, next_action="other channels")
