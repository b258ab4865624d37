"""A call from its intake to its end: who may begin it, who may end it, and what a verdict does."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from resilience.calls.call import Claim, State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.store import BATCH, DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker
from resilience.errors import InvalidContact, StoreUnavailable
from resilience.store.scripts import Scripts
from tests.store import steps
from tests.store.steps import T0, add, attempt, claim, contact, look, make_settings, refused, trip
from tests.support import dump

TERMINAL = ["placed", "failed", "needs_review", "cancelled"]


@pytest.fixture
def finished(store: CallStore) -> Callable[[str], str]:
    """Brings a new call into a terminal state. Returns its id."""

    def bring(state: str) -> str:
        [id] = add(store, f"to-{state}")
        if state == "cancelled":
            store.command(id, "cancel", now=T0)
        elif state == "needs_review":
            attempt(store, id, steps.DOUBT)
            for look in range(15):
                store.resolve(id, look, "error", now=T0 + 20 + 60 * look)
        else:
            attempt(store, id, {"placed": steps.PLACED, "failed": steps.FAILED}[state])
        assert store.get(id)["state"] == state
        return id

    return bring


def recount(store: CallStore) -> dict[str, int]:
    counts = Counter(call["state"] for call in store.calls())
    return {state.value: counts[state.value] for state in State}


def test_a_contact_is_enqueued_once(client: redis.Redis, store: CallStore) -> None:
    people = [contact("1", city="Köln", age=36, vip=True), contact("2")]
    assert store.enqueue(people, "spring", now=T0) == (2, 0)
    before = dump(client)

    assert store.enqueue([*people, people[0]], "spring", now=T0 + 5) == (0, 3)

    assert dump(client) == before
    assert store.enqueue(people, "autumn", now=T0) == (2, 0)


def test_a_list_that_was_half_written_can_be_sent_again(store: CallStore) -> None:
    people = [contact(str(n)) for n in range(BATCH + 50)]
    store.enqueue(people[:BATCH], "spring", now=T0)

    assert store.enqueue(people, "spring", now=T0) == (50, BATCH)

    assert store.stats()["queued"] == BATCH + 50


def test_what_stands_before_a_bad_contact_is_enqueued(store: CallStore) -> None:
    def people() -> Iterator[Contact]:
        yield from (contact(str(n)) for n in range(BATCH + 3))
        raise InvalidContact("phone: is missing")

    with pytest.raises(InvalidContact):
        store.enqueue(people(), "spring", now=T0)

    assert store.stats()["queued"] == BATCH + 3


@pytest.mark.parametrize("name", ["a:b", "", " ", "x" * 65, "spring\n", "früh", None, 7])
def test_a_campaign_s_name_that_would_make_ids_ambiguous_is_refused(
    client: redis.Redis, store: CallStore, name: str
) -> None:
    before = dump(client)

    with pytest.raises(InvalidContact, match="campaign"):
        store.enqueue([contact()], name, now=T0)

    assert dump(client) == before


def test_a_claim_carries_the_contact_as_it_was_given(store: CallStore) -> None:
    given = contact('a:b "c" \\ ✓', city="Köln", age=36, vip=True, rate=1.5, note="", big=2**53 + 1)
    store.enqueue([given], "spring", now=T0)

    begun = claim(store, "spring:" + given.id)

    assert begun.contact == given
    assert begun == replace(
        begun, attempt=1, attempt_id=f"{begun.call_id}:1", campaign="spring", breaker_state="closed", look_first=False
    )


def test_a_contact_in_the_message_creates_its_call(store: CallStore) -> None:
    begun = store.begin("spring:1", "me", contact=contact(), campaign="spring", now=T0)

    assert isinstance(begun, Claim)
    assert store.begin("spring:1", "you", contact=contact(), campaign="spring", now=T0).answer == "duplicate"
    assert store.enqueue([contact()], "spring", now=T0) == (0, 1)


def test_an_id_nobody_knows_is_told_so_and_creates_nothing(client: redis.Redis, store: CallStore) -> None:
    nobody = replace(claim(store, add(store, "1")[0]), call_id="spring:2")
    before = dump(client)

    assert refused(store, "spring:2").answer == "unknown"
    assert store.finish(nobody, steps.PLACED, now=T0).answer == "stale"
    assert store.resolve("spring:2", 0, "absent", now=T0).answer == "stale"
    assert store.command("spring:2", "retry", now=T0).answer == "unknown"
    assert store.get("spring:2") == {}

    assert dump(client) == before


def test_a_call_that_is_being_dialed_is_a_duplicate_to_everybody_else(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    claim(store, id)
    before = dump(client)

    assert refused(store, id).answer == "duplicate"

    assert dump(client) == before


def test_beginning_again_after_a_lost_answer_gets_the_same_claim(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    first = claim(store, id)
    before = dump(client)

    assert store.begin(id, first.owner, now=T0 + 1) == first

    assert dump(client) == before


@pytest.mark.parametrize(
    ("verdict", "state", "attempts"),
    [
        (steps.PLACED, "placed", 1),
        (steps.FAILED, "failed", 1),
        (steps.RETRY, "retrying", 1),
        (steps.DOUBT, "in_doubt", 1),
        (steps.THROTTLED, "deferred", 0),
        (steps.HELD, "deferred", 0),
        (steps.HANDED_BACK, "queued", 0),
        (steps.ADOPTED, "placed", 0),
    ],
)
def test_a_verdict_moves_the_call_and_counts_the_attempt_or_not(
    store: CallStore, verdict: Verdict, state: str, attempts: int
) -> None:
    [id] = add(store, "1")

    done = attempt(store, id, verdict)

    assert (done.state, done.attempts) == (state, attempts)
    call = store.get(id)
    assert (call["state"], int(call["attempts"])) == (state, attempts)
    assert call.get("reason") == verdict.reason
    assert call.get("conversation_id") == verdict.conversation_id
    assert "owner" not in call


def test_a_repeated_finish_is_told_so_and_counts_once(
    client: redis.Redis, store: CallStore, gate: CircuitBreaker
) -> None:
    ids = add(store, *"1234")
    begun = claim(store, ids[0])
    store.finish(begun, steps.RETRY, now=T0)
    before = dump(client)

    for _ in range(5):
        again = store.finish(begun, steps.RETRY, now=T0 + 1)
        assert (again.answer, again.state) == ("repeated", "retrying")

    assert dump(client) == before
    for id in ids[1:3]:
        attempt(store, id, steps.RETRY)
    assert look(gate)["state"] == "closed"


@pytest.mark.parametrize("verdict", [steps.PLACED, steps.FAILED, steps.RETRY, steps.DOUBT, steps.HANDED_BACK])
def test_a_stale_worker_cannot_finish(client: redis.Redis, store: CallStore, verdict: Verdict) -> None:
    [id] = add(store, "1")
    stale = claim(store, id)
    store.dispatch(0, now=T0 + steps.LEASE)
    for n, second in enumerate((50, 110, 170)):
        store.resolve(id, n, "absent", now=T0 + second)
    current = claim(store, id, T0 + 180)
    before = dump(client)

    assert store.finish(stale, verdict, now=T0 + 181).answer == "stale"

    assert dump(client) == before
    assert store.finish(current, steps.PLACED, now=T0 + 182).answer == "done"


def test_a_worker_that_is_late_but_not_yet_missed_can_still_finish(store: CallStore) -> None:
    [id] = add(store, "1")
    late = claim(store, id)

    assert store.finish(late, steps.PLACED, now=T0 + steps.LEASE + 5).answer == "done"


@pytest.mark.parametrize("state", TERMINAL)
def test_no_transition_leaves_a_terminal_state(store: CallStore, finished: Callable[[str], str], state: str) -> None:
    id = finished(state)
    # A claim by the very owner who ended it, whose report is sent again with another verdict.
    owner = store.get(id).get("finished", "nobody")
    ghost = Claim(id, owner, f"{id}:1", 1, contact(), "spring", "closed", False)
    call, history = store.get(id), store.history(id)

    refused(store, id, T0 + 2000)
    store.finish(ghost, steps.RETRY, now=T0 + 2000)
    store.finish(replace(ghost, owner="else"), steps.PLACED, now=T0 + 2000)
    store.resolve(id, int(call.get("looks", 0)), "absent", now=T0 + 2000)
    store.resolve(id, int(call.get("looks", 0)), "found", ["conv_9"], now=T0 + 2000)
    store.enqueue([contact(f"to-{state}")], "spring", now=T0 + 2000)
    work = store.dispatch(100, now=T0 + 2000)

    assert (work.place, work.look_up) == ((), ())
    assert (store.get(id), store.history(id)) == (call, history)


def test_attempt_ids_rise_and_one_that_was_not_dialed_is_free_again(store: CallStore) -> None:
    [id] = add(store, "1")
    ids = []
    for n, verdict in enumerate([steps.HANDED_BACK, steps.RETRY, steps.THROTTLED]):
        begun = claim(store, id, T0 + 10 * n)
        ids.append((begun.attempt_id, begun.attempt, begun.look_first))
        store.finish(begun, verdict, now=T0 + 10 * n)
    store.dispatch(0, now=T0 + 40)
    begun = claim(store, id, T0 + 41)
    ids.append((begun.attempt_id, begun.attempt, begun.look_first))

    assert ids == [(f"{id}:1", 1, False), (f"{id}:1", 1, False), (f"{id}:2", 2, True), (f"{id}:3", 2, True)]
    assert store.get(id)["first_dial"] == f"{T0 + 10:.0f}000"


def test_an_early_message_waits(store: CallStore) -> None:
    [id] = add(store, "1")
    store.dispatch(1, now=T0)
    attempt(store, id, steps.RETRY)

    assert refused(store, id, T0 + 4).answer == "early"

    assert store.dispatch(100, now=T0 + 4.999).place == ()
    assert store.dispatch(100, now=T0 + 5).place == [id]
    assert claim(store, id, T0 + 5).attempt == 2


def test_eager_mode_knows_no_too_early(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.RETRY)

    assert isinstance(store.begin(id, "me", early_ok=True, now=T0), Claim)


def test_a_shut_gate_defers_the_call_and_uses_no_attempt(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    trip(gate)

    aside = refused(store, id, T0 + 10)

    assert (aside.answer, aside.state, aside.breaker_state, aside.retry_after) == ("deferred", "deferred", "open", 20)
    assert (store.get(id)["attempts"], store.get(id)["dials"]) == ("0", "0")
    assert look(gate)["deferred"] == 1
    assert refused(store, id, T0 + 11).answer == "duplicate"


def test_a_429_pauses_the_gate_and_uses_no_attempt(store: CallStore) -> None:
    first, second = add(store, "1", "2")
    attempt(store, first, steps.THROTTLED)

    aside = refused(store, second, T0 + 1)

    assert (aside.answer, aside.reason, aside.breaker_state, aside.retry_after) == (
        "deferred",
        "throttled",
        "closed",
        6,
    )
    assert store.get(first)["attempts"] == "0"


def test_a_probe_that_may_dial_holds_the_gate_s_only_permit(store: CallStore, gate: CircuitBreaker) -> None:
    first, second = add(store, "1", "2")
    trip(gate)

    probe = claim(store, first, T0 + 30)
    assert refused(store, second, T0 + 31).answer == "deferred"
    store.finish(probe, steps.PLACED, now=T0 + 32)

    assert look(gate, T0 + 32)["state"] == "closed"


@pytest.mark.parametrize("state", ["failed", "needs_review", "cancelled"])
def test_a_person_may_have_it_called_again(store: CallStore, finished: Callable[[str], str], state: str) -> None:
    id = finished(state)

    assert store.command(id, "retry", now=T0 + 2000).answer == "done"

    assert store.dispatch(9, now=T0 + 2000).place == [id]
    again = claim(store, id, T0 + 2000)
    assert again.attempt == 1
    assert again.attempt_id == f"{id}:{1 if state == 'cancelled' else 2}"


def test_a_person_cannot_have_it_called_twice(client: redis.Redis, store: CallStore) -> None:
    rang, ringing, doubtful = add(store, "1", "2", "3")
    attempt(store, rang, steps.PLACED)
    claim(store, ringing)
    attempt(store, doubtful, steps.DOUBT)
    before = dump(client)

    for id in (rang, ringing, doubtful):
        assert store.command(id, "retry", now=T0).answer == "refused"
        assert store.command(id, "cancel", now=T0).answer == "refused"

    assert dump(client) == before


def test_a_person_may_cancel_what_has_not_been_dialed(store: CallStore, gate: CircuitBreaker) -> None:
    queued, retrying, deferred = add(store, "1", "2", "3")
    attempt(store, retrying, steps.RETRY)
    gate.control("hold", by="ada", now=T0)
    refused(store, deferred)

    for id in (queued, retrying, deferred):
        assert store.command(id, "cancel", now=T0).answer == "done"
        assert store.command(id, "cancel", now=T0).answer == "done"

    gate.control("close", by="ada", now=T0)
    assert store.dispatch(9, now=T0 + 999).place == ()
    assert [refused(store, id).state for id in (queued, retrying, deferred)] == ["cancelled"] * 3


def test_a_person_who_takes_a_cancelled_retry_up_again_need_not_wait_for_it(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, replace(steps.RETRY, delay=60))

    store.command(id, "cancel", now=T0 + 1)
    store.command(id, "retry", now=T0 + 2)

    assert claim(store, id, T0 + 2).attempt == 1


def test_a_person_may_bring_a_retry_forward(store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, replace(steps.RETRY, delay=60))

    store.command(id, "retry", now=T0 + 1)

    assert store.dispatch(9, now=T0 + 1).place == [id]
    assert claim(store, id, T0 + 1).attempt == 2


def test_stats_equal_a_recount(store: CallStore, finished: Callable[[str], str], gate: CircuitBreaker) -> None:
    for state in TERMINAL:
        finished(state)
    ids = add(store, *"12345")
    for n, verdict in enumerate([steps.RETRY, steps.DOUBT, steps.THROTTLED, steps.HANDED_BACK], 1):
        attempt(store, ids[n - 1], verdict, T0 + 100 * n)
        gate.control("close", by="ada", now=T0 + 100 * n)
    claim(store, ids[4], T0 + 500)

    assert store.stats() == recount(store)
    assert sum(store.stats().values()) == 9


def test_calls_are_listed_by_state_and_campaign(store: CallStore) -> None:
    store.enqueue([contact("1"), contact("2")], "spring", now=T0)
    store.enqueue([contact("1")], "autumn", now=T0)
    attempt(store, "spring:1", steps.PLACED)

    def ids(**which: str) -> list[str]:
        return sorted(call["id"] for call in store.calls(**which))

    assert ids() == ["autumn:1", "spring:1", "spring:2"]
    assert ids(campaign="spring") == ["spring:1", "spring:2"]
    assert ids(state="placed") == ["spring:1"]
    assert ids(state="placed", campaign="autumn") == []


def test_the_history_tells_each_step_and_the_stream_each_transition(client: redis.Redis, store: CallStore) -> None:
    [id] = add(store, "1")
    attempt(store, id, steps.RETRY)
    attempt(store, id, steps.PLACED, T0 + 5)

    given = [(line["event"], line.get("attempt_id"), line.get("state")) for line in store.history(id)]
    assert given == [
        ("call_queued", None, "queued"),
        ("call_dialing", f"{id}:1", "dialing"),
        ("call_retrying", f"{id}:1", "retrying"),
        ("call_dialing", f"{id}:2", "dialing"),
        ("call_placed", f"{id}:2", "placed"),
    ]
    streamed = [fields for _, fields in client.xrange("{lineman}:events")]
    assert [fields["event"] for fields in streamed] == [event for event, _, _ in given[1:]]
    assert all(fields["call_id"] == id and fields["service"] == DIALER for fields in streamed)
    assert "+49" not in json.dumps(streamed)


def test_a_redis_that_takes_no_writes_is_out_of_reach_and_nothing_is_half_done(real_redis: redis.Redis) -> None:
    """Redis 6.2 wraps its refusal in a script's error, and a task that fails for good has lost its contact."""
    store = CallStore(Scripts(real_redis), make_settings())
    [id] = add(store, "1")
    begun = claim(store, id)
    before = dump(real_redis)

    real_redis.config_set("min-replicas-to-write", "1")
    try:
        with pytest.raises(StoreUnavailable):
            store.finish(begun, steps.RETRY, now=T0)
        with pytest.raises(StoreUnavailable):
            store.dispatch(9, now=T0 + 100)
    finally:
        real_redis.config_set("min-replicas-to-write", "0")

    assert dump(real_redis) == before
    assert store.finish(begun, steps.PLACED, now=T0).answer == "done"


