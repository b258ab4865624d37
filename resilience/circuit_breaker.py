"""The circuit breaker of a service: one gate in Redis, shared by all workers.

Its states are closed, open, half_open, and held (waiting does not cure it). It opens on a run of failures, or on a
share of failures within a sliding window. Half open, it lends permits for a limited time, so the permit of a killed
worker comes back. Each transition starts a new generation, and a report of an older one changes nothing. The rules are
in lua/shared/gate.lua. The call store's scripts include the gate's admit and report, so an attempt takes two round
trips in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from resilience.config.settings import Service
from resilience.errors import Category, CircuitOpen, Scope, ServiceError
from resilience.store.scripts import Scripts, ms

# Seconds after which an unused gate is forgotten, which is the same as closed.
KEPT = 30 * 24 * 3600


class Outcome(StrEnum):
    """What one admitted request says about the service."""

    SUCCESS = "success"
    FAILURE = "failure"
    ALIVE = "alive"  # it answered, which proves no more than that: neutral, but a good probe
    REFUSED = "refused"  # the contact's fault: as alive, but many equal refusals in a row hold the gate
    IGNORED = "ignored"  # our own fault, or no answer to judge: gives the permit back


@dataclass(frozen=True)
class Report:
    """An outcome and its details. `retry_after` and `pause` are seconds.

    `source` is the call: failures that are all of one call are no burst of bad luck, however fast they come.
    `hold` and `open` are the reasons to hold or to open the gate at once, whatever it has counted.
    """

    outcome: Outcome
    code: str | None = None
    reason: str | None = None
    slow: bool | None = None
    retry_after: float | None = None
    pause: float | None = None
    hold: str | None = None
    open: str | None = None
    source: str | None = None

    def as_args(self) -> dict[str, Any]:
        """The report as the scripts take it, times in ms."""
        args = {k: v for k, v in asdict(self).items() if v is not None}
        return args | {k: ms(args[k]) for k in ("retry_after", "pause") if k in args}


def report_of(error: ServiceError | None, *, default_pause: float, slow: bool = False) -> Report:
    """What an error means for the gate; None is a good answer. `default_pause`: a bare 429's, in seconds."""
    if error is None:
        return Report(Outcome.SUCCESS, slow=slow or None)
    reason = str(error)
    if error.category is Category.THROTTLED:
        outcome = Outcome.FAILURE if error.counts else Outcome.ALIVE
        return Report(outcome, reason=reason, pause=error.retry_after or default_pause)
    if error.category is Category.PERMANENT and error.scope is Scope.SERVICE:
        if not error.named:
            return Report(Outcome.FAILURE, reason=reason, open=reason)
        return Report(Outcome.IGNORED, reason=reason, hold=reason)
    if error.category is Category.PERMANENT and error.alive and not error.names_contact:
        return Report(Outcome.REFUSED, code=error.code or "refused", reason=reason)
    outcome = Outcome.FAILURE if error.counts else Outcome.ALIVE if error.alive else Outcome.IGNORED
    return Report(outcome, reason=reason, retry_after=error.retry_after)


def policy_of(service: Service) -> dict[str, Any]:
    """The service's breaker configuration as the scripts take it, times in ms."""
    breaker = service.circuit_breaker
    policy: dict[str, Any] = {
        "failure_threshold": breaker.failure_threshold,
        "run_amid_successes": max(breaker.run_amid_successes, breaker.failure_threshold),
        "failure_rate": breaker.failure_rate,
        "minimum_calls": breaker.minimum_calls,
        "window": ms(breaker.window),
        "recovery": ms(breaker.recovery_timeout),
        "max_recovery": ms(breaker.max_recovery_timeout),
        "half_open_calls": breaker.half_open_calls,
        "success_threshold": breaker.success_threshold,
        "identical_refusals": breaker.identical_refusals,
        "hold": ms(service.health.hold),
        "max_retry_after": ms(service.retry.max_retry_after),
        "ttl": ms(KEPT),
    }
    return policy | ({"slow_rate": breaker.slow_call.rate} if breaker.slow_call else {})


@dataclass(frozen=True)
class Permit:
    """The permission to send one request. Its outcome is reported once."""

    service: str
    token: str
    gen: int
    state: str


class CircuitBreaker:
    """One service's gate. Every method is one round trip; all raise StoreUnavailable."""

    def __init__(self, scripts: Scripts, service: str, policy: Mapping[str, Any]) -> None:
        self.scripts, self.service, self.policy = scripts, service, policy

    def admit(self, token: str, lease: float, *, now: float | None = None) -> Permit:
        """Asks to send one request that takes at most `lease` seconds. `token` identifies the caller.

        Raises CircuitOpen.
        """
        answer = self._run("breaker_admit", now, token=token, lease=ms(lease))
        if not answer["admitted"]:
            wait = answer.get("retry_after")
            raise CircuitOpen(
                self.service, answer["state"], None if wait is None else wait / 1000, answer.get("reason", "")
            )
        return Permit(self.service, token, answer["gen"], answer["state"])

    def report(self, permit: Permit, report: Report, *, now: float | None = None) -> bool:
        """Reports the outcome. Returns False where the gate has moved on since, and nothing was changed."""
        args = report.as_args() | {"gen": permit.gen, "token": permit.token}
        return bool(self._run("breaker_report", now, report=args)["counted"])

    def control(
        self, action: str, *, by: str, reason: str | None = None, wait: float | None = None, now: float | None = None
    ) -> bool:
        """Moves the gate by hand: open, close, hold, release. Returns whether it changed.

        `wait` is the seconds after which a hold or an opening ends by itself.
        """
        wait_ms = None if wait is None else ms(wait)
        return bool(self._run("breaker_control", now, action=action, by=by, reason=reason, wait=wait_ms)["changed"])

    def health(
        self, good: bool, *, rise: int, fall: int, reason: str | None = None, now: float | None = None
    ) -> dict[str, Any]:
        """Takes one health check's result. Returns health (up, down), changed, and the gate's state."""
        answer = self._run("breaker_health", now, good=int(good), rise=rise, fall=fall, reason=reason)
        return dict(answer)

    def _run(self, script: str, now: float | None, **args: Any) -> dict[str, Any]:
        answer = self.scripts.run(script, {"service": self.service, "policy": self.policy, **args}, now)
        return dict(answer)


def view(scripts: Scripts, policies: Mapping[str, Mapping[str, Any]], *, now: float | None = None) -> dict[str, Any]:
    """The current state of all gates, by service; times in ms. Writes nothing."""
    return dict(scripts.run("breaker_view", {"services": policies}, now))
