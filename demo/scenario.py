"""The scripted outage: each step is observed in the store, the event stream and the stand-in's own log, or it fails.

Times come from the configuration, so that the same scenario plays at a tenth of them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import requests

from demo.processes import Processes
from demo.timeline import Timeline
from resilience.calls.call import State
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import policy_of, view
from resilience.config.settings import Settings
from resilience.store.scripts import Scripts

CAMPAIGN = "demo"
FIRST, REST = "first", [f"guest-{n}" for n in range(1, 12)]
PHONES = [f"+1415555{n:04d}" for n in range(100, 112)]  # numbers kept free for fiction
TOLERANCE = 1.5  # seconds that a dial may be late beyond its delay
CHANNELS = {"email": "mails", "telegram": "telegrams", "webhook": "webhooks"}


class Stopped(BaseException):
    """The demo was told to stop, by a signal."""


# Signals that have come. One that arrives inside somebody's `__del__` raises in vain: the next wait asks here.
SIGNALS: list[int] = []


def stop(signum: int, _frame: object) -> None:
    """The handler of the signals that end the demo. A second one does not cut the clearing up short."""
    if not SIGNALS:
        SIGNALS.append(signum)
        raise Stopped


class StepFailed(Exception):
    """A step was not observed. The message says which, what was waited for and what was seen."""


@dataclass(frozen=True)
class Verdict:
    """The rows of the table, (contact, state, attempts, dial requests, rang), and what is wrong with them."""

    rows: list[tuple[str, str, int, int, int]]
    faults: list[str]


class Scenario:
    """Plays the steps on running processes."""

    def __init__(self, processes: Processes, settings: Settings, timeline: Timeline) -> None:
        self.processes, self.settings, self.timeline = processes, settings, timeline
        self.service = settings.services[DIALER]
        self.redis = redis.Redis.from_url(processes.redis.url, decode_responses=True)
        self.scripts = Scripts(self.redis)
        self.store = CallStore(self.scripts, settings)
        self.events: list[dict[str, str]] = []
        self._last, self._told = "0", Counter[str]()

    def play(self) -> Verdict:
        """All steps. Raises StepFailed at the first that was not observed."""
        self.start()
        self.retries()
        self.defers()
        self.holds()
        self.recovers()
        return self.verdict()

    def close(self) -> None:
        self.redis.close()

    def start(self) -> None:
        self.until("the dispatcher ticks", 30, lambda: self.redis.exists(self.scripts.key("dispatched")))
        self._wake_up("nobody-0")
        self.until("the calls worker takes a message", 30, lambda: self._woken("nobody-0"))
        self.timeline.line("everything runs", "", "redis, stand-in, calls and control worker, beat", style="good")

    def retries(self) -> None:
        self.timeline.step("1. The provider answers 503. One contact is called.")
        # The rest fails from the first dial on: health must not shut the gate while this call is retried.
        self._control("fault", service=DIALER, endpoint="dial", kind="unavailable")
        self._enqueue([FIRST])
        self.until("dial 1 of 4", 10, self.dials)
        self._control("outage", service=DIALER)
        expected = self._expected_dials()
        for n, due in enumerate(expected):
            wait = due - (expected[n - 1] if n else 0)
            if n:
                self._wake_up(f"nobody-{n}")
                self.until(
                    f"another task runs on the worker before dial {n + 1}", wait, lambda n=n: self._woken(f"nobody-{n}")
                )
            self.until(
                f"dial {n + 1} of 4", wait * (1 + self.service.retry.jitter) + 10, lambda n=n: len(self.dials()) > n
            )
        self.until("the failed call", 5, lambda: self.state(FIRST) == State.FAILED)
        times = [r["monotonic"] for r in self.dials()]
        late = [(seen - times[0]) - due for seen, due in zip(times, expected, strict=True)]
        slack = [due * self.service.retry.jitter + TOLERANCE for due in expected]
        if any(not -0.05 <= by <= most for by, most in zip(late, slack, strict=True)):
            raise StepFailed(f"dials {expected} s after the first, each at most {TOLERANCE} s late; late by {late}")
        lines = [
            line
            for line in self.log()
            if line.get("call_id") == f"{CAMPAIGN}:{FIRST}" and line["event"] in ("call_retrying", "call_failed")
        ]
        if [line.get("retry_count") for line in lines if line.get("breaker_state")] != [0, 1, 2, 3]:
            raise StepFailed(f"the log has each attempt with retry count and breaker state; it has {lines}")
        self.timeline.line(
            "four dials", FIRST, "at " + ", ".join(f"{t - times[0]:.1f}" for t in times) + " s", style="good"
        )

    def defers(self) -> None:
        self.timeline.step("2. The call has failed, the breaker is open, the admin is notified.")
        if self.gate()["state"] != "open":
            raise StepFailed(f"the breaker is open after the fourth failure; it is {self.gate()['state']}")
        self.until("an alert on every channel", 10, lambda: all(self.alerts("down").values()))
        self.timeline.step("3. Eleven more contacts are enqueued: they step aside, other services go on.")
        before, asked = len(self.dials()), time.time()
        self._enqueue(REST)
        self.until("eleven deferred calls", 10, lambda: self.store.stats()[State.DEFERRED] == len(REST))
        slowest = max(int(e["at"]) / 1000 for e in self.events if e["event"] == "call_deferred") - asked
        if slowest > 2 or len(self.dials()) > before:
            raise StepFailed(
                f"deferred within 2 s without a dial; it took {slowest:.1f} s and {len(self.dials()) - before} dials"
            )
        self.until("the CRM entry of the failed call", 10, lambda: self.asked("crm", "calls"))
        self.timeline.line("eleven deferred, no dial", "", f"within {slowest:.1f} s of the enqueueing", style="good")

    def holds(self) -> None:
        self.timeline.step("4. The outage goes on; health checks watch it. Then the provider recovers.")
        dials, checks = len(self.dials()), len(self.asked(DIALER, "subscription"))
        health = self.service.health
        self.until(
            "the health check says down", health.interval * (health.fall + 2), lambda: self.gate()["health"] == "down"
        )
        opened = max(int(e["at"]) for e in self.events if e["event"] == "breaker_opened") / 1000
        probe = opened + self.service.circuit_breaker.recovery_timeout
        self.until("the moment of the timed probe", probe - time.time() + 10, lambda: time.time() > probe + 1)
        if len(self.dials()) > dials or self.gate()["state"] != "open":
            raise StepFailed("no contact is spent on a timed probe while health says down")
        if len(self.asked(DIALER, "subscription")) <= checks:
            raise StepFailed("the health checks go on during the outage")
        self.timeline.line("the timed probe was withheld", DIALER, "health says down", style="good")

    def recovers(self) -> None:
        self._control("recover", service=DIALER)
        self.timeline.line("the provider is well", DIALER, "nobody does anything", style="note")
        dials = len(self.dials())
        health = self.service.health
        self.until(
            "half open after the health check",
            health.interval * (health.rise + 1) + 5,
            lambda: self.seen("breaker_half_open"),
        )
        if not self.seen("health_up"):
            raise StepFailed("the health check saw the recovery before the breaker moved")
        self.until("the breaker closes", 20, lambda: self.seen("breaker_closed"))
        closed = self.seen("breaker_closed")[-1]
        probes = [r for r in self.dials()[dials:] if r["unix"] * 1000 < int(closed["at"])]
        if len(probes) != 1:
            raise StepFailed(f"one probe closes the breaker; {len(probes)} calls went out before it closed")
        self.until("eleven placed calls", 30, lambda: self.store.stats()[State.PLACED] == len(REST))
        self.until("a resolved notice on every channel", 10, lambda: all(self.alerts("resolved").values()))

    def verdict(self) -> Verdict:
        """Store against ground truth: who was called, how often, and what became of it."""
        rang = Counter(r["call_id"] for r in self._control("rang")["rang"])
        dialed = Counter(r["call_id"] for r in self.dials())
        attempts = Counter(r["attempt_id"] for r in self.dials())
        rows, faults = [], []
        for contact in [FIRST, *REST]:
            id = f"{CAMPAIGN}:{contact}"
            call = self.store.get(id)
            rows.append((contact, call.get("state", "lost"), int(call.get("attempts", 0)), dialed[id], rang[id]))
        states = Counter(row[1] for row in rows)
        if states != {State.PLACED: len(REST), State.FAILED: 1}:
            faults.append(f"11 placed and 1 failed; {dict(states)}")
        if any(n != 1 for n in attempts.values()):
            faults.append("no attempt was dialed twice")
        if any(rang[f"{CAMPAIGN}:{row[0]}"] != (row[1] == State.PLACED) for row in rows):
            faults.append("each placed call rang once, the failed one never")
        if self.seen("call_in_doubt"):
            faults.append("no call was in doubt")
        return Verdict(rows, faults)

    def until(self, what: str, seconds: float, condition: Callable[[], Any]) -> Any:
        """Waits for a condition, and shows what happens meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            if SIGNALS:
                raise Stopped
            self.pump()
            seen = condition()
            if seen:
                self.pump()
                return seen
            if self.processes.dead():
                raise StepFailed(f"{what}: a process ended by itself: {self.processes.dead()}")
            if time.monotonic() > deadline:
                raise StepFailed(f"{what}: not within {seconds:.1f} s; {self.store.stats()}, {self.gate()}")
            time.sleep(0.02)

    def pump(self) -> None:
        """Takes in what happened since the last time."""
        for id, event in self.redis.xrange(self.scripts.key("events"), min=f"({self._last}"):
            self._last = id
            self.events.append(event)
            self.timeline.event(event)
        for channel, kind in CHANNELS.items():
            arrived = self._control("alerts")[kind]
            for alert in arrived[self._told[channel] :]:
                self.timeline.line(f"alert by {channel}", "admin", alert["subject"], style="note", at=alert["time"])
            self._told[channel] = len(arrived)

    def seen(self, event: str) -> list[dict[str, str]]:
        return [e for e in self.events if e["event"] == event]

    def gate(self) -> dict[str, Any]:
        return dict(view(self.scripts, {DIALER: policy_of(self.service)})[DIALER])

    def state(self, contact: str) -> str:
        return self.store.get(f"{CAMPAIGN}:{contact}").get("state", "")

    def asked(self, service: str, endpoint: str) -> list[dict[str, Any]]:
        """The stand-in's log of requests to one endpoint."""
        requests_ = self._control("requests")["requests"]
        return [r for r in requests_ if (r["service"], r["endpoint"]) == (service, endpoint)]

    def dials(self) -> list[dict[str, Any]]:
        return self.asked(DIALER, "dial")

    def alerts(self, word: str) -> dict[str, list[str]]:
        """The subjects with that word in them, by channel."""
        arrived = self._control("alerts")
        return {c: [a["subject"] for a in arrived[kind] if word in a["subject"]] for c, kind in CHANNELS.items()}

    def log(self) -> list[dict[str, Any]]:
        path = self.processes.folder / self.settings.logging.path
        return [json.loads(line) for line in path.read_text().splitlines()]

    def _expected_dials(self) -> list[float]:
        retry, times = self.service.retry, [0.0]
        for n in range(retry.max_attempts - 1):
            times.append(times[-1] + min(retry.max_delay, retry.initial_delay * retry.backoff_factor**n))
        return times

    def _enqueue(self, contacts: list[str]) -> None:
        phones = dict(zip([FIRST, *REST], PHONES, strict=True))
        rows = "".join(f"{contact},{phones[contact]}\n" for contact in contacts)
        began = time.time()
        said = self.processes.command("enqueue", "-", "--campaign", CAMPAIGN, given=f"id,phone\n{rows}").strip()
        self.timeline.line(f"{len(contacts)} enqueued", "", said, style="note", at=began)

    def _wake_up(self, contact: str) -> None:
        # A stale wake-up: the call is not known, so the task ends at once, on the worker that shall not sleep.
        self.processes.send_task("tasks.calls.place_call", {"call_id": f"{CAMPAIGN}:{contact}"})

    def _woken(self, contact: str) -> bool:
        path = self.processes.folder / self.settings.logging.path
        return path.exists() and any(line.get("call_id") == f"{CAMPAIGN}:{contact}" for line in self.log())

    def _control(self, name: str, **body: Any) -> Any:
        url = f"{self.processes.url}/_control/{name}"
        answer = requests.post(url, json=body, timeout=5) if body else requests.get(url, timeout=5)
        answer.raise_for_status()
        return answer.json()
