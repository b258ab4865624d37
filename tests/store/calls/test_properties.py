"""Any order of intake, attempts, kills, look-ups, commands, ticks and time: the store does what its model does.

And from wherever that led, a world that is well again brings every call to its end.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from resilience.calls.call import Claim, State, Verdict
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.store.scripts import Scripts
from tests.store import gate_model, steps
from tests.store.calls import model as call_model
from tests.store.calls.model import CallsModel
from tests.store.gate_model import GateModel
from tests.store.steps import contact, look, make_settings

START = 1_800_000_000_000
IDS = [f"spring:{n}" for n in range(3)]
ids = st.sampled_from(IDS)
JUMPS = st.sampled_from([0, 1, 1_000, 5_000, 20_000, 30_000, 43_000, 60_000, 86_000, 300_000, 7_200_000])
SICK, FINE = {"outcome": "failure"}, {"outcome": "success"}
VERDICTS: list[tuple[Verdict, dict[str, object], dict[str, object]]] = [
    (steps.PLACED, FINE, {}),
    (steps.RETRY, SICK, {"service_fault": True}),
    (steps.RETRY, SICK, {"service_fault": True}),
    (steps.DOUBT, SICK, {"service_fault": True}),
    (steps.FAILED, {"outcome": "refused", "code": "bad_number"}, {}),
    (steps.THROTTLED, {"outcome": "alive", "pause": 7_000}, {"used": False}),
    (steps.HELD, {"outcome": "ignored", "hold": "dead"}, {"used": False}),
    (steps.HANDED_BACK, {"outcome": "ignored"}, {"used": False, "dialed": False}),
    (steps.ADOPTED, {"outcome": "ignored"}, {"used": False, "dialed": False}),
]
POLICY = {
    "failure_threshold": gate_model.THRESHOLD,
    "run_amid_successes": gate_model.RUN_AMID,
    "minimum_calls": gate_model.MINIMUM,
    "max_recovery_timeout": gate_model.MAX_RECOVERY / 1000,
    "half_open_calls": 1,
    "identical_refusals": gate_model.IDENTICAL,
}
SETTINGS = make_settings(
    {
        "circuit_breaker": POLICY,
        "release": {"rate": 50, "max_rate": 50},  # the ramp has tests of its own
        "retry": {"initial_delay": 5, "backoff_factor": 2, "max_attempts": 3, "max_delay": 60, "jitter": 0},
    },
    calls={
        "retention": call_model.RETENTION / 1000,
        "look_up": {"delay": 20, "interval": 60, "polls": call_model.POLLS, "give_up": 240},
    },
)
_prefixes = itertools.count()


BY_HAND = {(state, "queued") for state in ("failed", "needs_review", "cancelled")} | {
    (state, "cancelled") for state in ("queued", "retrying", "deferred")
}
TABLE = BY_HAND | {
    *((state, "dialing") for state in ("queued", "retrying")),
    *((state, "deferred") for state in ("queued", "retrying")),
    *(("dialing", state) for state in ("placed", "retrying", "failed", "in_doubt", "deferred", "queued")),
    ("deferred", "queued"),
    # A late report of the last attempt's owner.
    *((state, "placed") for state in ("retrying", "queued", "deferred")),
    *(("in_doubt", state) for state in ("placed", "retrying", "failed", "needs_review")),
}


class Calls(RuleBasedStateMachine):
    """`client` and `seen` are set by the test."""

    client: redis.Redis
    seen: set[tuple[str, str]]

    @initialize()
    def start(self) -> None:
        scripts = Scripts(self.client, f"{{lineman}}:{next(_prefixes)}")
        self.store = CallStore(scripts, SETTINGS)
        self.store.remember(False)
        self.gate = CircuitBreaker(scripts, DIALER, self.store._policy)
        self.model = CallsModel(GateModel(permits=1, enough=1))
        self.now, self.generation = START, 0
        self.begun: list[Claim] = []
        self.dialed: set[str] = set()
        self.owners = itertools.count()

    @property
    def seconds(self) -> float:
        return self.now / 1000

    @rule(id=ids)
    def enqueue(self, id: str) -> None:
        new = self.model.enqueue(id, self.now)

        assert self.store.enqueue([contact(id.partition(":")[2])], "spring", now=self.seconds) == (new, not new)

    @rule(id=ids)
    def begin(self, id: str) -> None:
        self._begin(id, f"owner-{next(self.owners)}")

    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        if self.begun:
            claim = data.draw(st.sampled_from(self.begun))
            self._begin(claim.call_id, claim.owner)

    def _begin(self, id: str, owner: str) -> None:
        answer = self.model.begin(id, owner, self.now)
        given = self.store.begin(id, owner, now=self.seconds)
        if not isinstance(given, Claim):
            assert given.answer == answer
            return
        assert answer == "go"
        assert given.attempt <= call_model.ATTEMPTS
        assert given.attempt_id == f"{id}:{self.model.calls[id].dials}"
        if (given.owner, given.attempt_id) not in {(claim.owner, claim.attempt_id) for claim in self.begun}:
            # One that was killed may have dialed: its id must never come back.
            assert given.attempt_id not in self.dialed
            self.dialed.add(given.attempt_id)
            self.begun.append(given)

    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS))
    def finish(self, data: st.DataObject, verdict: tuple[Verdict, dict[str, object], dict[str, object]]) -> None:
        if not self.begun:
            return
        self._finish(self.begun[-data.draw(st.integers(1, min(4, len(self.begun))))], verdict)

    def _finish(self, claim: Claim, verdict: tuple[Verdict, dict[str, object], dict[str, object]]) -> None:
        said, report, how = verdict
        if said.to is State.RETRYING and claim.attempt == call_model.ATTEMPTS:  # the processor's rule
            said = replace(said, to=State.FAILED)
        answer = self.model.finish(claim.call_id, claim.owner, said.to.value, self.now, report, **how)

        given = self.store.finish(claim, said, now=self.seconds)

        assert given.answer == answer
        if answer == "done" and not said.dialed:
            self.dialed.discard(claim.attempt_id)

    @rule(id=ids, result=st.sampled_from(["absent", "absent", "error", "found"]), late=st.integers(0, 1))
    def look_up(self, id: str, result: str, late: int) -> None:
        if id in self.model.calls:
            look = max(0, self.model.calls[id].looks - late)
            answer = self.model.look_up(id, look, result, self.now)

            assert self.store.resolve(id, look, result, ["conv_1"], now=self.seconds).answer == answer

    @rule(id=ids, action=st.sampled_from(["retry", "cancel"]))
    def command(self, id: str, action: str) -> None:
        assert self.store.command(id, action, now=self.seconds).answer == self.model.command(id, action, self.now)

    @rule(room=st.integers(-1, 3))
    def tick(self, room: int) -> None:
        look_up = self.model.take_due(self.now)
        deferred = [id for id, call in self.model.calls.items() if call.state == "deferred"]

        work = self.store.dispatch(room, now=self.seconds)

        self.model.released([id for id in deferred if self.store.get(id)["state"] == "queued"], self.now)
        forgotten = self.model.forget(self.now)
        self.dialed = {id for id in self.dialed if id.rpartition(":")[0] not in forgotten}
        assert list(work.place) == self.model.feed(room, self.now)
        assert sorted(work.look_up) == sorted(look_up)

    @rule(good=st.booleans(), times=st.integers(1, 3))
    def check(self, good: bool, times: int) -> None:
        for _ in range(times):
            self.model.gate.health(good, self.now, waiting=bool(self._in("deferred")))
            self.gate.health(good, rise=gate_model.RISE, fall=gate_model.FALL, now=self.seconds)

    @rule(action=st.sampled_from(["open", "close", "hold", "release"]))
    def word(self, action: str) -> None:
        assert self.gate.control(action, by="ada", now=self.seconds) == self.model.gate.control(action, self.now)

    @rule(id=ids, verdict=st.sampled_from(VERDICTS))
    def attempt(self, id: str, verdict: tuple[Verdict, dict[str, object], dict[str, object]]) -> None:
        before = len(self.begun)
        self.begin(id)
        if len(self.begun) > before:
            self._finish(self.begun[-1], verdict)

    @rule(id=ids)
    def until_due(self, id: str) -> None:
        if id in self.model.calls:
            self.now = max(self.now, self.model.calls[id].due or 0)

    @rule(jump=JUMPS)
    def later(self, jump: int) -> None:
        self.now += jump

    @invariant()
    def agrees(self) -> None:
        key, calls = self.store.scripts.key, self.model.calls
        due = {id: int(at) for id, at in self.client.zrange(key("due"), 0, -1, withscores=True)}
        assert due == {id: call.due for id, call in calls.items() if call.state not in call_model.OVER}
        assert +Counter(self.store.stats()) == Counter(call.state for call in calls.values())
        for id, call in calls.items():
            seen = self.store.get(id)
            assert (seen["state"], int(seen["attempts"])) == (call.state, call.attempts)
            assert seen.get("owner") == call.owner
        assert set(self.client.zrange(key("deferred", DIALER), 0, -1)) == self._in("deferred")
        assert set(self.client.zrange(key("calls"), 0, -1)) == set(calls)

    @invariant()
    def gate_agrees(self) -> None:
        seen = look(self.gate, self.seconds)
        assert (seen["state"], seen.get("retry_after")) == (self.model.gate.state, self.model.gate.wait(self.now))
        assert seen["gen"] >= self.generation
        self.generation = seen["gen"]
        leases = self.gate.scripts.key("cb", DIALER, "leases")
        assert self.client.zcount(leases, f"({self.now}", "+inf") <= self.model.gate.permits

    def _in(self, *states: str) -> set[str]:
        return {id for id, call in self.model.calls.items() if call.state in states}

    def teardown(self) -> None:
        """The world is well from here on, an operator has released what was held, and no message is delivered twice."""
        if not hasattr(self, "store"):
            return
        for _, event in self.client.xrange(self.store.scripts.key("events")):
            if "state" in event and event["from"] != event["state"]:
                self.seen.add((event["from"], event["state"]))
        self.gate.control("release", by="ada", now=self.seconds)
        for _ in range(120):
            if sum(count for state, count in self.store.stats().items() if not State(state).is_terminal) == 0:
                return
            self.now += 10_000
            work = self.store.dispatch(100, now=self.seconds)
            for id in work.look_up:
                self.store.resolve(id, int(self.store.get(id)["looks"]), "absent", now=self.seconds)
            for id in work.place:
                begun = self.store.begin(id, f"owner-{next(self.owners)}", now=self.seconds)
                if isinstance(begun, Claim):
                    self.store.finish(begun, steps.PLACED, now=self.seconds)
        raise AssertionError(f"stranded after 20 minutes: {list(self.store.calls())}")


@pytest.mark.parametrize(("backend", "examples"), [("real_redis", 150), ("fake_redis", 15)])
def test_whatever_happens_the_store_does_what_its_model_does_and_strands_no_call(
    request: pytest.FixtureRequest, backend: str, examples: int
) -> None:
    machine = type("CallsHere", (Calls,), {"client": request.getfixturevalue(backend), "seen": set()})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
