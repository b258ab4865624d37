"""Plays a campaign: injects each fault of a plan at its time, waits until all calls have ended, and judges.

`Campaign.play` does all of it. `say` gets a line for each fault when it is injected.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from resilience.calls.call import State
from resilience.calls.store import DIALER
from tests.chaos.faults import Plan
from tests.chaos.fleet import Fleet
from tests.chaos.injector import Injector, Window
from tests.chaos.producers import call_id
from tests.chaos.verdict import BOUND_S, Evidence, Verdict, judge, leftovers
from tests.support import PREFIX

PACE_S = 0.02
WATCH_S = 0.2
START_S, SETTLE_S, STUCK_S = 60.0, 120.0, 30.0


class Campaign:
    """One plan on one fleet. `standstill`: the longest time without a dispatcher in seconds, and when it ended."""

    def __init__(self, fleet: Fleet, plan: Plan, say: Callable[[str], None]) -> None:
        self.fleet, self.plan, self.say = fleet, plan, say
        self.injector = Injector(fleet, plan)
        self.standstill = (0.0, 0.0)
        self._start = time.monotonic()
        self._tick: Any = None
        self._ticked = self._looked = 0.0

    def play(self) -> Verdict:
        """Plays the plan. Raises AssertionError if the fleet does not start."""
        self._until("all workers are ready", START_S, lambda: self.fleet.is_ready and self._last_tick())
        self.injector.set_weather()
        self._start, self._looked = time.monotonic(), 0.0
        for fault in self.plan.faults:
            self._until("", 600, lambda f=fault: self._now() >= f.at and self.injector.is_possible(f))
            self.say(f"{self._now():6.1f} s  {fault}")
            self.injector.inject(fault)
        self._until("", 600, lambda: self._now() >= self.plan.seconds and self.injector.is_done and self.fleet.is_up)
        self.injector.calm()
        self.say(f"{self._now():6.1f} s  calm")
        unsettled = self._settle()
        verdict = judge(self._evidence())
        verdict.faults += [*unsettled, *self._stuck(), *leftovers(self.fleet), *self._misbehaviour()]
        return verdict

    def _misbehaviour(self) -> list[str]:
        """Faults beside the calls: crashes, hung producers, exceptions, a dispatcher that paused."""
        found = [*self.fleet.crashes, *(fault for producer in self.injector.producers for fault in producer.faults)]
        longest, until = self.standstill
        if longest > BOUND_S:
            found.append(f"no dispatcher for {longest:.1f} s until {until:.1f} s, though Redis was there")
        if self.fleet.has_said("producer", "Traceback"):
            found.append("a producer printed a traceback")
        errors = [line for line in self.fleet.log() if line["event"] == "unknown_error"]
        # The task of a killed child counts as an unknown error, which is right.
        bugs = [line for line in errors if not line.get("reason", "").startswith("WorkerLostError")]
        return found + [f"unknown error: {line.get('exc_info', '')[-300:]}" for line in bugs]

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _until(self, what: str, seconds: float, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.fleet.supervise()
            self.injector.pump()
            self._watch_dispatcher()
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s until {what}")
            time.sleep(PACE_S)

    def _last_tick(self) -> Any:
        return self.fleet.redis.get(f"{PREFIX}:dispatched")

    def _watch_dispatcher(self) -> None:
        if self._now() < self._looked + WATCH_S:
            return
        self._looked = self._now()
        away = not self.fleet.is_up or any(start <= time.time() <= end for start, end in self.injector.outages)
        tick = None if away else self._last_tick()
        if away or tick != self._tick:
            self._tick, self._ticked = tick, self._now()
        self.standstill = max(self.standstill, (self._now() - self._ticked, self._now()))

    def _settle(self) -> list[str]:
        """Waits until every list is enqueued and every call is in a terminal state. Returns what was missing."""

        def settled() -> bool:
            if not all(producer.acked for producer in self.injector.producers):
                return False
            stats = self.fleet.redis.hgetall(f"{PREFIX}:stats")
            return not any(int(stats.get(state, 0)) for state in State if not state.is_terminal)

        try:
            self._until("all calls have come to their end", SETTLE_S, settled)
        except AssertionError as exc:
            return [str(exc)]
        self.say(f"{self._now():6.1f} s  all calls have come to their end")
        return []

    def _stuck(self) -> list[str]:
        """Workers that take no message. They are asked through their queue: a stuck worker still answers a ping."""
        names = [name for name in self.fleet.members if not name.startswith("beat")]
        before, heard = self._taken(), set[str]()

        def all_heard() -> bool:
            self.injector.publish([{"call_id": "nobody:0"}] * 4)
            now = self._taken()
            heard.update(name for name in names if now.get(name, 0) != before.get(name, 0))
            return set(names) <= heard

        try:
            self._until("every worker takes a message", STUCK_S, all_heard)
        except AssertionError:
            return [f"{name} takes no message" for name in names if name not in heard]
        return []

    def _taken(self) -> dict[str, int]:
        stats = self.injector.app.control.inspect(timeout=1).stats() or {}
        return {node.partition("@")[0]: sum(s.get("total", {}).values()) for node, s in stats.items()}

    def _evidence(self) -> Evidence:
        client, settings = self.fleet.redis, self.fleet.settings
        keys = list(client.scan_iter(f"{PREFIX}:call:*"))
        acked = {call_id(number) for p in self.injector.producers if p.acked for number in p.contacts}
        rules = settings.calls.look_up
        return Evidence(
            calls={key.removeprefix(f"{PREFIX}:call:"): client.hgetall(key) for key in keys},
            acked=acked,
            events=[fields for _, fields in client.xrange(f"{PREFIX}:events")],
            rang=self.fleet.control("rang")["rang"],
            requests=self.fleet.control("requests")["requests"],
            went_back=self.injector.went_back,
            outages=_joined(self.injector.outages),
            # A call needs review only if fewer look-ups worked than `polls`, so at least this many failed.
            failures=math.ceil(rules.give_up / rules.interval) - rules.polls + 1,
            interval=rules.interval,
            lease=settings.lease(DIALER),
        )


def _joined(windows: list[Window]) -> list[Window]:
    """The windows, with those that overlap merged."""
    joined: list[Window] = []
    for start, end in sorted(windows):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
