"""The tasks on the `calls` queue: one attempt of a call, and one look-up of a call in doubt."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

from resilience.calls.call import State
from resilience.calls.call import call_id as id_of
from resilience.calls.contacts import Contact, parse
from resilience.calls.store import DIALER
from resilience.errors import InvalidContact, PermanentError, StoreUnavailable, TransientError
from resilience.logger import log
from resilience.store.dead_letters import Letter
from resilience.store.events import Event
from tasks.celery import ResilientTask, app
from tasks.message import compose
from tasks.runtime import runtime

ID_CHARS = 300  # a campaign, a colon, and a contact's id


class CallTask(ResilientTask):
    """A retry names the call alone: once the store has the contact, its phone number does not travel any more."""

    def retry(self, args: Any = None, kwargs: Any = None, exc: Exception | None = None, **options: Any) -> Any:
        known = getattr(exc, "call_id", None)
        if known:
            args, kwargs = (), {"call_id": known}
        elif self.request.get("not_before") is not None:
            options["headers"] = {"not_before": self.request.get("not_before")}
        return super().retry(args, kwargs, exc, **options)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Keeps a contact whose task ended unexpectedly, before the store had its call."""
        if isinstance(exc, InvalidContact | PermanentError) or not (args or kwargs.get("contact")):
            return
        dead = _letter(self.request, f"its task ended with {type(exc).__name__}, before the store had its call")
        try:
            id = id_of(dead.campaign, dead.contact_id)
            known = runtime().store.get(id).get("state")
        except Exception:  # noqa: BLE001 no id that can be, or a record that cannot be read
            known = None
        if known is None:
            with suppress(StoreUnavailable):
                runtime().dead_letters.put(dead)


@app.task(bind=True, base=CallTask, throws=(InvalidContact, PermanentError, StoreUnavailable))
def place_call(
    self: Any, contact: Any = None, campaign: Any = "default", call_id: Any = None, *extra: Any, **unknown: Any
) -> dict[str, Any]:
    """Calls a contact: `contact` and `campaign` from other services, `call_id` alone from the dispatcher."""
    try:
        who, id = _payload(contact, campaign, call_id, extra, unknown)
    except InvalidContact as exc:
        _refuse(self.request, exc)
        raise
    if who is not None and self.request.get("not_before") is not None:
        return _later(who, campaign, self.request.get("not_before"))
    result = runtime().processor.process(id, contact=who, campaign=campaign, early_ok=bool(self.request.is_eager))
    if result.retry_in is not None:
        again = TransientError(
            f"{id}: {result.error or 'the look-up before the dial failed'}", service=DIALER, retry_after=result.retry_in
        )
        again.call_id = id  # type: ignore[attr-defined]
        if result.retry_in > runtime().settings.longest_countdown and not self.request.is_eager:
            return {"call_id": id, "state": result.state, "retry_in": result.retry_in}
        raise again
    if result.state == State.FAILED and result.error is not None:
        raise PermanentError(f"{id}: {result.error}", service=DIALER)
    return {"call_id": id, "state": result.state, "attempt": result.attempt}


def _later(who: Contact, campaign: str, not_before: float) -> dict[str, Any]:
    """Leaves the call to the store until `not_before`, unix seconds by this host's clock."""
    store, id = runtime().store, id_of(campaign, who.id)
    store.enqueue([who], campaign, delay=max(0.0, not_before - time.time()))
    return {"call_id": id, "state": store.get(id).get("state")}


def _refuse(request: Any, exc: InvalidContact) -> None:
    """Keeps the message as a dead letter and reports it. Raises StoreUnavailable, except in eager mode."""
    dead = _letter(request, str(exc))
    log(
        "contact_refused",
        level=logging.ERROR,
        service=DIALER,
        task_id=request.id,
        reason=dead.reason,
        contact_id=dead.contact_id or None,
        campaign=dead.campaign or None,
        origin=dead.origin or None,
        category="permanent",
        next_action=f"none: correct the sender; the message is shown by `python -m tasks dead show {dead.id}`",
    )
    with suppress(*[StoreUnavailable] if request.is_eager else []):
        runtime().dead_letters.put(dead, event=Event.CONTACT_REFUSED, service=DIALER)


def _letter(request: Any, reason: str) -> Letter:
    return compose(
        reason,
        queue=(request.delivery_info or {}).get("routing_key") or "",
        task=place_call.name,
        task_id=request.id,
        origin=request.get("origin"),
        args=request.args,
        kwargs=request.kwargs,
    )


def _payload(contact: Any, campaign: Any, call_id: Any, extra: Any, unknown: Any) -> tuple[Any, str]:
    if extra or unknown:
        raise InvalidContact(f"unknown arguments: {', '.join(sorted(unknown)) or f'{len(extra)} positional'}")
    if contact is None and isinstance(call_id, str) and 0 < len(call_id) <= ID_CHARS and call_id.isprintable():
        return None, call_id
    if contact is None:
        raise InvalidContact("contact: is missing" if call_id is None else "call_id: is none")
    if call_id is not None:
        raise InvalidContact("call_id: does not go with a contact")
    who = parse(contact)
    return who, id_of(campaign, who.id)


@app.task
def look_up(call_id: str) -> dict[str, Any]:
    """Looks a call in doubt up once."""
    result = runtime().processor.look_up(call_id)
    return {"call_id": call_id, "state": result.state}
