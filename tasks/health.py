"""Health checks, scheduled by beat: one runner a service and interval."""

from __future__ import annotations

from resilience import healthcheck
from tasks.celery import app
from tasks.runtime import runtime


@app.task
def check(service: str) -> str:
    """Checks one service and tells its gate."""
    rt = runtime()
    settings = rt.settings.services[service]
    if not rt.scripts.take_slot(f"health:{service}", settings.health.interval / 2):
        return "another worker checks"
    return healthcheck.check(service, rt.probes[service], rt.breakers[service], settings)
