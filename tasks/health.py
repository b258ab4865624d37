"""Health checks, scheduled by beat: one a service and interval, by whichever worker is first."""

from __future__ import annotations

from dataclasses import dataclass

from celery.exceptions import SoftTimeLimitExceeded

from resilience import healthcheck
from resilience.errors import Sent, TransientError
from tasks.celery import app
from tasks.runtime import runtime


@dataclass(frozen=True)
class InTime:
    """A probe that the task's time limit may cut off: then the service is not well."""

    service: str
    probe: healthcheck.Probe

    def health(self, path: str) -> None:
        try:
            self.probe.health(path)
        except SoftTimeLimitExceeded:
            raise TransientError(
                "the health check took longer than the task's time limit",
                service=self.service,
                code="soft_time_limit",
                sent=Sent.UNKNOWN,
                counts=True,
            ) from None


@app.task
def check(service: str) -> str:
    """Checks one service and reports to its gate. Returns its health, or skipped."""
    rt = runtime()
    settings = rt.settings.services[service]
    if not rt.scripts.take_slot(f"health:{service}", settings.health.interval / 2):
        return "another worker checks"
    return healthcheck.check(service, InTime(service, rt.probes[service]), rt.breakers[service], settings)
