"""The fleet's life: a broker, two workers, two control hosts, an operator, and the faults of a plan.

Every duration comes from `draw`, so that a plan alone decides the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import redis

from tests.simulation.fleet import Fleet, StoreUnavailable
from tests.simulation.plan import Step, draw
from tests.simulation.provider import Outage, Provider
from tests.simulation.scheduler import Host, Scheduler, Task

WORKERS, CONTROLS = ("w1", "w2"), ("c1", "c2")
CONCURRENCY = 8
VISIBILITY = 360.0  # seconds until the broker delivers a message again that a dead worker had
STORE_RETRY = 5.0
SLOWEST_TICK = 30.0  # a beat that finds nothing to do slows down to this


@dataclass(frozen=True)
class Message:
    kind: str
    call_id: str
    number: int


class World:
    """One run of a plan."""

    def __init__(self, client: redis.Redis, plan: Sequence[Step]) -> None:
        self.plan, self.scheduler = plan, Scheduler()
        self.provider = Provider(lambda: self.scheduler.now)
        self.fleet = Fleet(client, self.scheduler, self.provider)
        self.hosts = {name: Host(name) for name in (*WORKERS, *CONTROLS)}
        self.hosts |= {"redis": self.fleet.redis_host, "provider": self.provider.host}
        self.queue: list[Message] = []
        self.messages = 0
        self.armed: dict[str, Step] = {}
        self.losses: list[Step] = []
        self.saved: dict[Step, dict[str, bytes]] = {}
        self.pace, self.activity = 1.0, 0
        self.scheduler.at_seam = self._at_seam
        for step in plan:
            if step.what == "redis_loses":
                self.scheduler.after(step.at - step.seconds, partial(self._save, step))
            self.scheduler.after(step.at, partial(getattr(self, f"_{step.what}"), step))
        for n, name in enumerate(CONTROLS):
            for what, every in (("dispatch", 1.0), ("check_health", 15.0), ("alert", 15.0)):
                self._beat(self.hosts[name], what, every, 0.3 + 0.5 * n)

    @property
    def last_fault(self) -> float:
        """When the last step of the plan is over."""
        return max((s.at + (s.seconds if s.what in ("outage", "redis_down", "crash", "suspend", "late") else 0.0)
                    for s in self.plan), default=0.0)  # fmt: skip

    def _save(self, step: Step) -> None:
        self.saved[step] = self.fleet.save()

    # The broker and the workers.

    def publish(self, kind: str, call_id: str, delay: float = 0.0) -> None:
        """A message, which a fault may lose, double or hold up."""
        self.messages += 1
        message, copies = Message(kind, call_id, self.messages), 1
        delay += 0.002 + 0.01 * draw("publish", call_id, self.messages)
        if self.losses:
            fault = self.losses.pop(0)
            copies = {"lose": 0, "double": 2, "late": 1}[fault.what]
            delay += fault.seconds if fault.what == "late" else 0.0
        for _ in range(copies):
            self._send(message, delay)

    def _send(self, message: Message, delay: float) -> None:
        def arrive() -> None:
            self.queue.append(message)
            self._feed()

        self.scheduler.after(delay, arrive)

    def _feed(self) -> None:
        workers = [self.hosts[name] for name in WORKERS]
        while self.queue:
            free = [h for h in workers if h.up and h.until <= self.scheduler.now and len(h.tasks) < CONCURRENCY]
            if not free:
                return
            message = self.queue.pop(0)
            host = free[int(draw("worker", message.number) * len(free))]
            self.activity += 1
            self.scheduler.start(host, partial(self._work, message, host), partial(self._acked, message))

    def _acked(self, message: Message, finished: bool) -> None:
        if not finished:
            self._send(message, VISIBILITY)
        self.scheduler.after(0, self._feed)

    def _work(self, message: Message, host: Host) -> None:
        try:
            if message.kind == "look_up":
                self.fleet.look_up(message.call_id)
                return
            result = self.fleet.place(message.call_id)
        except StoreUnavailable:
            self.publish(message.kind, message.call_id, STORE_RETRY)
            return
        if result.retry_in is not None:
            other = self.hosts[WORKERS[int(draw("eta", message.number) * len(WORKERS))]]
            self.publish("place", message.call_id, max(0.0, result.retry_in + host.ahead - other.ahead))

    # The control hosts: beat and the control worker.

    def _beat(self, host: Host, what: str, every: float, first: float) -> None:
        def tick() -> None:
            self._tick(host, what)
            wait = every if what == "check_health" else max(every, self.pace)
            self.scheduler.after(wait * (1 + 0.02 * draw(host.name, what, round(self.scheduler.now))), tick)

        self.scheduler.after(first, tick)

    def _tick(self, host: Host, what: str) -> None:
        if host.up and host.until <= self.scheduler.now and not any(task.name == what for task in host.tasks):
            self.scheduler.start(host, partial(self._control, what)).name = what

    def _nudge(self) -> None:
        """Something has changed: the beat is at its full pace again."""
        self.pace = 1.0
        for name in CONTROLS:
            self.scheduler.after(0.5, partial(self._tick, self.hosts[name], "dispatch"))

    def _control(self, what: str) -> None:
        before = self.activity
        try:
            if what == "dispatch":
                self.fleet.dispatch(lambda: len(self.queue), self.publish)
                self._set_pace(before)
            else:
                getattr(self.fleet, what)()
        except StoreUnavailable:
            self.pace = 1.0

    def _set_pace(self, before: int) -> None:
        events = self.fleet.scripts.client.xlen(self.fleet.scripts.key("events"))
        busy = events != before or self.queue or any(self.hosts[name].tasks for name in WORKERS)
        self.activity = events
        self.pace = 1.0 if busy else min(self.pace * 1.3, SLOWEST_TICK)

    # The steps of a plan.

    def _enqueue(self, step: Step) -> None:
        try:
            self.fleet.enqueue(step.arg, int(step.seconds))
        except StoreUnavailable:
            self.scheduler.after(STORE_RETRY, partial(self._enqueue, step))
        self._nudge()

    def _outage(self, step: Step) -> None:
        self.provider.outages.append(Outage(step.at, step.at + step.seconds, step.who, step.arg))

    def _no_scope(self, step: Step) -> None:
        self.provider.outages.append(Outage(step.at, step.at + step.seconds, "list", "no_scope"))

    def _lag(self, step: Step) -> None:
        self.provider.lag = step.seconds

    def _clock(self, step: Step) -> None:
        self.hosts[step.who].ahead += step.seconds

    def _stop(self, step: Step) -> None:
        if step.arg:
            self.armed[step.who] = step
        else:
            self._stop_now(step)

    _crash = _suspend = _stop

    def _at_seam(self, task: Task, seam: str) -> None:
        step = self.armed.get(task.host.name)
        if step and step.arg == seam:
            del self.armed[task.host.name]
            self._stop_now(step)

    def _stop_now(self, step: Step) -> None:
        host = self.hosts[step.who]
        if step.what == "suspend":
            host.until = max(host.until, self.scheduler.now + step.seconds)
            self.scheduler.after(step.seconds, self._feed)
            return
        self.scheduler.crash(host)
        self.scheduler.after(step.seconds, partial(self._up, host))

    def _up(self, host: Host) -> None:
        host.up = True
        self._feed()

    def _lose(self, step: Step) -> None:
        self.losses.append(step)

    _double = _late = _lose

    def _redis_down(self, step: Step) -> None:
        self.fleet.scripts.away_until = max(self.fleet.scripts.away_until, self.scheduler.now + step.seconds)

    def _reply_lost(self, step: Step) -> None:
        self.fleet.scripts.replies_to_lose += 1

    def _redis_restart(self, step: Step) -> None:
        self._redis_down(step)
        self.fleet.restart()

    def _redis_loses(self, step: Step) -> None:
        """What was written in the last seconds is gone, but for what the producer sends again."""
        self.fleet.load(self.saved.pop(step, {}))
        self.fleet.seen.forget(step.at - step.seconds)
        self._send_again()

    def _redis_wiped(self, step: Step) -> None:
        self.fleet.load({})
        self.fleet.seen.forget(0.0)
        self._send_again()

    def _send_again(self) -> None:
        self.fleet.restart()
        for step in self.plan:
            if step.what == "enqueue" and step.at <= self.scheduler.now:
                self.scheduler.after(30.0, partial(self._enqueue, step))

    def _ignored_filter(self, step: Step) -> None:
        self.provider.ignores_filter = True

    def _repeated_page(self, step: Step) -> None:
        self.provider.repeats_page = True

    def _operator(self, step: Step) -> None:
        calls = self.fleet.calls()
        if step.arg == "retry":
            calls = [call for call in calls if call["state"] in ("failed", "needs_review")]
        for call in calls if step.arg == "retry" else calls[:1]:
            try:
                self.fleet.command(step.arg, call["id"])
            except StoreUnavailable:
                return
        self._nudge()
