"""The faults of the stand-in, and which one the next request gets.

A fault is set for one endpoint of a service, or for all of them ("*"). The first that applies answers: the outage,
the script (counted faults, first in first out), the lasting fault (no count), the seeded random mix. `recover` ends
all of them. A kind that is `accepted` takes effect (the phone rings, the alert arrives) whatever is answered.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """`status` is what is answered, 0 for the endpoint's own answer. `ending` is "" where the answer is a whole one."""

    status: int = 0
    code: str = ""
    accepted: bool = False
    ending: str = ""
    error_type: str = ""  # ElevenLabs' `type`; "" gives its older body, of status and message alone


KINDS = {
    "ok": Kind(accepted=True),
    "slow": Kind(accepted=True, ending="slow"),
    "list_lag": Kind(accepted=True),
    "filter_ignored": Kind(accepted=True),  # the list of conversations is everybody's
    "unavailable": Kind(503, "service_unavailable", error_type="service_unavailable"),
    "internal_error": Kind(500, "internal_error", error_type="internal_error"),
    "rate_limited": Kind(429, "rate_limit_exceeded", error_type="rate_limit_error"),
    "concurrency_exceeded": Kind(429, "concurrent_limit_exceeded", error_type="rate_limit_error"),
    "invalid_api_key": Kind(401, "invalid_api_key", error_type="authentication_error"),
    "invalid_api_key_legacy": Kind(401, "invalid_api_key"),
    "quota_exceeded": Kind(401, "quota_exceeded", error_type="authentication_error"),
    "quota_exceeded_legacy": Kind(401, "quota_exceeded"),
    "insufficient_credits": Kind(402, "insufficient_credits", error_type="payment_required"),
    "forbidden": Kind(403, "forbidden"),  # names no cause
    "refused": Kind(403, "insufficient_permissions", error_type="authorization_error"),
    "agent_not_found": Kind(404, "agent_not_found", error_type="not_found"),
    "invalid_number": Kind(422, "invalid_number"),
    "success_false": Kind(200, "success_false"),
    "closed_unread": Kind(ending="unread"),
    "accept_then_500": Kind(500, "internal_error", True, error_type="internal_error"),
    "accept_then_503": Kind(503, "service_unavailable", True, error_type="service_unavailable"),
}
for _ending in ("fin", "rst", "silence", "truncated", "not_json"):
    KINDS[f"accept_then_{_ending}"] = Kind(accepted=True, ending=_ending)


@dataclass(frozen=True)
class Fault:
    """A name of `KINDS` and its seconds: of the wait (0: until the server ends), the lag, or the Retry-After."""

    name: str = "ok"
    seconds: float = 0.0

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def retry_after(self) -> int:
        """Whole seconds, as the header wants them; 0 where none is sent: a 503 has one only if seconds were given."""
        least = {429: 1, 503: 0}.get(self.kind.status)
        return 0 if least is None else max(least, math.ceil(self.seconds))

    def body(self, service: str) -> dict[str, Any]:
        """The error in the form of this service."""
        status, code, *_, error_type = self.kind
        message, wait = f"{code} (stand-in)", self.retry_after
        detail: dict[str, Any] = {"status": code, "message": message}
        if error_type:
            detail |= {"type": error_type, "code": "unauthorized" if code == "invalid_api_key" else code}
        if service == "elevenlabs" and code == "success_false":
            return {"success": False, "message": message, "conversation_id": None, "callSid": None}
        if service == "elevenlabs" and code == "invalid_number":
            return {"detail": [{"type": "value_error", "loc": ["body", "to_number"], "msg": "not E.164"}]}
        telegram = {"ok": False, "error_code": status, "description": message}
        bodies: dict[str, dict[str, Any]] = {
            "elevenlabs": {"detail": detail},
            "llm": {"error": {"message": message, "type": code, "code": code, "param": None}},
            "crm": {"status": "error", "message": message, "errorType": "RATE_LIMIT" if wait else code},
            "telegram": telegram | ({"parameters": {"retry_after": wait}} if wait else {}),
            "webhook": {"error": message},
        }
        return bodies[service]


class Faults:
    """The faults now set, for a map of service to its endpoints. Thread-safe. ValueError for a name not known."""

    def __init__(self, endpoints: Mapping[str, set[str]]) -> None:
        self._endpoints, self._lock = endpoints, threading.Lock()
        self._outage, self._script, self._lasting, self._mix = self._layers = tuple(
            dict[tuple[str, str], Iterator[Fault]]() for _ in range(4)
        )

    def fault(self, service: str, endpoint: str, kind: str, count: int | None = None, seconds: float = 0.0) -> None:
        """Queue `kind` for the next `count` requests; without a count it lasts until replaced or recovered."""
        self._check(service, endpoint, kind)
        key, fault = (service, endpoint), Fault(kind, seconds)
        with self._lock:
            if count is None:
                self._lasting[key] = repeat(fault)
            else:
                self._script[key] = chain(self._script.get(key, ()), repeat(fault, count))

    def mix(self, service: str, endpoint: str, weights: dict[str, float], seed: int = 0, seconds: float = 0.0) -> None:
        """Draw each request's kind at random by weight, the same sequence for the same seed."""
        self._check(service, endpoint, *weights)
        random, faults, shares = Random(seed), [Fault(kind, seconds) for kind in weights], list(weights.values())
        with self._lock:
            self._mix[service, endpoint] = (random.choices(faults, shares)[0] for _ in repeat(None))

    def outage(self, service: str) -> None:
        """503 on every endpoint of the service, health included, until `recover`."""
        self._check(service)
        with self._lock:
            self._outage[service, "*"] = repeat(Fault("unavailable"))

    def recover(self, service: str) -> None:
        """The service is well: its outage, script, standing faults and mix are gone."""
        self._check(service)
        with self._lock:
            for layer in self._layers:
                for endpoint in (*self._endpoints[service], "*"):
                    layer.pop((service, endpoint), None)

    def take(self, service: str, endpoint: str) -> Fault:
        """The fault for the request now at hand; a counted one is used up."""
        with self._lock:
            for layer in self._layers:
                for key in ((service, endpoint), (service, "*")):
                    if fault := next(layer.get(key, iter(())), None):
                        return fault
        return Fault()

    def _check(self, service: str, endpoint: str = "*", *kinds: str) -> None:
        known = (service, self._endpoints), (endpoint, self._endpoints.get(service, set()) | {"*"})
        for name, names in (*known, *((kind, KINDS) for kind in kinds)):
            if name not in names:
                raise ValueError(f"no {name!r} here: one of {', '.join(sorted(names))}")
