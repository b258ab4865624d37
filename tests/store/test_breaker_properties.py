"""Any order of requests, reports, checks, commands by hand and time: the gate does what its model does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from resilience.circuit_breaker import CircuitBreaker, Outcome, Permit, Report
from resilience.errors import CircuitOpen
from resilience.store.scripts import Scripts
from tests.store.gate_model import FALL, RISE, GateModel, policy
from tests.store.steps import gate_events, look

LEASE = 43_000
START = 1_800_000_000_000
JUMPS = st.sampled_from([0, 1, 999, 5_999, 6_000, 29_999, 30_000, 43_000, 54_000, 60_000, 120_000, 300_000])
REPORTS = st.sampled_from(
    [
        *[(Report(Outcome.FAILURE, reason="503"), {})] * 4,
        *[(Report(Outcome.FAILURE, source="one"), {"source": "one"})] * 3,
        (Report(Outcome.FAILURE, source="two"), {"source": "two"}),
        *[(Report(Outcome.SUCCESS), {})] * 4,
        (Report(Outcome.FAILURE, retry_after=100), {"retry_after": 100_000}),
        (Report(Outcome.ALIVE), {}),
        (Report(Outcome.ALIVE, pause=7), {"pause": 7_000}),
        (Report(Outcome.FAILURE, pause=5_000), {"pause": 5_000_000}),
        (Report(Outcome.IGNORED), {}),
        *[(Report(Outcome.REFUSED, code="bad_number"), {"code": "bad_number"})] * 3,
        (Report(Outcome.REFUSED, code="other"), {"code": "other"}),
        (Report(Outcome.IGNORED, hold="dead key"), {"hold": "dead key"}),
        (Report(Outcome.FAILURE, open="403"), {"open": "403"}),
    ]
)
_prefixes = itertools.count()


@dataclass(frozen=True)
class Asked:
    """A permit as the gate and as the model remember it."""

    permit: Permit
    era: int


TABLE = {
    *(("closed", state) for state in ("open", "held")),
    *(("open", state) for state in ("half_open", "held", "closed")),
    *(("half_open", state) for state in ("closed", "open", "held")),
    *(("held", state) for state in ("half_open", "open", "closed")),
}


class Gate(RuleBasedStateMachine):
    """`client` and `seen` are set by the test."""

    client: redis.Redis
    seen: set[tuple[str, str]]

    def teardown(self) -> None:
        if hasattr(self, "gate"):
            events = [event for _, event in self.client.xrange(self.gate.scripts.key("events"))]
            moves = [(event["from"], event["breaker_state"]) for event in events if "from" in event]
            self.seen.update(move for move in moves if move[0] != move[1])

    @initialize(permits=st.integers(1, 2), enough=st.integers(1, 3))
    def start(self, permits: int, enough: int) -> None:
        scripts = Scripts(self.client, f"{{lineman}}:{next(_prefixes)}")
        self.gate = CircuitBreaker(scripts, "elevenlabs", policy(permits, enough))
        self.model = GateModel(permits, enough)
        self.now, self.generation = START, 0
        self.asked: list[Asked] = []

    @property
    def seconds(self) -> float:
        return self.now / 1000

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        again = self.asked and data.draw(st.integers(0, 4)) == 0
        token = data.draw(st.sampled_from(self.asked[-2:])).permit.token if again else f"t{len(self.asked)}"
        wait = self.model.wait(self.now)
        admitted = self.model.admit(token, LEASE, self.now)
        if admitted:
            permit = self.gate.admit(token, LEASE / 1000, now=self.seconds)
            assert permit.state == self.model.state
            self.asked.append(Asked(permit, self.model.era))
        else:
            with pytest.raises(CircuitOpen) as shut:
                self.gate.admit(token, LEASE / 1000, now=self.seconds)
            assert shut.value.retry_after == (None if wait is None else wait / 1000)

    @rule(data=st.data(), report=REPORTS)
    def answer(self, data: st.DataObject, report: tuple[Report, dict[str, object]]) -> None:
        if not self.asked:
            return
        # Mostly the newest, and now and then one from long ago or one that was reported before.
        asked = self.asked[-data.draw(st.integers(1, min(4, len(self.asked))))]
        said, details = report
        counted = self.model.report(asked.permit.token, asked.era, self.now, said.outcome.value, **details)

        assert self.gate.report(asked.permit, said, now=self.seconds) == counted

    @rule(good=st.booleans(), times=st.integers(1, 3))
    def check(self, good: bool, times: int) -> None:
        for _ in range(times):
            self.model.health(good, self.now)
            answer = self.gate.health(good, rise=RISE, fall=FALL, now=self.seconds)
            assert (answer["health"] == "down") == self.model.down

    @rule(action=st.sampled_from(["open", "close", "hold", "release"]), wait=st.sampled_from([None, 10_000, 600_000]))
    def by_hand(self, action: str, wait: int | None) -> None:
        changed = self.model.control(action, self.now, wait)

        answer = self.gate.control(action, by="ada", wait=None if wait is None else wait / 1000, now=self.seconds)

        assert answer == changed

    @rule(jump=JUMPS)
    def later(self, jump: int) -> None:
        self.now += jump

    @invariant()
    def agrees(self) -> None:
        seen = look(self.gate, self.seconds)
        assert seen["state"] == self.model.state
        assert seen.get("retry_after") == self.model.wait(self.now)
        assert gate_events(self.gate) == self.model.events
        assert seen["gen"] >= self.generation
        self.generation = seen["gen"]
        leases = self.gate.scripts.key("cb", "elevenlabs", "leases")
        assert self.client.zcount(leases, f"({self.now}", "+inf") <= self.model.permits


@pytest.mark.parametrize(("backend", "examples"), [("real_redis", 120), ("fake_redis", 15)])
def test_whatever_happens_the_gate_does_what_its_model_does(
    request: pytest.FixtureRequest, backend: str, examples: int
) -> None:
    machine = type("GateHere", (Gate,), {"client": request.getfixturevalue(backend), "seen": set()})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
