"""One attempt from its claim to its verdict, with a provider that answers by a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from resilience.calls.call import State
from resilience.calls.processor import CallProcessor
from resilience.calls.store import CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import Settings
from resilience.errors import (
    InDoubtError,
    LeaseExpired,
    PermanentError,
    Scope,
    Sent,
    ServiceError,
    ThrottledError,
    TransientError,
)
from tests.store.steps import LEASE, add, contact, look

SERVICE = "elevenlabs"
BUSY = TransientError("503", service=SERVICE, code="http_503", status=503, sent=Sent.NO, counts=True)
SILENT = InDoubtError("no answer", service=SERVICE, code="timeout", sent=Sent.UNKNOWN, counts=True)
BAD_NUMBER = PermanentError("no such number", service=SERVICE, code="bad_number", scope=Scope.CONTACT, alive=True)
DEAD_KEY = PermanentError("the key is dead", service=SERVICE, code="invalid_api_key", scope=Scope.SERVICE)
NO_SCOPE = PermanentError("no scope", service=SERVICE, code="missing_permissions", scope=Scope.SERVICE)
FIREWALL = PermanentError("403", service=SERVICE, code="http_403", scope=Scope.SERVICE, named=False)
TOO_FAST = ThrottledError("429", service=SERVICE, code="rate_limit", alive=True, retry_after=7)


@dataclass(frozen=True)
class Found:
    id: str
    ours: bool = True
    attempt_id: str = ""


@dataclass
class ScriptedDialer:
    """Answers each dial and look-up with the next of its answers: an exception is raised. `clock` is that of both."""

    dials: list[str | Exception] = field(default_factory=list)
    looks: list[Sequence[str | Found] | Exception] = field(default_factory=list)
    dialed: list[Mapping[str, object]] = field(default_factory=list)
    looked: list[tuple[str, str]] = field(default_factory=list)
    look_seconds: float = 0.0
    handshake_seconds: float = 0.0
    clock: float = 0.0

    def dial(
        self,
        *,
        phone: str,
        call_id: str,
        attempt_id: str,
        variables: Mapping[str, object],
        lease_covers: Callable[[], bool],
    ) -> str:
        self.clock += self.handshake_seconds
        if not lease_covers():
            raise LeaseExpired("too late", service=SERVICE, sent=Sent.NO)
        self.dialed.append({"phone": phone, "call_id": call_id, "attempt_id": attempt_id, **variables})
        answer = self.dials.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look_up(
        self, call_id: str, *, installation: str, timeout: tuple[float, float] | None = None
    ) -> Sequence[Found]:
        self.looked.append((call_id, installation))
        self.clock += self.look_seconds
        answer = self.looks.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [each if isinstance(each, Found) else Found(each) for each in answer]

    def has_called(self) -> bool:
        return False


@pytest.fixture
def dialer() -> ScriptedDialer:
    return ScriptedDialer()


@pytest.fixture
def processor(store: CallStore, dialer: ScriptedDialer, settings: Settings) -> CallProcessor:
    return CallProcessor(store, dialer, settings, clock=lambda: dialer.clock)


@pytest.fixture
def due(store: CallStore) -> Callable[[str], None]:
    """Makes a call that waits for its retry due, without waiting."""
    return lambda id: store.command(id, "retry") and None


def enqueue(store: CallStore) -> str:
    store.enqueue([contact("1", city="Köln")], "spring")
    return "spring:1"


def test_a_call_is_dialed_once_with_all_that_is_known_of_it(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer
) -> None:
    dialer.dials = ["conv_1"]
    id = enqueue(store)

    result = processor.process(id)
    again = processor.process(id)

    assert (result.state, result.attempt, result.retry_in, result.error) == ("placed", 1, None, None)
    assert (again.state, again.retry_in) == ("placed", None)
    assert dialer.dialed == [
        {
            "phone": "+4930123456",
            "call_id": id,
            "attempt_id": f"{id}:1",
            "city": "Köln",
            "contact_id": "1",
            "name": "Ada",
            "installation_id": store.installation(),
        }
    ]
    assert dialer.looked == []
    assert store.get(id)["conversation_id"] == "conv_1"


@pytest.mark.parametrize(
    ("error", "state", "attempts", "retry_in"),
    [
        (BUSY, "retrying", 1, 5),
        (TransientError("503", service=SERVICE, counts=True, retry_after=40), "retrying", 1, 40),
        (SILENT, "in_doubt", 1, None),
        (BAD_NUMBER, "failed", 1, None),
        (DEAD_KEY, "deferred", 0, None),
        (TOO_FAST, "deferred", 0, None),
    ],
)
def test_each_kind_of_error_has_its_consequence(
    store: CallStore,
    processor: CallProcessor,
    dialer: ScriptedDialer,
    error: ServiceError,
    state: str,
    attempts: int,
    retry_in: float | None,
) -> None:
    dialer.dials = [error]
    id = enqueue(store)

    result = processor.process(id)

    assert (result.state, result.retry_in, result.error) == (state, retry_in, error)
    call = store.get(id)
    assert (call["state"], int(call["attempts"]), call["reason"]) == (state, attempts, str(error))


def test_the_retries_come_after_5_10_and_20_seconds_and_then_it_has_failed(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks = [BUSY] * 4, [[]] * 3
    id = enqueue(store)

    results = []
    for _ in range(4):
        results.append(processor.process(id))
        due(id)
        gate.control("close", by="test")

    assert [result.retry_in for result in results] == [5, 10, 20, None]
    assert [result.state for result in results] == ["retrying"] * 3 + ["failed"]
    assert [dial["attempt_id"] for dial in dialer.dialed] == [f"{id}:{n}" for n in (1, 2, 3, 4)]


def test_a_dead_key_holds_the_gate_and_burns_no_list(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    dialer.dials = [DEAD_KEY]
    ids = add(store, *(str(n) for n in range(20)))

    results = [processor.process(id) for id in ids]

    assert {result.state for result in results} == {"deferred"}
    assert len(dialer.dialed) == 1
    assert look(gate)["state"] == "held"


def test_a_run_of_failures_defers_the_rest_of_the_list(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    dialer.dials = [BUSY] * 12
    ids = add(store, *(str(n) for n in range(20)))

    states = [processor.process(id).state for id in ids]

    assert states == ["retrying"] * 12 + ["deferred"] * 8
    assert look(gate)["state"] == "open"
    assert len(dialer.dialed) == 12


def test_a_retry_looks_first_and_adopts_a_call_that_had_rung(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks = [BUSY], [["conv_0"]]
    id = enqueue(store)
    processor.process(id)
    due(id)

    result = processor.process(id)

    assert result.state == "placed"
    assert len(dialer.dialed) == 1
    assert dialer.looked == [(id, store.installation())]
    assert store.get(id)["conversation_id"] == "conv_0"


def test_a_retry_whose_look_up_fails_goes_on_since_the_last_answer_was_a_refusal(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks = [BUSY, "conv_1"], [BUSY]
    id = enqueue(store)
    processor.process(id)
    due(id)

    assert processor.process(id).state == "placed"
    assert len(dialer.dialed) == 2


def test_a_lease_that_no_longer_covers_the_dial_hands_the_call_back_undialed(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks, dialer.look_seconds = [BUSY], [[]], LEASE - 33 + 0.1
    id = enqueue(store)
    processor.process(id)
    due(id)

    result = processor.process(id)

    assert (result.state, result.retry_in) == ("queued", None)
    assert len(dialer.dialed) == 1
    assert (store.get(id)["attempts"], store.get(id)["dials"]) == ("1", "1")
    assert store.dispatch(9).place == [id]


def test_a_lease_that_just_covers_the_dial_is_enough(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks, dialer.look_seconds = [BUSY, "conv_1"], [[]], LEASE - 33
    id = enqueue(store)
    processor.process(id)
    due(id)

    assert processor.process(id).state == "placed"


def test_an_error_nobody_named_is_in_doubt_and_never_dialed_again(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    dialer.dials = [ZeroDivisionError("a bug")]
    id = enqueue(store)

    result = processor.process(id)

    assert result.state == "in_doubt"
    assert store.get(id)["category"] == "permanent"
    assert look(gate)["state"] == "closed"
    assert processor.process(id).state == "in_doubt"
    assert len(dialer.dialed) == 1


def test_a_worker_that_was_overtaken_ends_its_own_doubt(store: CallStore, settings: Settings) -> None:
    class Overtaken(ScriptedDialer):
        def dial(self, **_: object) -> str:
            deadline = int(store.get("spring:1")["updated"]) / 1000 + LEASE
            assert store.dispatch(9, now=deadline).look_up == ["spring:1"]
            return "conv_1"

    id = enqueue(store)

    result = CallProcessor(store, Overtaken(), settings).process(id)

    assert (result.state, result.retry_in) == ("placed", None)
    assert store.get(id)["conversation_id"] == "conv_1"


def test_a_finish_whose_first_answer_got_lost_still_comes_back_after_its_delay(
    store: CallStore, dialer: ScriptedDialer, settings: Settings
) -> None:
    class Repeating(CallStore):
        def finish(self, *args: object, **options: object) -> object:
            super().finish(*args, **options)
            return super().finish(*args, **options)

    dialer.dials = [BUSY]
    id = enqueue(store)

    result = CallProcessor(Repeating(store.scripts, settings), dialer, settings).process(id)

    assert (result.state, result.retry_in) == ("retrying", 5)


@pytest.mark.parametrize(
    ("answer", "state", "looks"),
    [(["conv_1"], "placed", "1"), ([], "in_doubt", "1"), (BUSY, "in_doubt", "1"), (KeyError("a bug"), "in_doubt", "1")],
)
def test_a_look_up_reports_to_the_store_what_it_saw(
    store: CallStore,
    processor: CallProcessor,
    dialer: ScriptedDialer,
    answer: Sequence[str] | Exception,
    state: str,
    looks: str,
) -> None:
    dialer.dials, dialer.looks = ["conv_1"], [answer]
    id = enqueue(store)
    in_doubt(store, id)

    result = processor.look_up(id)

    assert result.state == state
    assert store.get(id)["looks"] == looks
    assert dialer.looked == [(id, store.installation())]


def in_doubt(store: CallStore, id: str) -> None:
    """A worker claims the call and is killed."""
    store.begin(id, "killed")
    store.dispatch(9, now=int(store.get(id)["first_dial"]) / 1000 + LEASE)
    assert store.get(id)["state"] == State.IN_DOUBT


@pytest.mark.parametrize(("error", "gate_is"), [(NO_SCOPE, "held"), (FIREWALL, "open"), (BUSY, "closed")])
def test_a_look_up_of_a_call_in_doubt_that_is_refused_for_good_shuts_the_gate(
    store: CallStore,
    processor: CallProcessor,
    dialer: ScriptedDialer,
    gate: CircuitBreaker,
    error: ServiceError,
    gate_is: str,
) -> None:
    dialer.looks = [error]
    id = enqueue(store)
    in_doubt(store, id)

    assert processor.look_up(id).state == State.IN_DOUBT

    assert look(gate)["state"] == gate_is


@pytest.mark.parametrize(("error", "gate_is"), [(NO_SCOPE, "held"), (FIREWALL, "open")])
@pytest.mark.parametrize("must_look", [False, True])
def test_a_look_up_before_a_dial_that_is_refused_for_good_shuts_the_gate_instead_of_circling(
    store: CallStore,
    processor: CallProcessor,
    dialer: ScriptedDialer,
    gate: CircuitBreaker,
    due: Callable[[str], None],
    error: ServiceError,
    gate_is: str,
    must_look: bool,
) -> None:
    """A key without the list's scope: 345,420 look-ups in a day, no dial, no alert."""
    dialer.dials, dialer.looks = [BUSY], [error]
    id = enqueue(store)
    processor.process(id)
    due(id)
    if must_look:
        store.scripts.client.hset(store.scripts.key("call", id), "doubtful", 1)

    result = processor.process(id)

    assert (result.state, result.retry_in, len(dialer.dialed)) == ("deferred", None, 1)
    assert store.get(id)["attempts"] == "1"
    assert look(gate)["state"] == gate_is


