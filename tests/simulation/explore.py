"""Every interleaving of two workers, a dispatcher and an operator on one call, with at most two crashes.

`python -m tests.simulation.explore --depth 10`. A choice is a letter of the path that leads to a state; states that are
reached by several paths are visited once. Threads cannot be copied, so each path is played from its beginning.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis

from tests.simulation.fleet import TERMINAL, Fleet
from tests.simulation.provider import Outage, Provider
from tests.simulation.run import a_redis
from tests.simulation.scheduler import Host, Scheduler, Task
from tests.simulation.state import stored

CALL = "a:1"
TIME = 61.0  # seconds: longer than a lease, a look-up's interval and a republish
CRASHES, OPERATOR = 2, 1
WORKERS, DISPATCHER = ("w1", "w2"), "d"
# Nothing of what others see happens between these and the seam that follows.
SKIPPED = {"begin", "look-up", "GET", "answer", "publish"}
POSTS = ("ok", "lost", "503")  # what may become of a dial

Path = tuple[str, ...]


class Chosen(Scheduler):
    """Nobody goes on but whom the path names."""

    def wake(self, task: Task, seconds: float) -> None:
        """Nothing: see `turn`."""

    def turn(self, task: Task) -> None:
        self._turn(task)
        if self.failure is not None:
            raise self.failure


@dataclass
class Scene:
    """One path being played."""

    client: redis.Redis
    scheduler: Chosen = field(default_factory=Chosen)
    queue: list[tuple[str, str]] = field(default_factory=list)
    crashes: int = 0
    commands: int = 0
    running: dict[str, Task] = field(default_factory=dict)
    message: dict[str, tuple[str, str]] = field(default_factory=dict)
    trace: dict[str, list[object]] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)  # who has which attempt's token
    problem: str = ""

    def __post_init__(self) -> None:
        self.provider = Provider(lambda: self.scheduler.now)
        self.fleet = Fleet(self.client, self.scheduler, self.provider)
        self.hosts = {name: Host(name) for name in (*WORKERS, DISPATCHER)}
        self.fleet.enqueue("a", 1)

    def choices(self) -> list[str]:
        """What may happen next."""
        found = []
        for name in WORKERS:
            task = self.running.get(name)
            if task is None:
                found += [name] if self.queue else []
            else:
                found += [f"{name}={how}" for how in POSTS] if task.at == "POST" else [name]
        found.append(DISPATCHER)
        # Between the last check of the lease and the first byte no time passes: no client can close that window.
        if not any(task.at == "POST" for task in self.running.values()):
            found.append("time")
        if self.crashes < CRASHES:
            found += [f"{name}!" for name in self.running]
        return found + (["retry", "cancel"] if self.commands < OPERATOR else [])

    def play(self, choice: str) -> None:
        """One step."""
        if choice == "time":
            self.scheduler.now += TIME
        elif choice in ("retry", "cancel"):
            self.commands += 1
            self.fleet.command(choice, CALL)
        elif choice.endswith("!"):
            self._crash(choice[:-1])
        else:
            name, _, how = choice.partition("=")
            now = self.scheduler.now
            self.provider.outages = [Outage(now, now + 1, "dial", how)] if how not in ("", "ok") else []
            self._go_on(name, how)
        self._judge()

    def _go_on(self, name: str, how: str) -> None:
        if name not in self.running:
            self._start(name)
        task = self.running[name]
        self.trace[name].append((how, self.scheduler.now))
        known = len(self.fleet.seen.begun)
        self.scheduler.turn(task)
        while not task.over and task.at in SKIPPED:
            self.scheduler.turn(task)
        if not task.over:
            self.owners |= {claim.owner: name for _, claim, _ in self.fleet.seen.begun[known:]}
        if not task.over:
            self.trace[name].append(task.at)

    def _start(self, name: str) -> None:
        if name == DISPATCHER:
            body: Callable[[], None] = partial(self.fleet.dispatch, lambda: 0, self._publish)
            self.scheduler.now += 1  # its slot
        else:
            self.message[name] = self.queue.pop(0)
            kind, id = self.message[name]
            body = partial(self._place, id) if kind == "place" else partial(self.fleet.look_up, id)
        self.trace[name] = []
        self.running[name] = self.scheduler.start(self.hosts[name], body, partial(self._ended, name))

    def _publish(self, kind: str, id: str) -> None:
        self.queue.append((kind, id))

    def _place(self, id: str) -> None:
        if self.fleet.place(id).retry_in is not None:
            self._publish("place", id)

    def _ended(self, name: str, finished: bool) -> None:
        del self.running[name]
        self.owners = {token: who for token, who in self.owners.items() if who != name}
        message = self.message.pop(name, None)
        if message and not finished:
            self.queue.append(message)

    def _crash(self, name: str) -> None:
        self.crashes += 1
        task = self.running[name]
        task.dead = True
        self.scheduler.turn(task)

    def _judge(self) -> None:
        rings = self.provider.rings[CALL]
        state = self.fleet.store.get(CALL)["state"]
        if len(rings) > 1:
            self.problem = "rang twice"
        elif state not in TERMINAL and CALL not in self.fleet.due():
            self.problem = f"{state} without a deadline"
        elif state == "failed" and rings:
            self.problem = "failed, though it rang"
        placed = self.fleet.seen.placed.get(CALL)
        if placed and any(r.path == "dial" and r.at > placed[0] for r in self.provider.log):
            self.problem = "dialed after a worker had reported it placed"

    def state(self) -> tuple[Any, ...]:
        """What decides all that can follow."""
        traces = sorted((who, self._past(who, self.scheduler.now)) for who in self.running)
        rings = len(self.provider.rings[CALL])
        return (stored(self.fleet, CALL, self.owners), repr(traces), tuple(sorted(self.queue)), rings, self.crashes,
                self.commands)  # fmt: skip

    def _past(self, name: str, now: float) -> list[object]:
        return [(round(now - p[1]), p[0]) if isinstance(p, tuple) else p for p in self.trace[name]]

    def close(self) -> None:
        """Ends its threads."""
        for task in list(self.running.values()):
            task.dead = True
            self.scheduler.turn(task)
        self.scheduler.close()


@dataclass
class Explored:
    """How much was seen: distinct states, steps played, and the paths that violate something, the shortest first."""

    depth: int = 0
    states: int = 0
    paths: int = 0
    problems: dict[str, Path] = field(default_factory=dict)


def play(client: redis.Redis, path: Sequence[str]) -> tuple[Scene, tuple[Any, ...], list[str]]:
    """The scene after this path, its state, and what may follow."""
    scene = Scene(client)
    try:
        for choice in path:
            scene.play(choice)
        return scene, scene.state(), scene.choices()
    finally:
        scene.close()


def explore(client: redis.Redis, depth: int, *, seconds: float = 1e9) -> Explored:
    """Breadth first, down to `depth` choices or for so many seconds; `depth` of the result is the last full level."""
    until, found = time.monotonic() + seconds, Explored()
    start: Path = ()
    _, state, follow = play(client, start)
    known, level = {state}, [(start, follow)]
    for deep in range(1, depth + 1):
        following = []
        for path, choices in level:
            for choice in choices:
                if time.monotonic() > until:
                    return found
                scene, state, after = play(client, (*path, choice))
                found.paths += 1
                if scene.problem:
                    found.problems.setdefault(scene.problem, (*path, choice))
                elif state not in known:
                    known.add(state)
                    following.append(((*path, choice), after))
                found.states = len(known)
        level, found.depth = following, deep
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.explore", description=__doc__)
    parser.add_argument("--depth", type=int, default=8)
    options = parser.parse_args()
    with a_redis() as client:
        found = explore(client, options.depth)
    print(f"depth {found.depth}: {found.states} distinct states, {found.paths} steps")
    for problem, path in found.problems.items():
        print(f"{problem}: {' '.join(path)}")
    return bool(found.problems)


if __name__ == "__main__":
    sys.exit(main())
