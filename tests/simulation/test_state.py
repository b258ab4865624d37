"""Two states of one call are one where nobody can tell them apart, and two where somebody can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import redis

from tests.simulation.explore import play

BEGUN = ("d", "d", "w1", "w1")  # the store is found to be new, then the first attempt has begun
LOST = (*BEGUN, "time", "d")  # the lease of the first worker's dial has run out


def state(client: redis.Redis, path: Sequence[str]) -> tuple[Any, ...]:
    return play(client, path)[1]


@pytest.mark.parametrize("path", [BEGUN, (*BEGUN, "w1"), LOST, (*LOST, "d")])
def test_a_path_leads_to_the_same_state_each_time(real_redis: redis.Redis, path: Sequence[str]) -> None:
    assert state(real_redis, path) == state(real_redis, path)


def test_the_dates_of_a_call_that_waits_make_no_other_state(real_redis: redis.Redis) -> None:
    assert state(real_redis, ("time",) * 5) == state(real_redis, ("time",) * 9)


def test_it_matters_which_worker_may_still_report(real_redis: redis.Redis) -> None:
    crashed, running = state(real_redis, (*BEGUN, "w1!")), state(real_redis, BEGUN)

    assert crashed[0] != running[0]
    assert "w1" in running[0]
    assert "w1" not in crashed[0]