def test_a_probe_that_fails_for_the_service_s_sake_costs_its_contact_nothing(
    store: CallStore, gate: CircuitBreaker
) -> None:
    """Each timed probe of a long outage used up an attempt: 25 of 60 contacts ended failed after eight hours of 503."""
    first, second = add(store, "1", "2")
    steps.trip(gate)

    probe = attempt(store, first, steps.RETRY, T0 + 60)

    assert (probe.state, probe.attempts) == ("deferred", 0)
    refused(store, second, T0 + 61)
    store.dispatch(9, now=T0 + 600)
    released = [id for id in (first, second) if store.get(id)["state"] == "queued"]
    assert released == [second]  # the next probe is another contact


def test_a_failure_while_health_is_known_to_be_down_costs_nothing(store: CallStore, gate: CircuitBreaker) -> None:
    [id] = add(store, "1")
    dialing = claim(store, id)
    for _ in range(3):
        gate.health(False, rise=2, fall=3, reason="503", now=T0 + 1)

    assert store.finish(dialing, replace(steps.RETRY, to=State.FAILED), now=T0 + 2).state == "deferred"
    assert store.get(id)["attempts"] == "0"


def test_with_the_gate_closed_each_failure_uses_an_attempt(store: CallStore) -> None:
    [id] = add(store, "1")

    assert attempt(store, id, steps.RETRY).attempts == 1
    assert attempt(store, id, steps.RETRY, T0 + 60).attempts == 2


