"""The fleet in virtual time: what was once found, some seeds, every interleaving of one call, and the tool itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import redis

from tests.simulation.explore import explore
from tests.simulation.plan import Step, make
from tests.simulation.run import Run, run
from tests.simulation.scenarios import FOUND
from tests.simulation.shrink import shrink

SEEDS = (3, 6)


def shown(plan: Sequence[Step], done: Run) -> str:
    return f"{done.violation}, of the steps\n" + "\n".join(map(repr, plan))


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_does_not_come_back(real_redis: redis.Redis, name: str) -> None:
    done = run(real_redis, FOUND[name])

    assert done.violation is None, shown(FOUND[name], done)


def test_a_gate_that_no_contact_waits_for_closes(real_redis: redis.Redis) -> None:
    plan = [Step(0.0, "enqueue", seconds=14.0, arg="a"), Step(0.5, "outage", "dial", 3.0, "lost")]

    done = run(real_redis, plan)

    assert done.violation is None, shown(plan, done)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_property_holds_for_a_seed(real_redis: redis.Redis, seed: int) -> None:
    plan = make(seed)

    done = run(real_redis, plan)

    assert done.violation is None, shown(plan, done)


def test_every_interleaving_of_one_call_holds(real_redis: redis.Redis) -> None:
    found = explore(real_redis, 5)

    assert found.problems == {}
    assert (found.depth, found.states > 100) == (5, True)


def test_a_plan_gives_the_same_run_each_time(real_redis: redis.Redis) -> None:
    plan = make(6)

    assert run(real_redis, plan) == run(real_redis, plan)


def test_a_failing_plan_is_cut_to_the_steps_that_matter() -> None:
    plan = [Step(0.5, "enqueue", seconds=40.0, arg="a"), Step(3.25, "lose"), Step(9.0, "crash", "w1", 20.0, "POST")]

    def fails(steps: Sequence[Step]) -> bool:
        return any(step.what == "crash" for step in steps) and any(step.what == "enqueue" for step in steps)

    assert shrink(plan, fails) == [replace(plan[0], at=0.0, seconds=1.0), plan[2]]


def test_a_promise_that_is_broken_is_seen(real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that never shows a call makes it ring twice: no client can know better, and the property must say so."""
    monkeypatch.setattr("tests.simulation.properties.LONG_LAG", 1e9)
    plan = [
        Step(0.0, "lag", seconds=3600.0),
        Step(10.0, "outage", "dial", 5.0, "lost"),
        Step(11.0, "enqueue", seconds=1.0, arg="a"),
    ]

    done = run(real_redis, plan)

    assert done.violation is not None
    assert done.violation.name == "rang_twice"
