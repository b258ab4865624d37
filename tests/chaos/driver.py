"""A campaign under a plan of faults: it plays them, lets the fleet come to rest, and judges.

`play` is the whole of it. Whatever is injected is printed with its time; what it leaves undone (a suspended worker,
a stalled Redis) is undone when its seconds are over.
"""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import exceptions as redis_errors

from resilience.call_store import DIALER, State
from tests.chaos import faults, producers
from tests.chaos.faults import Fault, Plan
from tests.chaos.fleet import LOST_BY_POWER_CUT_S, Fleet
from tests.chaos.producers import Producer, call_id
from tests.chaos.verdict import Evidence, Verdict, judge, leftovers
from tests.support import PREFIX

PACE_S = 0.02
SETTLE_S = 60.0
DEAF_S = 30.0


class Campaign:
    """One plan on one fleet."""

    def __init__(self, fleet: Fleet, plan: Plan, say: Callable[[str], None]) -> None:
        self.fleet, self.plan, self.say = fleet, plan, say
        self.random = Random(plan.seed)
        self.app = Celery(broker=fleet.server.url, set_as_current=False)
        self.producers: list[Producer] = []
        self.enqueued = 0
        self.cuts: list[tuple[float, float]] = []
        self.outages: list[tuple[float, float]] = []
        self._undo: list[tuple[float, int, Callable[[], Any]]] = []
        self._start = time.monotonic()
        self._out: set[str] = set()
        self._weather = faults.WEATHER[0]

    def play(self) -> Verdict:
        """Plays the plan. Raises AssertionError where the fleet does not even start."""
        self._until("all workers are ready", 60, self._is_ready)
        self._set_weather()
        self._start = time.monotonic()
        for fault in self.plan.faults:
            self._until("", 600, lambda fault=fault: self._now() >= fault.at)
            self.say(str(fault))
            getattr(self, f"do_{fault.kind}")(fault)
        self._until("", 60, lambda: self._now() >= self.plan.seconds and not self._undo)
        self._calm()
        faults_seen = self._settle()
        verdict = judge(self._evidence())
        verdict.faults += faults_seen + self._deaf() + leftovers(self.fleet) + self.fleet.crashes
        verdict.faults += [fault for producer in self.producers for fault in producer.faults]
        verdict.faults += ["a producer printed a traceback"] * self.fleet.has_said("producer", "Traceback")
        for line in self.fleet.log():
            if line["event"] == "unknown_error":
                verdict.faults.append(f"unknown error: {line.get('exc_info', '')[-300:]}")
        return verdict

    def do_enqueue(self, fault: Fault) -> None:
        number = int(fault.target)
        self.enqueued = number + 1
        file = producers.write_list(self.fleet.folder, number, self.plan.waves[number])
        # Two at once with the same file.
        self.producers += [Producer(self.plan.waves[number], file) for _ in range(2)]

    def do_repeat_file(self, fault: Fault) -> None:
        self.producers.append(Producer(*self.random.choice([(p.contacts, p.file) for p in self.producers])))

    def do_kill(self, fault: Fault) -> None:
        self.fleet.signal(fault.target, signal.SIGKILL)

    do_kill_control = do_kill_beat = do_kill

    def do_kill_child(self, fault: Fault) -> None:
        children = self.fleet.children(fault.target)
        if children:
            self.fleet.kill_child(self.random.choice(children))

    def do_terminate(self, fault: Fault) -> None:
        self.fleet.signal(fault.target, signal.SIGTERM, group=False)

    def do_terminate_group(self, fault: Fault) -> None:
        self.fleet.signal(fault.target, signal.SIGTERM)

    def do_suspend(self, fault: Fault) -> None:
        self.fleet.signal(fault.target, signal.SIGSTOP)
        self._later(fault, lambda: self.fleet.signal(fault.target, signal.SIGCONT))

    def do_kill_redis(self, fault: Fault) -> None:
        now = time.time()
        self._away(fault.seconds + 1)
        if self.fleet.fsync != "always":
            self.cuts.append((now - LOST_BY_POWER_CUT_S - 0.2, now + fault.seconds + self.fleet.settings.lease(DIALER)))
        self.fleet.kill_redis(fault.seconds)

    def do_stall_redis(self, fault: Fault) -> None:
        self._away(fault.seconds)
        self.fleet.server.suspend()
        self._later(fault, self.fleet.server.resume)

    def do_cut(self, fault: Fault) -> None:
        self._away(0)
        self.say(f"         {self.fleet.proxy.cut(fault.target)} connections")

    def do_stall_network(self, fault: Fault) -> None:
        self._away(fault.seconds)
        self.fleet.proxy.stall()
        self._later(fault, self.fleet.proxy.resume)

    def do_outage(self, fault: Fault) -> None:
        self._break(fault)

    def do_refuse_look_ups(self, fault: Fault) -> None:
        self._break(fault)

    def do_weather(self, fault: Fault) -> None:
        self._weather = float(fault.target)
        self._set_weather()

    def do_repeat_messages(self, fault: Fault) -> None:
        self._publish([{"call_id": call_id(n)} for w in self.plan.waves[:self.enqueued] for n in w])

    def do_send_contacts(self, fault: Fault) -> None:
        # Of the next list as well: its producers come second then.
        near = self.plan.waves[max(0, self.enqueued - 1):self.enqueued + 1]
        self._publish([{"contact": producers.contact(n), "campaign": producers.CAMPAIGN} for w in near for n in w])

    def _publish(self, payloads: list[dict[str, Any]]) -> None:
        self.random.shuffle(payloads)
        try:
            for kwargs in payloads:
                self.app.send_task("tasks.calls.place_call", kwargs=kwargs, queue="calls", retry=False)
        except (OperationalError, redis_errors.RedisError):
            self.say("         Redis is away: not all were published")

    def _break(self, fault: Fault) -> None:
        self._out.add(fault.kind)
        self._set_weather()
        self._later(fault, lambda: (self._out.discard(fault.kind), self._set_weather()))

    def _set_weather(self) -> None:
        control, seed = self.fleet.control, self.random.randrange(1 << 30)
        control("recover", service=DIALER)
        control("mix", service=DIALER, endpoint="dial", weights=faults.DIALS, seed=seed, seconds=self._weather)
        control("mix", service=DIALER, endpoint="conversations", weights=faults.LOOK_UPS, seed=seed,
                seconds=self._weather)
        if "refuse_look_ups" in self._out:
            control("fault", service=DIALER, endpoint="conversations", kind="unavailable")
        if "outage" in self._out:
            control("outage", service=DIALER)

    def _away(self, seconds: float) -> None:
        self.outages.append((time.time(), time.time() + seconds))

    def _later(self, fault: Fault, action: Callable[[], Any]) -> None:
        heapq.heappush(self._undo, (self._now() + fault.seconds, len(self._undo), action))

    def _now(self) -> float:
        return time.monotonic() - self._start

    def _until(self, what: str, seconds: float, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self.fleet.supervise()
            while self._undo and self._undo[0][0] <= self._now():
                heapq.heappop(self._undo)[2]()
            for producer in self.producers:
                producer.tick(self.fleet)
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s until {what}")
            time.sleep(PACE_S)

    def _is_ready(self) -> bool:
        fleet = self.fleet
        return bool(fleet.redis.exists(f"{PREFIX}:dispatched")) and all(
            fleet.has_said(name, "ready.") for name in fleet.members if not name.startswith("beat"))

    def _calm(self) -> None:
        self.say(f"{self._now():6.1f} s  calm")
        self._out.clear()
        self.fleet.control("recover", service=DIALER)
        self._until("Redis is back", 20, lambda: self.fleet.down_again is None)

    def _settle(self) -> list[str]:
        """Waits until every list is taken and every call has come to its end."""
        def settled() -> bool:
            if not all(producer.acked for producer in self.producers):
                return False
            stats = self.fleet.redis.hgetall(f"{PREFIX}:stats")
            return not any(int(n) for state, n in stats.items() if not State(state).is_terminal)

        try:
            self._until("all calls have come to their end", SETTLE_S, settled)
        except AssertionError as exc:
            return [str(exc)]
        self.say(f"{self._now():6.1f} s  all calls have come to their end")
        return []

    def _deaf(self) -> list[str]:
        """Workers that are connected but take no message; asked through the queue, not by a ping."""
        names = [name for name in self.fleet.members if not name.startswith("beat")]
        before, heard = self._taken(), set[str]()

        def all_heard() -> bool:
            self._publish([{"call_id": "nobody:0"}] * 4)
            now = self._taken()
            heard.update(name for name in names if now.get(name, 0) != before.get(name, 0))
            return set(names) <= heard

        try:
            self._until("every worker takes a message", DEAF_S, all_heard)
        except AssertionError:
            return [f"{name} takes no message" for name in names if name not in heard]
        return []

    def _taken(self) -> dict[str, int]:
        stats = self.app.control.inspect(timeout=1).stats() or {}
        return {node.partition("@")[0]: sum(s["total"].values()) for node, s in stats.items()}

    def _evidence(self) -> Evidence:
        client, settings = self.fleet.redis, self.fleet.settings
        calls = {key.removeprefix(f"{PREFIX}:call:"): client.hgetall(key)
                 for key in client.scan_iter(f"{PREFIX}:call:*")}
        acked: dict[str, list[tuple[float, float]]] = {}
        for producer in self.producers:
            for number in producer.contacts:
                acked.setdefault(call_id(number), []).extend([producer.acked] if producer.acked else [])
        return Evidence(calls, acked, [fields for _, fields in client.xrange(f"{PREFIX}:events")],
                        self.fleet.control("rang")["rang"], self.fleet.control("requests")["requests"], self.cuts,
                        _joined(self.outages), settings.calls.look_up.polls, settings.lease(DIALER))


def _joined(windows: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time in windows that do not overlap."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(windows):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
