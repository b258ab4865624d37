"""Who goes next, and when: virtual time, an agenda, and tasks of which exactly one runs.

A task is a thread that holds the baton while it runs. At each seam it gives the baton back and names the virtual
seconds that pass there. Nothing sleeps, and one seed gives one order.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field


class Crash(BaseException):
    """The process is gone: raised inside of the product's code at a seam."""


@dataclass
class Host:
    """A machine: whether its process runs, until when it is suspended, and how far ahead its clock is (seconds)."""

    name: str
    ahead: float = 0.0
    up: bool = True
    until: float = 0.0
    tasks: set[Task] = field(default_factory=set)


class Task:
    """One run of something on a host. `at` names the seam where it waits."""

    def __init__(
        self, scheduler: Scheduler, host: Host, body: Callable[[], None], done: Callable[[bool], None]
    ) -> None:
        self.scheduler, self.host, self.body, self.done = scheduler, host, body, done
        self.at, self.name, self.dead, self.over = "start", "", False, False
        self.turn = threading.Lock()
        self.turn.acquire()
        host.tasks.add(self)

    def __call__(self) -> None:
        """Waits for the first turn, and runs to the end."""
        self.turn.acquire()
        finished = False
        try:
            if not self.dead:
                self.body()
                finished = True
        except Crash:
            pass
        except BaseException as exc:  # noqa: BLE001 a fault of the product: the scheduler's thread raises it
            self.scheduler.failure = exc
        self.over = True
        self.host.tasks.discard(self)
        self.done(finished)

    def pause(self, seam: str, seconds: float) -> None:
        """Gives the baton away for so long."""
        self.at = seam
        self.scheduler.wake(self, seconds)
        self.scheduler.baton.release()
        self.turn.acquire()
        if self.dead:
            raise Crash(seam)


class Scheduler:
    """The agenda. Times are true seconds since the start of the run; `now` is the present."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, 0
        self.failure: BaseException | None = None
        self.current: Task | None = None
        self.baton = threading.Lock()
        self.baton.acquire()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._idle: list[_Runner] = []
        self.at_seam: Callable[[Task, str], None] = lambda *_: None

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        """Puts it on the agenda."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now + max(0.0, seconds), self._count, do))

    def wake(self, task: Task, seconds: float) -> None:
        """Gives the task its next turn after so long."""
        self.after(seconds, lambda: self._turn(task))

    def start(self, host: Host, body: Callable[[], None], done: Callable[[bool], None] = lambda _: None) -> Task:
        """Begins a task on a host: at once, when its turn comes."""
        task = Task(self, host, body, done)
        runner = self._idle.pop() if self._idle else _Runner(self)
        runner.give(task)
        self.wake(task, 0)
        return task

    def seam(self, name: str, seconds: float = 0.0) -> None:
        """A place where others may go first, or where this host may stop. Outside of a task it is nothing."""
        task = self.current
        if task is not None:
            self.at_seam(task, name)
            if task.dead:
                raise Crash(name)
            task.pause(name, seconds)

    def crash(self, host: Host) -> None:
        """Ends everything on the host where it is; the one that runs now ends at the seam it is in."""
        host.up = False
        for task in list(host.tasks):
            task.dead = True
            if task is not self.current:
                self.wake(task, 0)

    def step(self) -> bool:
        """One entry of the agenda. False: there is none."""
        if not self._agenda:
            return False
        when, _, do = heapq.heappop(self._agenda)
        self.now, self.steps = max(self.now, when), self.steps + 1
        do()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return True

    def close(self) -> None:
        """Ends every thread."""
        for runner in self._idle:
            runner.give(None)

    def _turn(self, task: Task) -> None:
        if task.over:
            return
        if task.host.until > self.now and not task.dead:
            self.wake(task, task.host.until - self.now)
            return
        before, self.current = self.current, task
        task.turn.release()
        self.baton.acquire()
        self.current = before


class _Runner:
    """A thread that is used for one task after another."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._work = scheduler, threading.Semaphore(0)
        self._task: Task | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def give(self, task: Task | None) -> None:
        self._task = task
        self._work.release()

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._task is None:
                return
            self._task()
            self._scheduler._idle.append(self)
            self._scheduler.baton.release()
