"""The state machines of tests/store take every transition of their table, and no other.

The runs are derandomized, so that what they reach can be asserted. The test is here and not with the state machines
because it takes a minute.
"""

from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.store import test_breaker_properties as gate
from tests.store.calls import test_properties as calls


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("machine", "table", "examples"),
    [(calls.Calls, calls.TABLE, 300), (gate.Gate, gate.TABLE, 150)],
    ids=["calls", "gate"],
)
def test_every_transition_is_taken(
    real_redis: redis.Redis, machine: type[RuleBasedStateMachine], table: set[tuple[str, str]], examples: int
) -> None:
    seen: set[tuple[str, str]] = set()

    run_state_machine_as_test(
        type(machine.__name__ + "Here", (machine,), {"client": real_redis, "seen": seen}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )

    assert table - seen == set()
    assert seen - table == set()
