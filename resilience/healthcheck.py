"""Checks whether a service is well, with a request of its own that needs no permit of the breaker and no contact.

`rise` good checks in a row mean up, `fall` bad ones mean down. Down opens the gate; a recovery makes an open gate half
open at once. A 429 is neither good nor bad: the service works, and we are too fast. A check that does not finish in
time is a bad one.
"""

from __future__ import annotations

import logging
from typing import Protocol

from resilience.circuit_breaker import CircuitBreaker
from resilience.config.settings import Service
from resilience.errors import Category, ServiceError, ThrottledError
from resilience.logger import log


class Probe(Protocol):
    """A free, side-effect-free request that shows whether a service is well. Raises ServiceError when it is not."""

    def health(self, path: str) -> None: ...


def check(service: str, probe: Probe, breaker: CircuitBreaker, settings: Service) -> str:
    """Checks once and reports to the gate. Returns up, down, unknown or skipped.

    Whatever the probe raises is a bad check. Raises StoreUnavailable, and anything that is not a ServiceError again,
    once it is reported.
    """
    try:
        probe.health(settings.health.path)
    except ThrottledError as exc:
        log("health_check_skipped", service=service, category=exc.category, reason=str(exc))
        return "skipped"
    except ServiceError as exc:
        return _report_bad(service, breaker, settings, str(exc), exc.category)
    except Exception as exc:
        reason = f"unexpected {type(exc).__name__} in the health check"
        _report_bad(service, breaker, settings, reason, Category.PERMANENT)
        raise
    answer = breaker.health(True, rise=settings.health.rise, fall=settings.health.fall)
    if answer["changed"]:
        log("health_check_recovered", service=service, health=answer["health"], breaker_state=answer["state"])
    return str(answer["health"])


def _report_bad(service: str, breaker: CircuitBreaker, settings: Service, reason: str, category: Category) -> str:
    answer = breaker.health(False, rise=settings.health.rise, fall=settings.health.fall, reason=reason)
    log(
        "health_check_failed",
        level=logging.WARNING,
        service=service,
        category=category,
        reason=reason,
        health=answer["health"],
        breaker_state=answer["state"],
    )
    return str(answer["health"])
