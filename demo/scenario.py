"""The scripted outage: each step is observed in the store, the event stream and the stand-in's own log, or it fails.

Times come from the configuration, so that the same scenario plays at a tenth of them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from demo.world import CAMPAIGN, FIRST, REST, StepFailed, World
from resilience.calls.call import State
from resilience.calls.store import DIALER

TOLERANCE = 1.5  # seconds that a dial may be late beyond its delay


@dataclass(frozen=True)
class Verdict:
    """The rows of the table, (contact, state, attempts, dial requests, rang), and what is wrong with them."""

    rows: list[tuple[str, str, int, int, int]]
    faults: list[str]


class Scenario:
    """Plays the steps on running processes."""

    def __init__(self, world: World) -> None:
        self.world, self.timeline = world, world.timeline
        self.service = world.settings.services[DIALER]

    def play(self) -> Verdict:
        """All steps. Raises StepFailed at the first that was not observed."""
        self.world.start()
        self.retries()
        self.defers()
        self.holds()
        self.recovers()
        return self.verdict()

    def retries(self) -> None:
        self.timeline.step("1. The provider answers 503. One contact is called.")
        # The rest fails from the first dial on: health must not shut the gate while this call is retried.
        self.world.control("fault", service=DIALER, endpoint="dial", kind="unavailable")
        self.world.enqueue([FIRST])
        self.world.until("dial 1 of 4", 10, self.world.dials)
        self.world.control("outage", service=DIALER)
        expected = self._expected_dials()
        for n, due in enumerate(expected):
            self._sees_dial(n, due - (expected[n - 1] if n else 0))
        self.world.until("the failed call", 5, lambda: self.world.state(FIRST) == State.FAILED)
        times = [r["monotonic"] for r in self.world.dials()]
        late = [(seen - times[0]) - due for seen, due in zip(times, expected, strict=True)]
        slack = [due * self.service.retry.jitter + TOLERANCE for due in expected]
        if any(not -0.05 <= by <= most for by, most in zip(late, slack, strict=True)):
            raise StepFailed(f"dials {expected} s after the first, each at most {TOLERANCE} s late; late by {late}")
        events = ("call_retrying", "call_failed")
        lines = [e for e in self.world.log() if e.get("call_id") == f"{CAMPAIGN}:{FIRST}" and e["event"] in events]
        if [line.get("retry_count") for line in lines if line.get("breaker_state")] != [0, 1, 2, 3]:
            raise StepFailed(f"the log has each attempt with retry count and breaker state; it has {lines}")
        self.timeline.line(
            "four dials", FIRST, "at " + ", ".join(f"{t - times[0]:.1f}" for t in times) + " s", style="good"
        )

    def _sees_dial(self, n: int, wait: float) -> None:
        """Dial n, counted from 0, after `wait` seconds in which the worker is free for another task."""
        if n:
            other = f"nobody-{n}"
            self.world.wake_up(other)
            self.world.until(
                f"another task runs on the worker before dial {n + 1}", wait, lambda: self.world.is_woken(other)
            )
        limit = wait * (1 + self.service.retry.jitter) + 10
        self.world.until(f"dial {n + 1} of 4", limit, lambda: len(self.world.dials()) > n)

    def defers(self) -> None:
        self.timeline.step("2. The call has failed, the breaker is open, the admin is notified.")
        if self.world.gate()["state"] != "open":
            raise StepFailed(f"the breaker is open after the fourth failure; it is {self.world.gate()['state']}")
        self.world.until("an alert on every channel", 10, lambda: all(self.world.alerts("down").values()))
        self.timeline.step("3. Eleven more contacts are enqueued: they step aside, other services go on.")
        before, asked = len(self.world.dials()), time.time()
        self.world.enqueue(REST)
        self.world.until("eleven deferred calls", 10, lambda: self.world.store.stats()[State.DEFERRED] == len(REST))
        slowest = max(int(e["at"]) / 1000 for e in self.world.events if e["event"] == "call_deferred") - asked
        if slowest > 2 or len(self.world.dials()) > before:
            dials = len(self.world.dials()) - before
            raise StepFailed(f"deferred within 2 s without a dial; it took {slowest:.1f} s and {dials} dials")
        self.world.until("the CRM entry of the failed call", 10, lambda: self.world.asked("crm", "calls"))
        self.timeline.line("eleven deferred, no dial", "", f"within {slowest:.1f} s of the enqueueing", style="good")

    def holds(self) -> None:
        self.timeline.step("4. The outage goes on; health checks watch it. Then the provider recovers.")
        dials, checks = len(self.world.dials()), len(self.world.asked(DIALER, "subscription"))
        health = self.service.health
        self.world.until(
            "the health check says down",
            health.interval * (health.fall + 2),
            lambda: self.world.gate()["health"] == "down",
        )
        opened = max(int(e["at"]) for e in self.world.events if e["event"] == "breaker_opened") / 1000
        probe = opened + self.service.circuit_breaker.recovery_timeout
        self.world.until("the moment of the timed probe", probe - time.time() + 10, lambda: time.time() > probe + 1)
        if len(self.world.dials()) > dials or self.world.gate()["state"] != "open":
            raise StepFailed("no contact is spent on a timed probe while health says down")
        if len(self.world.asked(DIALER, "subscription")) <= checks:
            raise StepFailed("the health checks go on during the outage")
        self.timeline.line("the timed probe was withheld", DIALER, "health says down", style="good")

    def recovers(self) -> None:
        self.world.control("recover", service=DIALER)
        self.timeline.line("the provider is well", DIALER, "nobody does anything", style="note")
        dials = len(self.world.dials())
        health = self.service.health
        self.world.until(
            "half open after the health check",
            health.interval * (health.rise + 1) + 5,
            lambda: self.world.seen("breaker_half_open"),
        )
        if not self.world.seen("health_up"):
            raise StepFailed("the health check saw the recovery before the breaker moved")
        self.world.until("the breaker closes", 20, lambda: self.world.seen("breaker_closed"))
        closed = self.world.seen("breaker_closed")[-1]
        probes = [r for r in self.world.dials()[dials:] if r["unix"] * 1000 < int(closed["at"])]
        if len(probes) != 1:
            raise StepFailed(f"one probe closes the breaker; {len(probes)} calls went out before it closed")
        self.world.until("eleven placed calls", 30, lambda: self.world.store.stats()[State.PLACED] == len(REST))
        self.world.until("a resolved notice on every channel", 10, lambda: all(self.world.alerts("resolved").values()))

    def verdict(self) -> Verdict:
        """Store against ground truth: who was called, how often, and what became of it."""
        rang = Counter(r["call_id"] for r in self.world.control("rang")["rang"])
        dialed = Counter(r["call_id"] for r in self.world.dials())
        attempts = Counter(r["attempt_id"] for r in self.world.dials())
        rows, faults = [], []
        for contact in [FIRST, *REST]:
            id = f"{CAMPAIGN}:{contact}"
            call = self.world.store.get(id)
            rows.append((contact, call.get("state", "lost"), int(call.get("attempts", 0)), dialed[id], rang[id]))
        states = Counter(row[1] for row in rows)
        if states != {State.PLACED: len(REST), State.FAILED: 1}:
            faults.append(f"11 placed and 1 failed; {dict(states)}")
        if any(n != 1 for n in attempts.values()):
            faults.append("no attempt was dialed twice")
        if any(rang[f"{CAMPAIGN}:{row[0]}"] != (row[1] == State.PLACED) for row in rows):
            faults.append("each placed call rang once, the failed one never")
        if self.world.seen("call_in_doubt"):
            faults.append("no call was in doubt")
        return Verdict(rows, faults)

    def _expected_dials(self) -> list[float]:
        retry, times = self.service.retry, [0.0]
        for n in range(retry.max_attempts - 1):
            times.append(times[-1] + min(retry.max_delay, retry.initial_delay * retry.backoff_factor**n))
        return times
