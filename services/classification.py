"""What an HTTP answer means: one table, first match wins.

A body's own code outranks the status, because services disagree about the status: a spent quota has been seen
as 401, 402, 403 and 429. Only where no code is known does the status decide, so an HTML page from a CDN is
classified too. A dial is judged apart: wherever it may have rung, the answer is `InDoubtError`.

Nothing here does input or output; the clock is the answer's own Date header, where it has one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from resilience.errors import (
    InDoubtError,
    PermanentError,
    Scope,
    Sent,
    ServiceError,
    ThrottledError,
    TransientError,
    parse_http_date,
    parse_retry_after,
)
from resilience.redact import quoted, scrub


class _Row(NamedTuple):
    kind: type[ServiceError]
    codes: str = ""
    statuses: tuple[int, ...] = ()
    dial: type[ServiceError] | None = None  # where a dial is not judged like the rest
    scope: Scope = Scope.SERVICE
    sent: Sent = Sent.NO
    counts: bool = False
    alive: bool = False
    names_contact: bool = False
    named: bool = True
    wait: float | None = None  # seconds, where the service names none
    at_least: float = 0.0


_MONEY = _Row(
    PermanentError,
    "quota_exceeded insufficient_credits insufficient_quota credit_balance_exhausted *_spend_limit_* billing_error "
    "organization_usage_limit_exceeded",
    (402,),
)
_CONTACT = _Row(
    PermanentError,
    "field:to_number field:dynamic_variables 21211 21217 21219 13224",
    scope=Scope.CONTACT,
    alive=True,
    names_contact=True,
)
_CONFIG = _Row(
    PermanentError,
    "agent_not_found phone_number_not_found invalid_provider_config model_not_found workspace_not_found "
    "field:agent_id field:agent_phone_number_id accessNotConfigured 21210 21215 13227",
    alive=True,
)
_RATE_LIMIT = "rate_limit_exceeded rate_limit_error slow_down RATE_LIMIT REQUEST_LIMIT_EXCEEDED usageLimits 20429"
_NO_SCOPE = (
    "missing_permissions insufficient_permissions authorization_error subscription_required feature_not_available"
)
# The special comes before the general: HubSpot sends DAILY together with RATE_LIMIT.
_TABLE = (
    _MONEY,
    _CONTACT,
    _CONFIG,
    _Row(ThrottledError, "DAILY daily dailyLimitExceeded*", alive=True, wait=3600.0),
    _Row(ThrottledError, "system_busy", counts=True),
    _Row(ThrottledError, "TEN_SECONDLY*", alive=True, wait=10.0),
    _Row(ThrottledError, "SECONDLY*", alive=True, wait=1.0),
    _Row(ThrottledError, "concurrent_limit_exceeded too_many_concurrent_requests 10004 86008", alive=True),
    _Row(ThrottledError, _RATE_LIMIT, (429,), alive=True),
    _Row(PermanentError, _NO_SCOPE),
    _Row(PermanentError, "invalid_api_key authentication_error INVALID_SESSION_ID invalid_grant 20003"),
    # Without a known code it may be a firewall's, and pass.
    _Row(PermanentError, "", (401, 403, 407), named=False),
    _Row(TransientError, "UNABLE_TO_LOCK_ROW", (423, 425, 477), ThrottledError, alive=True, wait=2.0, at_least=2.0),
    _Row(TransientError, "", (408,), InDoubtError, sent=Sent.UNKNOWN, counts=True),
    _Row(TransientError, "", (409,), InDoubtError, sent=Sent.UNKNOWN, alive=True),
    _Row(TransientError, "", (500, 502, 504, *range(520, 525)), InDoubtError, sent=Sent.UNKNOWN, counts=True),
    _Row(TransientError, "", (503, 529), counts=True),
    _Row(PermanentError, "", (400, 404, 405, 410, 413, 415, 422), scope=Scope.CONTACT, alive=True),
)
_REDIRECT = _Row(PermanentError, named=False)
_UNKNOWN_4XX = _Row(PermanentError, scope=Scope.CONTACT)
_UNKNOWN = _Row(PermanentError, dial=InDoubtError, sent=Sent.UNKNOWN, counts=True, named=False)
_SUCCESS_FALSE = _Row(InDoubtError, sent=Sent.UNKNOWN, counts=True)

_NAMES = {
    "elevenlabs": "ElevenLabs",
    "llm": "The LLM",
    "crm": "The CRM",
    "telegram": "Telegram",
    "pagerduty": "PagerDuty",
}
_KEYS = "code", "status", "errorCode", "errorType", "policyName", "error_code", "reason", "domain", "error", "type"
_TEXTS = "message", "msg", "description", "error_description", "detail", "error"
_CODE = re.compile(r"(?!error$|.*\d{6})[\w.-]{1,64}", re.ASCII)
_BAD_NUMBER = re.compile(
    r"(?=.*\b(?:to_|phone[ _])?number\b)(?!.*\b(?:agent|source|caller|from)\b)"
    r".*\b(?:invalid|unverified|not (?:\w+ ){0,3}(?:valid|verified)|does not exist|not in service)\b",
    re.IGNORECASE | re.DOTALL,
)


def classify(
    status: int,
    body: Any,
    headers: Mapping[str, str],
    *,
    service: str,
    dial: bool = False,
    secrets: Collection[str] = (),
) -> ServiceError | None:
    """What an answer means; None where it is a good one.

    `body` is the parsed JSON, or the text where it is none. The error quotes none of `secrets`. A 409 that says
    `resource_already_exists` is a good answer, except to a dial. A status that no row knows has the code
    `unknown_status` and is permanent: a 4xx for the contact, any other for the service, but a dial so answered is in
    doubt.
    """
    codes = _codes(status, body, secrets)
    row, code = _judge(status, body, codes, dial)
    if row is None:
        return None
    kind = (dial and row.dial) or row.kind
    code = code or next((c for c in codes if not c.startswith("field:")), f"http_{status}")
    folded = {name.lower(): value for name, value in headers.items()}
    return kind(
        _message(service, status, code, body, secrets),
        service=service,
        code=code,
        status=status,
        scope=row.scope,
        sent=row.sent,
        counts=row.counts,
        alive=row.alive,
        names_contact=row.names_contact,
        named=row.named,
        retry_after=None if kind is PermanentError else _wait(row, folded, body),
        request_id=scrub(folded.get("request-id") or folded.get("x-request-id", ""), secrets),
    )


def display_name(service: str) -> str:
    """The service's name in a message to a person."""
    return _NAMES.get(service, service)


