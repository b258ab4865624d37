"""The CRM entry of a call that is over, by a task of its own: the CRM never decides about a call.

The store puts the call into the CRM's outbox with its last transition; the dispatcher hands it out until it is written.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from resilience.circuit_breaker import report_of
from resilience.config.settings import Retry
from resilience.errors import CircuitOpen, PermanentError, Scope, ServiceError
from resilience.logger import log
from resilience.retry import next_delay
from tasks.celery import app, settings
from tasks.runtime import runtime

SERVICE = "crm"
WAIT = 60.0  # seconds until a gate is asked again that does not say when
policy: Retry | None = settings.services[SERVICE].retry if SERVICE in settings.services else None


@app.task(bind=True, policy=policy, throws=(ServiceError,))
def write(self: Any, call_id: str) -> str:
    """Writes one call's entry, when the CRM's gate is open to it."""
    rt = runtime()
    call = rt.store.get(call_id)
    if not call or not rt.crm_outbox.waits(call_id):
        return "over"
    breaker = rt.breakers[SERVICE]
    try:
        permit = breaker.admit(f"{self.request.id}:{self.request.retries}", rt.settings.lease(SERVICE))
    except CircuitOpen as exc:
        rt.crm_outbox.later(call_id, time.time() + (exc.retry_after or WAIT))
        return "waits"
    error: ServiceError | None = None
    try:
        rt.crm.log_call(
            call_id=call_id,
            contact_id=call["contact_id"],
            state=call["state"],
            at_ms=int(call["updated"]),
            note=call.get("reason", ""),
        )
    except ServiceError as exc:
        error = exc
    breaker.report(permit, report_of(error, default_pause=rt.settings.services[SERVICE].retry.initial_delay))
    if error is None:
        log("crm_entry_written", service=SERVICE, call_id=call_id, retry_count=self.request.retries)
        rt.crm_outbox.done(call_id)
        return "written"
    return _failed(self, call_id, error)


def _failed(task: Any, call_id: str, error: ServiceError) -> str:
    held = isinstance(error, PermanentError) and error.scope is Scope.SERVICE
    last = isinstance(error, PermanentError) or next_delay(task.policy, task.request.retries + 1) is None
    log(
        "crm_entry_failed",
        level=logging.WARNING,
        service=SERVICE,
        call_id=call_id,
        category=error.category,
        reason=str(error),
        retry_count=task.request.retries,
        next_action="wait for the gate" if held else "none: write it by hand" if last else "retry",
    )
    if held:
        runtime().crm_outbox.later(call_id, time.time() + WAIT)
        return "waits"
    if last:
        runtime().crm_outbox.done(call_id)
    raise error
