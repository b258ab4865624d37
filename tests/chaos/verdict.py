"""Judges a campaign, from the stand-in's record and the store alone.

With appendfsync everysec a power cut takes the last second of the store with it, and the lists are sent again. Then an
attempt may be dialed twice where the first dial did not ring, and events may be missing; everything else has to hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import redis

from resilience.calls.call import State
from tests.chaos.fleet import Fleet
from tests.support import PREFIX, leaked_keys

TERMINAL_EVENTS = ("call_placed", "call_failed", "call_needs_review", "call_cancelled")
TAKEN_UP = "the worker did not report in time"
BOUND_S = 5.0  # beyond the lease
Window = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict is based on. Times are unix seconds.

    `acked`: the calls whose producers succeeded. `went_back`: whether power was cut. `outages`: when Redis could not be
    reached. `failures`: how many look-ups, `interval` seconds apart, have to fail before a call needs review.
    """

    calls: Mapping[str, Mapping[str, str]]
    acked: Set[str]
    events: Sequence[Mapping[str, str]]
    rang: Sequence[Mapping[str, Any]]
    requests: Sequence[Mapping[str, Any]]
    went_back: bool
    outages: Sequence[Window]
    failures: int
    interval: float
    lease: float


@dataclass
class Verdict:
    """`faults` are broken promises; `taken_up` lists interrupted attempts: id, seconds, of which Redis was away."""

    faults: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    taken_up: list[tuple[str, float, float]] = field(default_factory=list)


def judge(evidence: Evidence) -> Verdict:
    """Judges every contact, and how fast interrupted calls were taken up."""
    verdict, rings = Verdict(), Counter(ring["call_id"] for ring in evidence.rang)
    ends = Counter(e["call_id"] for e in evidence.events if e["event"] in TERMINAL_EVENTS)
    for id in evidence.acked:
        state = evidence.calls.get(id, {}).get("state", "lost")
        verdict.states[state] += 1
        wrong = _wrong(id, state, rings[id], evidence)
        if not evidence.went_back and ends[id] != 1:
            wrong.append(f"has {ends[id]} terminal transitions")
        verdict.faults += [f"{id} ({state}) {what}" for what in wrong]
    verdict.faults += [f"{id} was never enqueued" for id in sorted({*rings, *evidence.calls} - evidence.acked)]
    if not evidence.went_back:
        dials = Counter(request["attempt_id"] for request in evidence.requests if request["endpoint"] == "dial")
        # A request that the stand-in did not read has no id.
        verdict.faults += [f"{id} was dialed {count} times" for id, count in dials.items() if id and count > 1]
    _recovery(verdict, evidence)
    return verdict


def _overlap(one: Window, other: Window) -> float:
    """Seconds that two windows share."""
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _wrong(id: str, state: str, rings: int, evidence: Evidence) -> list[str]:
    wrong = []
    if state == "lost":
        wrong.append("is not in the store")
    elif not State(state).is_terminal or state == State.CANCELLED:
        wrong.append("has not come to its end")
    if rings > 1:
        wrong.append(f"rang {rings} times")
    if state == State.PLACED and not rings:
        wrong.append("never rang")
    if state == State.FAILED and rings:
        wrong.append("rang")
    if state == State.NEEDS_REVIEW and (failed := _failed_look_ups(id, evidence)) < evidence.failures:
        wrong.append(f"needs review although only {failed} of its look-ups failed")
    return wrong


def _failed_look_ups(id: str, evidence: Evidence) -> int:
    """The failed look-ups of a call's last doubt. Copies of a message look up at the same time, and count once."""
    counted, last = (
        0,
        max(int(e["at"]) / 1000 for e in evidence.events if e.get("call_id") == id and e["event"] == "call_in_doubt"),
    )
    for request in evidence.requests:
        asked = (request["call_id"], request["endpoint"]) == (id, "conversations")
        if asked and request["answer"] != "200" and request["unix"] > last:
            counted, last = counted + 1, request["unix"] + evidence.interval - 0.2
    return counted


def _recovery(verdict: Verdict, evidence: Evidence) -> None:
    dialing: dict[str, float] = {}
    for event in evidence.events:
        attempt, at = event.get("attempt_id", ""), int(event.get("at", 0)) / 1000
        if event["event"] == "call_dialing":
            dialing[attempt] = at
        elif event["event"] == "call_in_doubt" and event.get("reason") == TAKEN_UP and attempt in dialing:
            start = dialing[attempt]
            away = sum(_overlap((start, at), outage) for outage in evidence.outages)
            verdict.taken_up.append((attempt, at - start, away))
            if at - start - away > evidence.lease + BOUND_S:
                verdict.faults.append(f"{attempt} was taken up after {at - start:.1f} s, with Redis away {away:.1f} s")


def leftovers(fleet: Fleet) -> list[str]:
    """What a campaign must not leave behind: keys, claims, permits, and counts that differ from a recount."""
    client: redis.Redis = fleet.redis
    found = [f"key {key} stays for ever" for key in leaked_keys(client)]
    waiting = [f"{PREFIX}:{name}" for name in ("due", "backlog")]
    found += [
        f"key {key} is not empty" for key in (*waiting, *client.scan_iter(f"{PREFIX}:deferred:*")) if client.exists(key)
    ]
    seconds, micros = client.time()
    for key in client.scan_iter(f"{PREFIX}:cb:*:leases"):
        if client.zcount(key, f"({seconds * 1000 + micros // 1000}", "+inf"):
            found.append(f"{key} lends a permit")
    calls = [client.hgetall(key) for key in client.scan_iter(f"{PREFIX}:call:*")]
    found += [f"{call['id']} is still claimed" for call in calls if "owner" in call]
    counted = Counter(call["state"] for call in calls)
    numbers = client.hgetall(f"{PREFIX}:stats")  # the number of the last event is in it as well
    stats = Counter({state.value: int(numbers[state]) for state in State if int(numbers.get(state, 0))})
    if counted != stats:
        found.append(f"stats say {dict(stats)}, a recount {dict(counted)}")
    return found
