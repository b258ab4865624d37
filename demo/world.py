"""What the demo does to the running processes, and what it sees of them.

It sees the store, the event stream, the log, and the stand-in's own record of what was asked and what rang.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import redis
import requests

from demo.interrupt import SIGNALS, Stopped
from demo.processes import Processes
from demo.timeline import Timeline
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import policy_of, view
from resilience.config.settings import Settings
from resilience.store.scripts import Scripts

CAMPAIGN = "demo"
FIRST, REST = "first", [f"guest-{n}" for n in range(1, 12)]
PHONES = [f"+1415555{n:04d}" for n in range(100, 112)]  # numbers kept free for fiction
CHANNELS = {"email": "mails", "telegram": "telegrams", "webhook": "webhooks"}


class StepFailed(Exception):
    """A step was not observed. The message says which, what was waited for and what was seen."""


class World:
    """The running processes. What was seen is shown on the timeline."""

    def __init__(self, processes: Processes, settings: Settings, timeline: Timeline) -> None:
        self.processes, self.settings, self.timeline = processes, settings, timeline
        self.service = settings.services[DIALER]
        self.redis = redis.Redis.from_url(processes.redis.url, decode_responses=True)
        self.scripts = Scripts(self.redis)
        self.store = CallStore(self.scripts, settings)
        self.events: list[dict[str, str]] = []
        self._last, self._shown = "0", Counter[str]()

    def close(self) -> None:
        self.redis.close()

    def start(self) -> None:
        """Waits until everything runs. Raises StepFailed if it does not within a minute."""
        self.until("the dispatcher ticks", 30, lambda: self.redis.exists(self.scripts.key("dispatched")))
        self.wake_up("nobody-0")
        self.until("the calls worker takes a message", 30, lambda: self.is_woken("nobody-0"))
        self.timeline.line("everything runs", "", "redis, stand-in, calls and control worker, beat", style="good")

    def until(self, what: str, seconds: float, condition: Callable[[], Any]) -> Any:
        """Waits for a condition, and shows what happens meanwhile. Raises StepFailed, or Stopped at a signal."""
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
        new: Any = self.redis.xrange(self.scripts.key("events"), min=f"({self._last}")
        for self._last, event in new:
            self.events.append(event)
            self.timeline.event(event)
        for channel, kind in CHANNELS.items():
            arrived = self.control("alerts")[kind]
            for alert in arrived[self._shown[channel] :]:
                self.timeline.line(f"alert by {channel}", "admin", alert["subject"], style="note", at=alert["time"])
            self._shown[channel] = len(arrived)

    def seen(self, event: str) -> list[dict[str, str]]:
        """The events with that name so far."""
        return [e for e in self.events if e["event"] == event]

    def gate(self) -> dict[str, Any]:
        return dict(view(self.scripts, {DIALER: policy_of(self.service)})[DIALER])

    def state(self, contact: str) -> str:
        return self.store.get(f"{CAMPAIGN}:{contact}").get("state", "")

    def asked(self, service: str, endpoint: str) -> list[dict[str, Any]]:
        """The stand-in's log of requests to one endpoint."""
        requests_ = self.control("requests")["requests"]
        return [r for r in requests_ if (r["service"], r["endpoint"]) == (service, endpoint)]

    def dials(self) -> list[dict[str, Any]]:
        return self.asked(DIALER, "dial")

    def alerts(self, word: str) -> dict[str, list[str]]:
        """The subjects of the alerts that contain `word`, by channel."""
        arrived = self.control("alerts")
        return {c: [a["subject"] for a in arrived[kind] if word in a["subject"]] for c, kind in CHANNELS.items()}

    def log(self) -> list[dict[str, Any]]:
        """The lines of the processes' log."""
        path = self.processes.folder / self.settings.logging.path
        return [json.loads(line) for line in path.read_text().splitlines()]

    def enqueue(self, contacts: list[str]) -> None:
        phones = dict(zip([FIRST, *REST], PHONES, strict=True))
        rows = "".join(f"{contact},{phones[contact]}\n" for contact in contacts)
        began = time.time()
        printed = self.processes.command("enqueue", "-", "--campaign", CAMPAIGN, given=f"id,phone\n{rows}").strip()
        self.timeline.line(f"{len(contacts)} enqueued", "", printed, style="note", at=began)

    def wake_up(self, contact: str) -> None:
        # A stale wake-up: the call is not known, so the task ends at once, on the worker that shall not sleep.
        self.processes.send_task("tasks.calls.place_call", {"call_id": f"{CAMPAIGN}:{contact}"})

    def is_woken(self, contact: str) -> bool:
        path = self.processes.folder / self.settings.logging.path
        return path.exists() and any(line.get("call_id") == f"{CAMPAIGN}:{contact}" for line in self.log())

    def control(self, name: str, **body: Any) -> Any:
        """Asks the stand-in for one of its records, or has it change what it answers."""
        url = f"{self.processes.url}/_control/{name}"
        answer = requests.post(url, json=body, timeout=5) if body else requests.get(url, timeout=5)
        answer.raise_for_status()
        return answer.json()