def _judge(status: int, body: Any, codes: list[str], dial: bool) -> tuple[_Row | None, str]:
    good = status // 100 == 2
    refused = good and dial and isinstance(body, Mapping) and body.get("success") is False
    for row in (_MONEY,) if good and not refused else _TABLE:
        for code in codes:
            if any(fnmatchcase(code, pattern) for pattern in row.codes.split()):
                return row, "" if code.startswith("field:") else code
    if refused:
        return (_CONTACT if _BAD_NUMBER.match(_text(body)) else _SUCCESS_FALSE), "success_false"
    if good or (status == 409 and "resource_already_exists" in codes and not dial):
        return None, ""
    by_status = next((row for row in _TABLE if status in row.statuses), None)
    return (by_status, "") if by_status else _unknown(status)


def _unknown(status: int) -> tuple[_Row, str]:
    if status // 100 == 3 and status != 303:  # a 303 says that the request was carried out
        return _REDIRECT, "redirect"
    return (_UNKNOWN_4XX if status // 100 == 4 else _UNKNOWN), "unknown_status"


def _wait(row: _Row, headers: Mapping[str, str], body: Any) -> float | None:
    now = parse_http_date(headers.get("date")) or time.time()  # its own clock first: ours may differ
    parameters = body.get("parameters") if isinstance(body, Mapping) else None  # Telegram's
    named = parameters.get("retry_after") if isinstance(parameters, Mapping) else None
    asked = parse_retry_after(headers.get("retry-after") or str(named), now)
    wait = row.wait if asked is None else asked
    return None if wait is None else max(wait, row.at_least)


def _parts(value: Any, depth: int = 4) -> Iterator[Mapping[str, Any]]:
    """The objects in which a service may put its code, outermost first; a hostile body may nest without end."""
    if isinstance(value, list) and depth:
        for item in value:
            yield from _parts(item, depth - 1)
    elif isinstance(value, Mapping) and depth:
        yield value
        for key in ("detail", "error", "errors", "details"):
            yield from _parts(value.get(key), depth - 1)


def _codes(status: int, body: Any, secrets: Collection[str]) -> list[str]:
    """Every name that the body gives the error, and `field:<name>` for the fields it refuses."""
    parts = list(_parts(body))
    names = [scrub(str(part[key]), secrets) for part in parts for key in _KEYS if type(part.get(key)) in (str, int)]
    codes = [name for name in names if name != str(status) and _CODE.fullmatch(name)]
    if status in (400, 422):
        fields = (name for part in parts for name in (str(part.get("param")), *_items(part.get("loc"))))
        codes += [f"field:{piece}" for name in fields for piece in name.split(".")]
    if status == 429 and "daily" in _text(body).lower():
        codes.append("daily")
    return codes


def _items(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _text(body: Any) -> str:
    """What the service says to a person."""
    if isinstance(body, str):
        return re.sub(r"<[^<>]*>", " ", body)
    for part in _parts(body):
        for key in _TEXTS:
            if isinstance(text := part.get(key), str) and text:
                return ": ".join([*filter(None, [".".join(_items(part.get("loc")))]), text])
    return ""


def _message(service: str, status: int, code: str, body: Any, secrets: Collection[str]) -> str:
    text = quoted(_text(body), secrets, numbers=True)
    head = f"{display_name(service)} answered {status}" + ("" if code == f"http_{status}" else f" ({code})")
    return head + (f": {text}" if text else "")
