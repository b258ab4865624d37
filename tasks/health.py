"""Health checks, scheduled by beat: one a service and interval, by whichever worker is first."""

from __future__ import annotations

from resilience import healthcheck
from tasks.celery import app
from tasks.runtime import runtime


@app.task
def check(service: str) -> str:
    """Checks one service and reports to its gate. Returns its health, or skipped."""
    rt = runtime()
    settings = rt.settings.services[service]
    if not rt.scripts.take_slot(f"health:{service}", settings.health.interval / 2):
        return "another worker checks"
    return healthcheck.check(service, rt.probes[service], rt.breakers[service], settings)
