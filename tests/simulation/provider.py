"""The provider as it may be: well, sick in nine ways on some of its paths, its list late, on a clock of its own.

A dial that it takes rings at once. What it answers is HTTP, so the product's own classification judges it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from requests import exceptions as rq

from services.http import Answer
from tests.simulation.plan import draw
from tests.simulation.scheduler import Host

EPOCH = 1_800_000_000.0
BAD = "9"  # a contact whose id ends so has a number that does not exist
REFUSALS: Mapping[str, tuple[int, Any]] = {
    "503": (503, {"detail": "overloaded"}),
    "429": (429, {"detail": {"status": "rate_limit_exceeded"}}),
    "quota": (401, {"detail": {"status": "quota_exceeded", "message": "This request exceeds your quota"}}),
    "page": (403, "<html>Access denied</html>"),
    "no_scope": (
        401,
        {"detail": {"status": "missing_permissions", "message": "The API key is missing the permission"}},
    ),
}
BAD_NUMBER = (422, {"detail": [{"loc": ["body", "to_number"], "msg": "invalid number"}]})


@dataclass(frozen=True)
class Ring:
    """A phone that rang. `at` is true seconds; `started` the provider's own clock."""

    call_id: str
    conversation_id: str
    at: float
    started: float
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Outage:
    since: float
    until: float
    paths: str
    mode: str


@dataclass(frozen=True)
class Request:
    """One request that went out. `outcome`: ring, contact (its own fault), ok, or the outage's mode."""

    at: float
    path: str
    call_id: str
    outcome: str


@dataclass
class Provider:
    """`now` gives true seconds."""

    now: Callable[[], float]
    host: Host = field(default_factory=lambda: Host("provider"))
    outages: list[Outage] = field(default_factory=list)
    rings: dict[str, list[Ring]] = field(default_factory=lambda: defaultdict(list))
    log: list[Request] = field(default_factory=list)
    lag: float = 0.0
    ignores_filter: bool = False  # the list shows everybody's conversations, whoever is asked for
    repeats_page: bool = False  # a second page shows what the first did

    def clock(self) -> float:
        """Its own unix seconds."""
        return EPOCH + self.now() + self.host.ahead

    def mode(self, path: str) -> str:
        """What ails this path (dial, list, health) now; empty where it is well."""
        for outage in self.outages:
            if outage.since <= self.now() < outage.until and outage.paths in (path, "all"):
                if path == "health" and outage.mode in ("429", "slow", "no_scope"):
                    continue
                return outage.mode
        return ""

    def connect(self, path: str) -> tuple[float, Exception | None]:
        """Seconds of the handshake, and why there was none."""
        if self.mode(path) == "down":
            return 3.0, rq.ConnectTimeout()
        return 0.02 + 0.08 * draw("handshake", len(self.log)), None

    def take(self, path: str, call_id: str, read: float, **asked: Any) -> tuple[float, Answer | Exception]:
        """One request has arrived. Seconds until its answer comes, and the answer."""
        mode, outcome = self.mode(path), "ok"
        answer: Answer | Exception
        delay = 0.2 + draw("answer", call_id, len(self.log)) * (1.0 if path == "dial" else 0.2)
        if mode in ("silent", "down"):
            delay, answer = read, rq.ReadTimeout()
        elif mode == "lost" and path != "dial":
            answer = rq.ConnectionError()
        elif mode == "quota" and path == "health":
            answer = Answer(200, {}, {"character_count": 10, "character_limit": 10})
        elif mode == "quota" and path == "list":
            mode, answer = "", self._list(call_id, asked)
        elif mode in REFUSALS:
            status, body = REFUSALS[mode]
            answer = Answer(status, {"Retry-After": "30"} if status == 429 else {}, body)
        elif path == "dial" and call_id.endswith(BAD):
            mode, outcome, answer = "", "contact", Answer(BAD_NUMBER[0], {}, BAD_NUMBER[1])
        elif path == "dial":
            outcome, answer = "ring", self._ring(call_id, asked)
            delay, answer = {"lost": (delay, rq.ConnectionError()), "drip": (read, rq.ReadTimeout()),
                             "slow": (25.0, answer)}.get(mode, (delay, answer))  # fmt: skip
        else:
            answer = self._list(call_id, asked) if path == "list" else Answer(200, {}, {})
        self.log.append(Request(self.now(), path, call_id, outcome if outcome == "ring" else mode or outcome))
        return delay, answer

    def _ring(self, call_id: str, asked: Mapping[str, Any]) -> Answer:
        known = self.rings[call_id]
        ring = Ring(
            call_id, f"conv_{call_id.replace(':', '_')}_{len(known) + 1}", self.now(), self.clock(), asked["variables"]
        )
        known.append(ring)
        return Answer(200, {}, {"success": True, "conversation_id": ring.conversation_id})

    def _list(self, call_id: str, asked: Mapping[str, Any]) -> Answer:
        one, params = asked.get("conversation"), asked.get("params", {})
        everybody = not call_id or self.ignores_filter
        rings = [ring for known in self.rings.values() for ring in known] if everybody else self.rings[call_id]
        if one:
            ring = next((ring for known in self.rings.values() for ring in known if ring.conversation_id == one), None)
            return Answer(200, {}, _row(ring) | _details(ring)) if ring else Answer(404, {}, {"detail": "no such"})
        since, until = params.get("call_start_after_unix", 0), params.get("call_start_before_unix", 1e12)
        seen = [ring for ring in rings if since <= ring.started <= until and self.now() - ring.at >= self.lag]
        more = self.repeats_page and bool(seen) and "cursor" not in params
        rows = [_row(ring) for ring in seen[-100:]]
        return Answer(200, {}, {"conversations": rows, "has_more": more, "next_cursor": "2" if more else None})


def _row(ring: Ring) -> dict[str, Any]:
    return {"conversation_id": ring.conversation_id, "agent_id": "agent", "status": "done",
            "start_time_unix_secs": int(ring.started)}  # fmt: skip


def _details(ring: Ring) -> dict[str, Any]:
    return {"user_id": ring.call_id, "metadata": {"start_time_unix_secs": int(ring.started)},
            "conversation_initiation_client_data": {"user_id": ring.call_id,
                                                    "dynamic_variables": dict(ring.variables)}}  # fmt: skip
