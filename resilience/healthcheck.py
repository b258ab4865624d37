"""Checks whether a service is well, with a request of its own that needs no permit of the breaker and no contact.

`rise` good checks in a row mean up, `fall` bad ones mean down. Down opens the gate; a recovery makes an open gate half
open at once. A 429 is neither good nor bad: the service works, and we are too fast.
"""

from __future__ import annotations

import logging
from typing import Protocol

from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import Service
from resilience.errors import ServiceError, ThrottledError
from resilience.logger import log


class Probe(Protocol):
    """A free, side-effect-free request that shows whether a service is well. Raises ServiceError when it is not."""

    def health(self, path: str) -> None: ...


def check(service: str, probe: Probe, breaker: CircuitBreaker, settings: Service) -> str:
    """Checks once and reports to the gate. Returns up, down, unknown or skipped. Raises StoreUnavailable."""
    rules = settings.health
    reason: str | None = None
    try:
        probe.health(rules.path)
    except ThrottledError as exc:
        log("health_check_skipped", service=service, category=exc.category, reason=str(exc))
        return "skipped"
    except ServiceError as exc:
        reason = str(exc)
        category = exc.category
    answer = breaker.health(reason is None, rise=rules.rise, fall=rules.fall, reason=reason)
    if reason is not None:
        log(
            "health_check_failed",
            level=logging.WARNING,
            service=service,
            category=category,
            reason=reason,
            health=answer["health"],
            breaker_state=answer["state"],
        )
    elif answer["changed"]:
        log("health_check_recovered", service=service, health=answer["health"], breaker_state=answer["state"])
    return str(answer["health"])
