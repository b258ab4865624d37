"""What came of a campaign, from the stand-in's log and the store alone.

With appendfsync everysec a power cut may take the last second of the store with it: a contact accepted in it may be
gone, a call that was moved in it stands where it stood before. Those, and only those, are excused then, and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from resilience.call_store import State
from tests.chaos.fleet import Fleet
from tests.support import PREFIX, leaked_keys

TERMINAL_EVENTS = ("call_placed", "call_failed", "call_needs_review", "call_cancelled")
TAKEN_UP = "the worker did not report in time"
BOUND_S = 5.0  # beyond the lease
Window = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """Everything a verdict rests on. Times are unix seconds.

    `acked` are, by call, the runs of producers that were told yes; `cuts` the power cuts, each from its last kept
    moment to a lease after its end; `outages` are the times when Redis could not be reached.
    """

    calls: Mapping[str, Mapping[str, str]]
    acked: Mapping[str, Sequence[Window]]
    events: Sequence[Mapping[str, str]]
    rang: Sequence[Mapping[str, Any]]
    requests: Sequence[Mapping[str, Any]]
    cuts: Sequence[Window]
    outages: Sequence[Window]
    polls: int
    lease: float


@dataclass
class Verdict:
    """`faults` are broken promises; `excused` what appendfsync everysec may lose."""

    faults: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    taken_up: list[tuple[str, float, float]] = field(default_factory=list)  # attempt, seconds, of which Redis was away


def judge(evidence: Evidence) -> Verdict:
    """Every contact, one by one, and how fast interrupted calls were taken up."""
    verdict, rings = Verdict(), defaultdict(list)
    for ring in evidence.rang:
        rings[ring["call_id"]].append(float(ring["time"]))
    ends = Counter(e["call_id"] for e in evidence.events if e["event"] in TERMINAL_EVENTS)
    for id, runs in evidence.acked.items():
        state = evidence.calls.get(id, {}).get("state", "lost")
        verdict.states[state] += 1
        wrong = _wrong(id, state, rings[id], evidence)
        if not evidence.cuts and ends[id] != 1:
            wrong = [*wrong, f"has {ends[id]} terminal transitions"]
        moments = [*rings[id], *(time for run in runs for time in run)] if state == "lost" else rings[id]
        excused = any(start <= time <= end for time in moments for start, end in evidence.cuts)
        (verdict.excused if excused else verdict.faults).extend(f"{id} ({state}) {what}" for what in wrong)
    strangers = sorted({*rings, *evidence.calls} - set(evidence.acked))
    verdict.faults += [f"{id} was never enqueued" for id in strangers]
    _recovery(verdict, evidence)
    return verdict


def _wrong(id: str, state: str, rings: Sequence[float], evidence: Evidence) -> list[str]:
    wrong = []
    if state == "lost":
        wrong.append("is not in the store")
    elif not State(state).is_terminal or state == State.CANCELLED:
        wrong.append("has not come to its end")
    if len(rings) > 1:
        wrong.append(f"rang {len(rings)} times")
    if state == State.PLACED and not rings:
        wrong.append("never rang")
    if state == State.FAILED and rings:
        wrong.append("rang")
    if state == State.NEEDS_REVIEW:
        doubted = max(int(e["at"]) / 1000 for e in evidence.events
                      if e.get("call_id") == id and e["event"] == "call_in_doubt")
        answers = [r["answer"] for r in evidence.requests
                   if r["call_id"] == id and r["endpoint"] == "conversations" and r["unix"] >= doubted]
        if answers.count("200") >= evidence.polls:
            wrong.append(f"needs review although its look-ups were answered: {answers}")
    return wrong


def _recovery(verdict: Verdict, evidence: Evidence) -> None:
    dialing: dict[str, float] = {}
    for event in evidence.events:
        attempt, at = event.get("attempt_id", ""), int(event.get("at", 0)) / 1000
        if event["event"] == "call_dialing":
            dialing[attempt] = at
        elif event["event"] == "call_in_doubt" and event.get("reason") == TAKEN_UP and attempt in dialing:
            start = dialing[attempt]
            away = sum(max(0.0, min(at, e) - max(start, s)) for s, e in evidence.outages)
            verdict.taken_up.append((attempt, at - start, away))
            if at - start - away > evidence.lease + BOUND_S:
                verdict.faults.append(f"{attempt} was taken up after {at - start:.1f} s, Redis was away for {away:.1f} s")


def leftovers(fleet: Fleet) -> list[str]:
    """What no campaign may leave behind: keys, leases, permits, and counts that do not add up."""
    client: redis.Redis = fleet.redis
    found = [f"key {key} stays for ever" for key in leaked_keys(client)]
    waiting = [f"{PREFIX}:{name}" for name in ("due", "backlog")]
    found += [f"key {key} is not empty" for key in (*waiting, *client.scan_iter(f"{PREFIX}:deferred:*"))
              if client.exists(key)]
    seconds, micros = client.time()
    for key in client.scan_iter(f"{PREFIX}:cb:*:leases"):
        if client.zcount(key, f"({seconds * 1000 + micros // 1000}", "+inf"):
            found.append(f"{key} lends a permit")
    calls = [client.hgetall(key) for key in client.scan_iter(f"{PREFIX}:call:*")]
    found += [f"{call['id']} is still claimed" for call in calls if "owner" in call]
    counted = Counter(call["state"] for call in calls)
    told = Counter({state: int(n) for state, n in client.hgetall(f"{PREFIX}:stats").items() if int(n)})
    if counted != told:
        found.append(f"stats say {dict(told)}, a recount {dict(counted)}")
    return found
