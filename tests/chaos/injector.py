"""Injects faults into a fleet: one method for each kind of fault, `do_<kind>`.

A fault that lasts (a suspended worker, a stalled network) is ended by `pump` when its seconds are over.
"""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any

from celery import Celery

from resilience.calls.store import DIALER
from tests.chaos import faults, producers
from tests.chaos.faults import Fault, Plan
from tests.chaos.fleet import Fleet
from tests.chaos.producers import Producer, call_id

Window = tuple[float, float]


class Injector:
    """Injects the faults of a plan.

    `outages`: the unix times when Redis was away. `went_back`: whether a power cut took its last second.
    """

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        self.fleet, self.plan = fleet, plan
        self.random = Random(plan.seed)
        self.app = Celery(broker=fleet.server.url, set_as_current=False)
        self.producers: list[Producer] = []
        self.went_back = False
        self.outages: list[Window] = []
        self._undo: list[tuple[float, int, Callable[[], Any]]] = []
        self._enqueued = 0
        self._out: set[str] = set()
        self._weather = faults.WEATHER[0]

    @property
    def is_done(self) -> bool:
        """Whether no injected fault still lasts."""
        return not self._undo

    def is_possible(self, fault: Fault) -> bool:
        """Whether it can be injected now. Some faults need a Redis that answers."""
        return self.fleet.is_up or fault.kind not in ("send_contacts", "repeat_messages", "stall_redis", "kill_redis")

    def inject(self, fault: Fault) -> None:
        """Injects it now."""
        getattr(self, f"do_{fault.kind}")(fault)

    def pump(self) -> None:
        """Ends the faults whose seconds are over, and lets the producers go on."""
        while self._undo and self._undo[0][0] <= time.monotonic():
            heapq.heappop(self._undo)[2]()
        for producer in self.producers:
            producer.tick(self.fleet)

    def do_enqueue(self, fault: Fault) -> None:
        number = int(fault.target)
        self._enqueued = number + 1
        file = producers.write_list(self.fleet.folder, number, self.plan.waves[number])
        # Two producers send the same list at once.
        self.producers += [Producer(self.plan.waves[number], file) for _ in range(2)]

    def do_repeat_file(self, fault: Fault) -> None:
        self.producers.append(Producer(*self.random.choice([(p.contacts, p.file) for p in self.producers])))

    def do_kill(self, fault: Fault) -> None:
        self.fleet.members[fault.target].signal(signal.SIGKILL)

    do_kill_control = do_kill_beat = do_kill

    def do_kill_child(self, fault: Fault) -> None:
        self.fleet.members[fault.target].kill_child()

    def do_terminate(self, fault: Fault) -> None:
        self.fleet.terminate(fault.target, group=False)

    def do_terminate_group(self, fault: Fault) -> None:
        self.fleet.terminate(fault.target, group=True)

    def do_suspend(self, fault: Fault) -> None:
        self.fleet.members[fault.target].signal(signal.SIGSTOP)
        self._later(fault, lambda: self.fleet.members[fault.target].signal(signal.SIGCONT))

    def do_kill_redis(self, fault: Fault) -> None:
        self._away(fault.seconds + 1)
        if self.fleet.fsync != "always":
            self.went_back = True
        self.fleet.kill_redis(fault.seconds)

    def do_stall_redis(self, fault: Fault) -> None:
        self._away(fault.seconds)
        self.fleet.suspend_redis(fault.seconds)

    def do_cut(self, fault: Fault) -> None:
        self._away(0)
        self.fleet.proxy.cut(fault.target)

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
        self.set_weather()

    def do_repeat_messages(self, fault: Fault) -> None:
        self.publish([{"call_id": call_id(n)} for w in self.plan.waves[: self._enqueued] for n in w])

    def do_send_contacts(self, fault: Fault) -> None:
        # Contacts of the next list too, so that its producers find them known.
        near = self.plan.waves[max(0, self._enqueued - 1) : self._enqueued + 1]
        self.publish([{"contact": producers.contact(n), "campaign": producers.CAMPAIGN} for w in near for n in w])

    def publish(self, payloads: list[dict[str, Any]]) -> None:
        """Sends `place_call` with each of the payloads, in random order, straight to Redis."""
        self.random.shuffle(payloads)
        for kwargs in payloads if self.fleet.is_up else ():
            self.app.send_task("tasks.calls.place_call", kwargs=kwargs, queue="calls")

    def _break(self, fault: Fault) -> None:
        self._out.add(fault.kind)
        self.set_weather()
        self._later(fault, lambda: (self._out.discard(fault.kind), self.set_weather()))

    def set_weather(self) -> None:
        """Sets how the stand-in answers, from the weather and the faults that last."""
        control, seed = self.fleet.control, self.random.randrange(1 << 30)
        control("recover", service=DIALER)
        control("mix", service=DIALER, endpoint="dial", weights=faults.DIALS, seed=seed, seconds=self._weather)
        control(
            "mix", service=DIALER, endpoint="conversations", weights=faults.LOOK_UPS, seed=seed, seconds=faults.LAG_S
        )
        if "refuse_look_ups" in self._out:
            control("fault", service=DIALER, endpoint="conversations", kind="unavailable")
        if "outage" in self._out:
            control("outage", service=DIALER)

    def calm(self) -> None:
        """Ends every fault of the provider; it answers as at the start.

        After a power cut each list is sent again, since contacts that were accepted in the lost second are gone.
        """
        if self.went_back:
            lists = {producer.file: producer.contacts for producer in self.producers}
            self.producers += [Producer(contacts, file) for file, contacts in lists.items()]
        self._out.clear()
        self._weather = faults.WEATHER[0]
        self.set_weather()

    def _away(self, seconds: float) -> None:
        self.outages.append((time.time(), time.time() + seconds))

    def _later(self, fault: Fault, action: Callable[[], Any]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + fault.seconds, len(self._undo), action))
