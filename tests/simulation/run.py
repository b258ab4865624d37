"""One plan from its first step to its end, and what it violated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from local.redis_server import RedisServer
from tests.simulation.actors import World
from tests.simulation.plan import Step
from tests.simulation.properties import BOUND, Properties, Violation

ALERTS_S = 900.0  # after the last call has ended: until its alert is out
RECOVERY_S = 3700.0  # likewise, where the gate is not closed yet


@dataclass(frozen=True)
class Run:
    """`seconds` of simulated time, `steps` of the scheduler."""

    violation: Violation | None
    seconds: float
    steps: int
    calls: int
    requests: int


def run(client: redis.Redis, plan: Sequence[Step]) -> Run:
    """Plays the plan. The same plan gives the same run."""
    random.seed(1)
    world = World(client, plan)
    properties, scheduler = Properties(world), world.scheduler
    backwards = sum(-s.seconds for s in plan if s.what == "clock" and s.who == "redis" and s.seconds < 0)
    deadline, ends, violation = world.last_fault + BOUND + backwards, 0.0, None
    try:
        while scheduler.now < deadline and scheduler.step():
            properties.after_step()
            if scheduler.steps % 100 == 0 and scheduler.now > world.last_fault:
                ends = ends or (scheduler.now + wait_for(world) if properties.over() else 0.0)
                if ends and scheduler.now > ends:
                    break
        properties.at_the_end()
    except Violation as exc:
        violation = exc
    finally:
        for host in world.hosts.values():
            scheduler.crash(host)
        while any(host.tasks for host in world.hosts.values()):
            scheduler.step()
        scheduler.close()
    return Run(violation, scheduler.now, scheduler.steps, len(world.fleet.calls()), len(world.provider.log))


def wait_for(world: World) -> float:
    """Seconds until nothing more is to be expected."""
    return ALERTS_S if world.fleet.gate_now()[0] == "closed" else RECOVERY_S


@contextmanager
def a_redis() -> Iterator[redis.Redis]:
    """A server of its own."""
    with (
        TemporaryDirectory() as folder,
        RedisServer(Path(folder)) as server,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
    ):
        yield client
