"""What can go wrong, and what each kind asks for.

LinemanError
├── ConfigError            config.yml or the environment cannot be used; every fault is listed
├── InvalidContact         a contact that cannot be called: no id, no valid phone, wrong types
├── CircuitOpen            the service's gate is shut; nothing was sent
└── ServiceError           a service refused, failed or stayed silent
    ├── TransientError     will pass: retried with backoff
    │   ├── ThrottledError   we are too fast: the gate pauses, no attempt is used up
    │   ├── LeaseExpired     the worker's lease ran out before the request was sent: the attempt is handed back
    │   └── StoreUnavailable Redis is out of reach: nothing is dialed, the task comes back
    │       └── StoreFull    Redis is full: new contacts are refused, what is there goes on
    ├── PermanentError     will not pass: `scope` says whether this contact or the whole service
    └── InDoubtError       a dial that may or may not have rung: only a look-up may decide

An error nobody named is permanent and raises an alert: only named errors are retried.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from math import isnan, nan


class Category(StrEnum):
    """What to do about it: retry, slow down, or stop."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    PERMANENT = "permanent"


class Scope(StrEnum):
    """Whose fault it is: every other contact fares the same, or only this one is concerned."""

    SERVICE = "service"
    CONTACT = "contact"


class Sent(StrEnum):
    """Whether the request reached the service and was acted upon."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class LinemanError(Exception):
    """Root of everything this project raises on purpose."""


class ConfigError(LinemanError):
    """The configuration cannot be used. The message lists every fault, one a line."""


class InvalidContact(LinemanError):
    """A contact that cannot be called. The message names the field and the rule, never its value."""


class CircuitOpen(LinemanError):
    """The service's gate is shut. `retry_after` is in seconds, None where waiting does not help."""

    def __init__(self, service: str, state: str, retry_after: float | None, reason: str = "") -> None:
        self.service, self.state, self.retry_after, self.reason = service, state, retry_after, reason
        wait = "until it is released" if retry_after is None else f"for {retry_after:.1f} s"
        super().__init__(f"{service} is {state} {wait}" + (f": {reason}" if reason else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.service, self.state, self.retry_after, self.reason)


class ServiceError(LinemanError):
    """A service's refusal, failure or silence, classified.

    `counts` says whether the circuit breaker takes it for sickness; `alive` whether the answer proves that the
    service is reachable (it lets a half-open probe pass); `names_contact` whether it names the contact's own data, so
    that the same refusal many times in a row says nothing of the service; `named` whether a permanent error names its
    cause, so that the gate is held, while any other only opens it. `retry_after` is in seconds. `code` is the service's
    own name for it, `status` the HTTP or SMTP status, None where no answer came.
    """

    category = Category.PERMANENT

    def __init__(
        self,
        message: str,
        *,
        service: str,
        code: str = "",
        status: int | None = None,
        scope: Scope = Scope.SERVICE,
        sent: Sent = Sent.YES,
        counts: bool = False,
        alive: bool = False,
        names_contact: bool = False,
        named: bool = True,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.service, self.code, self.status = message, service, code, status
        self.scope, self.sent, self.counts, self.alive = scope, sent, counts, alive
        self.names_contact, self.named = names_contact, named
        self.retry_after, self.request_id = retry_after, request_id

    def __reduce__(self) -> tuple[object, ...]:
        # Celery pickles exceptions from child to parent; the default reduce drops keyword arguments.
        return _rebuild, (type(self), self.message, {k: v for k, v in vars(self).items() if k != "message"})


def _rebuild(kind: type[ServiceError], message: str, fields: dict[str, object]) -> ServiceError:
    error = kind.__new__(kind, message)
    Exception.__init__(error, message)
    error.message = message
    vars(error).update(fields)
    return error


class TransientError(ServiceError):
    """Will pass. Retried with backoff, never earlier than `retry_after`."""

    category = Category.TRANSIENT


class ThrottledError(TransientError):
    """We are too fast, or the day's quota of requests is used. The gate pauses; no attempt is used up."""

    category = Category.THROTTLED


class StoreUnavailable(TransientError):
    """Redis is out of reach. Nothing is dialed without a claim, so the task waits and comes back."""


class StoreFull(StoreUnavailable):
    """Redis is full: new contacts are refused, and the calls that it has go on."""


class LeaseExpired(TransientError):
    """The worker's lease ran out before the first byte was sent, so the call may be another worker's by now."""


class PermanentError(ServiceError):
    """Will not pass by itself. Scope contact: this call failed. Scope service: the gate is held, or opened."""


class InDoubtError(ServiceError):
    """A dial whose answer was lost. It may have rung; it is looked up and never repeated blindly."""

    category = Category.TRANSIENT


LONGEST_WAIT_S = 86_400.0  # a day: daily quotas and HubSpot's migrations (477) ask for no more, a typo might


def parse_retry_after(value: str | None, now: float) -> float | None:
    """The seconds a Retry-After header asks for: a number, or an HTTP-date counted from `now` (Unix seconds).

    None where there is no header or it cannot be read; else between 0 and a day.
    """
    try:
        seconds = float(value or "nan")
    except ValueError:
        date = parse_http_date(value)
        seconds = nan if date is None else date - now
    return None if isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT_S)


def parse_http_date(value: str | None) -> float | None:
    """An HTTP-date in Unix seconds; None where there is none or it cannot be read."""
    try:
        date = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
