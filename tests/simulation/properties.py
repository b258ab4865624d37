"""What must hold, checked after steps and at the end. Each property names itself in the violation that it raises."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tests.simulation.actors import World
from tests.simulation.fleet import TERMINAL
from tests.simulation.provider import Request

Calls = Mapping[str, Mapping[str, str]]

STANDSTILL = 120.0  # seconds for which dispatcher or health may not run although a host is up
BOUND = 2 * 3600.0  # seconds after the last fault until everything has ended
LONG_LAG = 100.0  # a list that lags longer than the look-ups last cannot prove an absence
CIRCLES = 60  # look-ups of one call in a row, without a dial, an end, or a notification
REQUESTS, REQUEST_S = 100, 10.0  # in an outage: what was under way, and then one request in so many seconds
RAMP_S, RAMP_CALLS = 3.0, 14  # after a recovery: attempts in the first seconds, twice 1 + 2 + 4


@dataclass
class Violation(Exception):
    """A property that does not hold."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


class Properties:
    """Looks at one world."""

    def __init__(self, world: World) -> None:
        self.world, self.fleet, self.provider = world, world.fleet, world.provider
        self._requests = self._handed = self._checked_due = 0
        self._of_call: Counter[str] = Counter()
        self._alerts = 0
        self._closed: list[float] = []
        self._reached = 0.0

    def after_step(self) -> None:
        """The cheap ones."""
        if len(self.provider.log) > self._requests:
            for request in self.provider.log[self._requests :]:
                self._request(request)
            self._requests = len(self.provider.log)
        if self.world.scheduler.steps % 50 == 0:
            self._standstill()
        if self.world.scheduler.steps % 200 == 0:
            if self.fleet.open_calls() != self.fleet.due_calls():
                self.every_call_is_due()
            self._ramp()

    def _request(self, request: Request) -> None:
        if request.path == "health" or not request.call_id:
            return
        id = request.call_id
        if len(self.fleet.seen.alerts) != self._alerts:
            self._alerts = len(self.fleet.seen.alerts)
            self._of_call.clear()
        self._of_call[id] = self._of_call[id] + 1 if request.path == "list" else 0
        if self._of_call[id] > CIRCLES:
            raise Violation("circles", f"{id}: {CIRCLES} look-ups, no dial, no end and nobody was notified")
        if request.path != "dial":
            return
        placed = self.fleet.seen.placed.get(id)
        if placed and placed[0] < request.at:
            raise Violation("dialed_after_placed", f"{id}: dialed {request.at - placed[0]:.1f} s after a worker had "
                            f"reported {placed[1]}")  # fmt: skip
        rings = self.provider.rings[id]
        if len(rings) > 1 and (self.provider.lag <= LONG_LAG):
            raise Violation("rang_twice", f"{id} rang at {', '.join(f'{ring.at:.1f}' for ring in rings)} s")

    def _standstill(self) -> None:
        now, world = self.world.scheduler.now, self.world
        up = any(h.up and h.until <= now for h in (world.hosts["c1"], world.hosts["c2"]))
        if not up or now < self.fleet.scripts.away_until:
            self._reached = now
            return
        for what in ("dispatch", "health"):
            last = max(self.fleet.seen.ticks.get(what, 0.0), self._reached)
            if now - last > STANDSTILL:
                raise Violation("standstill", f"{what} has not run for {now - last:.0f} s")

    def every_call_is_due(self) -> None:
        """Every call that is not over is in `due`."""
        due = self.fleet.due()
        for call in self.fleet.calls():
            if call["state"] not in TERMINAL and call["id"] not in due:
                raise Violation("not_due", f"{call['id']} is {call['state']} and has no deadline")

    def _ramp(self) -> None:
        events = self.fleet.new_events()
        for event in events:
            if event["event"] == "call_rang_twice" and len(self.provider.rings[event["call_id"]]) < 2:
                raise Violation("false_alarm", f"{event['call_id']} is said to have rung twice")
        closed = [int(e["at"]) / 1000 for e in events if e["event"] == "breaker_closed"]
        self._closed += [at - (self.fleet.scripts.clock() - self.world.scheduler.now) for at in closed]
        for at in self._closed:
            begun = sum(at <= when < at + RAMP_S for when, _, _ in self.fleet.seen.begun)
            if begun > RAMP_CALLS:
                raise Violation("ramp", f"{begun} attempts began within {RAMP_S:g} s of a recovery")
        self._closed = [at for at in self._closed if at + RAMP_S > self.world.scheduler.now]

    def over(self) -> bool:
        """Whether every call has ended and every alert is delivered."""
        return not self.fleet.open_calls()

    def at_the_end(self) -> None:
        """The dear ones."""
        self._ramp()
        self.every_call_is_due()
        calls = {call["id"]: call for call in self.fleet.calls()}
        self._all_there(calls)
        self._own(calls)
        self._stuck(calls)
        self._blame(calls)
        self._outages()
        self._notified(calls)

    def _all_there(self, calls: Calls) -> None:
        expected = {
            f"{s.arg}:{n}" for s in self.world.plan if s.what == "enqueue" for n in range(1, int(s.seconds) + 1)
        }
        if expected - calls.keys():
            raise Violation("lost", f"{sorted(expected - calls.keys())} are nowhere")

    def _own(self, calls: Calls) -> None:
        for id, call in calls.items():
            own = {ring.conversation_id for ring in self.provider.rings[id]}
            if call["state"] == "placed" and call.get("conversation_id") not in own:
                raise Violation("not_its_own", f"{id} has the conversation {call.get('conversation_id')}")

    def _stuck(self, calls: Calls) -> None:
        left = [call for call in calls.values() if call["state"] not in TERMINAL]
        if left and not self._somebody_knows(""):
            states = Counter(call["state"] for call in left)
            raise Violation("stuck", f"{dict(states)} long after the last fault; gate {self.fleet.gate_now()}")

    def _blame(self, calls: Calls) -> None:
        most = self.fleet.rules.retry.max_attempts
        own: Counter[str] = Counter()
        for at, claim, well in self.fleet.seen.begun:
            if well and at >= self.fleet.seen.retried.get(claim.call_id, 0.0):
                own[claim.call_id] += 1
        outcomes: dict[str, set[str]] = defaultdict(set)
        for request in self.provider.log:
            outcomes[request.call_id].add(request.outcome)
        for id, call in calls.items():
            if call["state"] == "failed" and "contact" not in outcomes[id] and own[id] < most:
                raise Violation("service_fault", f"{id} failed after {own[id]} dials of its own with the gate closed: "
                                f"{call.get('reason')}")  # fmt: skip
            if call["state"] == "needs_review" and not ("no_scope" in outcomes[id] or self.provider.ignores_filter):
                raise Violation("service_fault", f"{id} needs review: {call.get('reason')}")

    def _outages(self) -> None:
        for outage in self.provider.outages:
            if outage.paths != "all" or outage.mode in ("slow", "lost"):
                continue
            sent = [r for r in self.provider.log if outage.since <= r.at < outage.until and r.path != "health"]
            sent = [r for r in sent if r.outcome == outage.mode]
            bound = REQUESTS + (outage.until - outage.since) / REQUEST_S
            if len(sent) > bound:
                raise Violation(
                    "requests", f"{len(sent)} requests in {outage.until - outage.since:.0f} s of {outage.mode}"
                )

    def _notified(self, calls: Calls) -> None:
        for state in ("failed", "needs_review"):
            if any(call["state"] == state for call in calls.values()) and not self._somebody_knows(f"call_{state}"):
                raise Violation("nobody_notified", f"calls are {state}, and no alert says so")

    def _somebody_knows(self, kind: str) -> bool:
        given = [incident for _, (_, incident) in self.fleet.seen.alerts]
        if not kind:
            return any(incident.fires and incident.held for incident in given[-1:])
        return any(incident.kind == kind or kind in incident.calls for incident in given)
