"""Writes a call's entry into the CRM after the call has ended, so the CRM never decides about a call.

The transition that ends a call enrols it in the CRM's outbox. The dispatcher publishes it until its entry is written.
"""

from __future__ import annotations

import logging
from typing import Any

from resilience.calls.call import State
from resilience.circuit_breaker import report_of
from resilience.config.settings import Retry
from resilience.errors import CircuitOpen, PermanentError, Scope, ServiceError
from resilience.logger import log
from resilience.retry import next_delay
from resilience.store.outbox import Outbox
from tasks.celery import app, settings
from tasks.runtime import runtime

SERVICE = "crm"
WAIT = 60.0  # seconds until a gate that does not say when is asked again
WRITTEN = {State.PLACED, State.FAILED, State.NEEDS_REVIEW}  # a cancelled call has no entry
policy: Retry | None = settings.services[SERVICE].retry if SERVICE in settings.services else None


@app.task(bind=True, policy=policy, throws=(ServiceError,))
def write(self: Any, call_id: str) -> str:
    """Writes one call's entry if the CRM's gate admits it. Returns written, waits, or over (nothing to write)."""
    rt = runtime()
    call = rt.store.get(call_id)
    crm, outbox = rt.crm, rt.outboxes.get(SERVICE)
    if crm is None or outbox is None or not outbox.waits(call_id):
        return "over"
    if call.get("state") not in WRITTEN:  # one that an operator retried comes again when it ends
        outbox.done(call_id)
        return "over"
    breaker = rt.breakers[SERVICE]
    try:
        permit = breaker.admit(f"{self.request.id}:{self.request.retries}", rt.settings.lease(SERVICE))
    except CircuitOpen as exc:
        outbox.later(call_id, exc.retry_after or WAIT)
        return "waits"
    error: ServiceError | None = None
    try:
        crm.log_call(
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
        outbox.done(call_id)
        return "written"
    return _failed(self, outbox, call_id, error)


def _failed(task: Any, outbox: Outbox, call_id: str, error: ServiceError) -> str:
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
        outbox.later(call_id, WAIT)
        return "waits"
    if last:
        outbox.done(call_id)
    raise error
