"""The simulation goes by virtual clocks alone, so that a seed gives the same run on every machine and every day."""

from __future__ import annotations

import time

import pytest
import redis

from tests.simulation.plan import Step
from tests.simulation.run import run

DAY = 86_400.0


def in_doubt(*steps: Step) -> list[Step]:
    """A plan of one call that rings while the answer gets lost, so that a look-up has to find it."""
    return [*steps, Step(10.0, "outage", "dial", 30.0, "lost"), Step(11.0, "enqueue", seconds=1.0, arg="a")]


@pytest.mark.parametrize("today", [0.0, 4e9])
def test_a_run_does_not_go_by_this_machine_s_date(
    real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, today: float
) -> None:
    monkeypatch.setattr(time, "time", lambda: today)

    assert run(real_redis, in_doubt()).violation is None


def test_a_run_does_not_go_by_this_machine_s_speed(real_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at this machine's clock would cost a hundred seconds: more than a look-up has."""
    plan = in_doubt(Step(20.0, "outage", "list", 60.0, "silent"))
    before = run(real_redis, plan)
    ticks = iter(range(0, 10_000_000, 100))
    monkeypatch.setattr("services.conversations.time.monotonic", lambda: float(next(ticks)))

    assert run(real_redis, plan) == before


@pytest.mark.parametrize(("ahead", "twice"), [(6 * DAY, False), (-6 * DAY, False), (8 * DAY, True)])
def test_the_look_up_s_window_is_a_week_by_the_worker_s_clock(
    real_redis: redis.Redis, ahead: float, twice: bool
) -> None:
    """A worker whose clock is further ahead than the window looks where nothing is: the limit is seen."""
    done = run(real_redis, in_doubt(*(Step(0.0, "clock", worker, ahead) for worker in ("w1", "w2"))))

    assert (done.violation is not None and done.violation.name == "rang_twice") is twice