def test_look_ups_that_a_sick_service_does_not_answer_open_its_gate(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    dialer.looks = [BUSY] * 12
    ids = add(store, *(str(n) for n in range(12)))

    for id in ids:
        store.scripts.client.hset(store.scripts.key("call", id), "doubtful", 1)
        result = processor.process(id)
        assert (result.state, result.retry_in) == ("retrying", 5)

    assert look(gate)["state"] == "open"
    assert {store.get(id)["attempts"] for id in ids} == {"0"}


def test_a_refusal_without_a_name_opens_the_gate_and_a_probe_finds_out(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    """One page of a firewall with a 403 held the whole fleet until an operator came."""
    dialer.dials = [FIREWALL]
    id = enqueue(store)

    result = processor.process(id)

    assert (result.state, store.get(id)["attempts"]) == ("deferred", "0")
    assert look(gate)["state"] == "open"


def test_a_lease_that_runs_out_in_the_handshake_hands_the_call_back_undialed(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, gate: CircuitBreaker
) -> None:
    dialer.handshake_seconds = LEASE
    id = enqueue(store)

    result = processor.process(id)

    assert (result.state, result.retry_in, dialer.dialed) == ("queued", None, [])
    assert (store.get(id)["attempts"], store.get(id)["dials"]) == ("0", "0")
    assert look(gate)["state"] == "closed"


def test_the_whole_connect_timeout_spent_in_the_handshake_is_covered_by_the_lease(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, settings: Settings
) -> None:
    dialer.dials = ["conv_1"]
    dialer.handshake_seconds = settings.services[SERVICE].timeout.connect

    assert processor.process(enqueue(store)).state == "placed"


@pytest.mark.parametrize("memory_lost", [False, True])
def test_a_call_of_another_installation_is_ignored_unless_the_store_has_lost_its_memory(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None], memory_lost: bool
) -> None:
    dialer.dials, dialer.looks = [BUSY, "conv_1"], [[Found("conv_theirs", ours=False)]]
    id = enqueue(store)
    processor.process(id)
    due(id)
    if memory_lost:
        store.scripts.client.hset(store.scripts.key("call", id), "doubtful", 1)

    result = processor.process(id)

    assert result.state == (State.NEEDS_REVIEW if memory_lost else State.PLACED)
    assert len(dialer.dialed) == (1 if memory_lost else 2)
    assert store.get(id).get("conversation_id") == (None if memory_lost else "conv_1")


def test_an_operators_retry_dials_a_call_in_spite_of_another_installation(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer
) -> None:
    theirs = [Found("conv_theirs", ours=False)]
    dialer.dials, dialer.looks = ["conv_1"], [theirs, theirs]
    id = enqueue(store)
    store.scripts.client.hset(store.scripts.key("call", id), "doubtful", 1)
    assert processor.process(id).state == State.NEEDS_REVIEW
    assert "conv_theirs" in store.get(id)["reason"]

    store.command(id, "retry")

    assert processor.process(id).state == State.PLACED


@pytest.mark.parametrize("memory_lost", [False, True])
def test_a_look_up_of_a_call_in_doubt_sees_another_installation_only_where_the_store_has_lost_its_memory(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, memory_lost: bool
) -> None:
    dialer.looks = [[Found("conv_theirs", ours=False)]]
    id = enqueue(store)
    if memory_lost:
        store.scripts.client.hset(store.scripts.key("call", id), "doubtful", 1)
    in_doubt(store, id)

    assert processor.look_up(id).state == (State.NEEDS_REVIEW if memory_lost else State.IN_DOUBT)


def test_a_look_up_of_a_call_that_is_not_in_doubt_asks_nobody(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer
) -> None:
    id = enqueue(store)

    assert processor.look_up(id).state == State.QUEUED
    assert processor.look_up("spring:2").state == "unknown"

    assert dialer.looked == []


def test_a_contact_from_another_service_is_dialed_and_known_from_then_on(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer
) -> None:
    dialer.dials = ["conv_1"]

    result = processor.process("spring:1", contact=contact("1"), campaign="spring")

    assert result.state == "placed"
    assert store.enqueue([contact("1")], "spring") == (0, 1)


def test_an_unknown_call_is_reported_as_such(processor: CallProcessor) -> None:
    assert processor.process("spring:1").state == "unknown"


def test_a_call_that_had_rung_twice_is_adopted_and_reported(
    store: CallStore, processor: CallProcessor, dialer: ScriptedDialer, due: Callable[[str], None]
) -> None:
    dialer.dials, dialer.looks = [BUSY], [["conv_1", "conv_2"]]
    id = enqueue(store)
    processor.process(id)
    due(id)

    processor.process(id)

    call = store.get(id)
    assert (call["state"], call["conversation_id"]) == (State.PLACED, "conv_1")
    assert "conv_1 conv_2" in call["reason"]
    events = [event for _, event in store.scripts.client.xrange(store.scripts.key("events"))]
    assert [event["call_id"] for event in events if event["event"] == "call_rang_twice"] == [id]