def test_the_recovery_ramp_bounds_the_backlog_too(store: CallStore, gate: CircuitBreaker) -> None:
    """It slowed deferred calls alone: 100 calls of the backlog were handed out in the first second at rate 1."""
    ids = add(store, *(str(n) for n in range(100)))
    steps.trip(gate)
    gate.control("close", by="ada", now=T0 + 10)

    begun: dict[int, int] = Counter()
    for second in range(8):
        for tick in (0.0, 0.5):
            now = T0 + 10 + second + tick
            for id in store.dispatch(1000, now=now).place:
                if isinstance(store.begin(id, steps.token(), now=now), Claim):
                    begun[second] += 1

    assert begun[0] <= 1
    assert begun[1] <= 3
    assert begun[2] <= 6
    assert sum(begun.values()) == len(ids)


def test_the_recovery_ramp_bounds_retries_and_messages_of_other_services(
    store: CallStore, gate: CircuitBreaker
) -> None:
    ids = add(store, *(str(n) for n in range(10)))
    steps.trip(gate)
    gate.control("close", by="ada", now=T0 + 10)

    aside = [refused(store, id, T0 + 11) for id in ids]

    assert {(answer.state, answer.attempts) for answer in aside} == {("deferred", 0)}
    assert isinstance(store.begin("spring:99", steps.token(), contact=contact("99"), early_ok=True, now=T0 + 11), Claim)
