"""The answer rows of the error table: one case a row and body shape, each for a dial and for everything else."""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

import pytest

from resilience.errors import (
    InDoubtError,
    PermanentError,
    Scope,
    Sent,
    ServiceError,
    ThrottledError,
    TransientError,
    parse_retry_after,
)
from services.classification import classify

NO, UNKNOWN = Sent.NO, Sent.UNKNOWN
QUOTA = {"detail": {"status": "quota_exceeded", "message": "This request exceeds your quota of 10000"}}
UNAUTHORIZED = {"detail": {"code": "unauthorized", "status": "invalid_api_key", "message": "Invalid API key"}}
BOUNCED = "<html><head><title>Bad Gateway</title></head></html>"


def detail(code: str, **more: str) -> dict[str, Any]:
    """ElevenLabs' own shape."""
    return {"detail": {"type": "some_type", "code": code, "message": "What happened.", **more}}


def refused_field(*loc: str) -> dict[str, Any]:
    """FastAPI's shape for a body that does not validate."""
    return {"detail": [{"type": "value_error", "loc": ["body", *loc], "msg": "is not valid"}]}


def openai(kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": "What happened.", "type": kind, "code": code, "param": None}}


def hubspot(policy: str) -> dict[str, Any]:
    return {"status": "error", "errorType": "RATE_LIMIT", "policyName": policy, "message": "limit"}


def salesforce(code: str) -> list[dict[str, Any]]:
    return [{"message": "What happened.", "errorCode": code, "fields": []}]


def google(reason: str) -> dict[str, Any]:
    errors = [{"domain": "usageLimits", "reason": reason, "message": "What happened."}]
    return {"error": {"code": 403, "message": "What happened.", "status": "PERMISSION_DENIED", "errors": errors}}


def twilio(code: int) -> dict[str, Any]:
    return {"code": code, "message": "What happened.", "more_info": "https://www.twilio.com/docs", "status": 400}


@dataclass(frozen=True)
class Want:
    """All that an error says, but for its text."""

    kind: type[ServiceError]
    code: str
    sent: Sent = NO
    counts: bool = False
    alive: bool = False
    scope: Scope = Scope.SERVICE
    wait: float | None = None
    named: bool = True


def opened(code: str) -> Want:
    return Want(PermanentError, code, named=False)


def held(code: str, *, alive: bool = False) -> Want:
    return Want(PermanentError, code, alive=alive)


def contact(code: str, *, alive: bool = True) -> Want:
    return Want(PermanentError, code, alive=alive, scope=Scope.CONTACT)


def throttled(code: str, wait: float | None = None) -> Want:
    return Want(ThrottledError, code, alive=True, wait=wait)


def sick(code: str) -> Want:
    return Want(TransientError, code, UNKNOWN, counts=True)


def doubt(code: str, *, counts: bool = True, alive: bool = False) -> Want:
    return Want(InDoubtError, code, UNKNOWN, counts=counts, alive=alive)


def same(want: Want | None) -> tuple[Want | None, Want | None]:
    return want, want


UNHEARD = Want(PermanentError, "unknown_status", UNKNOWN, counts=True, named=False)
Case = tuple[str, int, Any, tuple[Want | None, Want | None]]
CASES: list[Case] = [
    ("1 quota as 401", 401, QUOTA, same(held("quota_exceeded"))),
    ("1 credits as 402", 402, detail("insufficient_credits"), same(held("insufficient_credits"))),
    ("1 quota as 429", 429, openai("insufficient_quota"), same(held("insufficient_quota"))),
    ("1 balance", 429, openai("x", "credit_balance_exhausted"), same(held("credit_balance_exhausted"))),
    ("1 spend limit", 429, openai("x", "project_spend_limit_exceeded"), same(held("project_spend_limit_exceeded"))),
    ("1 enforced spend limit, nested", 429,
     {"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}},
     same(held("enforced_spend_limit_reached"))),
    ("1 billing as 400", 400, openai("billing_error"), same(held("billing_error"))),
    ("1 in a 200", 200, openai("insufficient_quota"), same(held("insufficient_quota"))),
    ("1 bare 402", 402, "", same(held("http_402"))),
    ("2 code and legacy status", 401, UNAUTHORIZED, same(held("invalid_api_key"))),
    ("2 type", 401, {"detail": {"type": "authentication_error", "message": "no"}}, same(held("authentication_error"))),
    ("2 Twilio", 401, twilio(20003), same(held("20003"))),
    ("2 Salesforce session", 401, salesforce("INVALID_SESSION_ID"), same(held("INVALID_SESSION_ID"))),
    ("2 OAuth grant as 400", 400, {"error": "invalid_grant", "error_description": "no"}, same(held("invalid_grant"))),
    ("2 bare 401", 401, "", same(opened("http_401"))),
    ("2 a 401 with a code that nobody knows", 401, detail("blocked"), same(opened("blocked"))),
    ("2 bare 407", 407, BOUNCED, same(opened("http_407"))),
    ("3 scope", 403, detail("insufficient_permissions"), same(held("insufficient_permissions"))),
    ("3 scope as 401", 401, detail("missing_permissions"), same(held("missing_permissions"))),
    ("3 bare 403", 403, BOUNCED, same(opened("http_403"))),
    ("3 plan", 403, detail("subscription_required"), same(held("subscription_required"))),
    ("3 Salesforce limit is no auth error", 403, salesforce("REQUEST_LIMIT_EXCEEDED"),
     same(throttled("REQUEST_LIMIT_EXCEEDED"))),
    ("3 Google limit is no auth error", 403, google("userRateLimitExceeded"), same(throttled("usageLimits"))),
    ("3 Google API that is switched off", 403, google("accessNotConfigured"),
     same(held("accessNotConfigured", alive=True))),
    ("4 phone in a list", 422, refused_field("to_number"), same(contact("value_error"))),
    ("4 variables in a list", 422,
     refused_field("conversation_initiation_client_data", "dynamic_variables", "name"), same(contact("value_error"))),
    ("4 phone as param", 400, detail("invalid_value", param="to_number"), same(contact("invalid_value"))),
    ("4 Twilio 21211", 400, twilio(21211), same(contact("21211"))),
    ("4 Twilio 13224", 400, twilio(13224), same(contact("13224"))),
    ("5 agent", 404, detail("agent_not_found"), same(held("agent_not_found", alive=True))),
    ("5 agent in the legacy status", 404, {"detail": {"status": "agent_not_found"}},
     same(held("agent_not_found", alive=True))),
    ("5 provider", 400, detail("invalid_provider_config"), same(held("invalid_provider_config", alive=True))),
    ("5 model", 404, openai("invalid_request_error", "model_not_found"), same(held("model_not_found", alive=True))),
    ("5 no key at all", 404, detail("workspace_not_found"), same(held("workspace_not_found", alive=True))),
    ("5 agent in a list", 422, refused_field("agent_id"), same(held("value_error", alive=True))),
    ("5 geo permission", 400, twilio(21215), same(held("21215", alive=True))),
    *((f"6 bare {n}", n, BOUNCED, same(contact(f"http_{n}"))) for n in (400, 404, 405, 410, 413, 415, 422)),
    ("6 detail as a string", 404, {"detail": "Not Found"}, same(contact("http_404"))),
    ("7", 408, "", (sick("http_408"), doubt("http_408"))),
    ("8", 409, detail("already_running"),
     (Want(TransientError, "already_running", UNKNOWN, alive=True),
      doubt("already_running", counts=False, alive=True))),
    ("8 what exists already is as good", 409, detail("resource_already_exists"),
     (None, doubt("resource_already_exists", counts=False, alive=True))),
    *((f"9 {n}", n, "", (Want(TransientError, f"http_{n}", alive=True, wait=2.0), throttled(f"http_{n}", 2.0)))
      for n in (423, 425, 477)),
    ("9 Salesforce lock", 400, salesforce("UNABLE_TO_LOCK_ROW"),
     (Want(TransientError, "UNABLE_TO_LOCK_ROW", alive=True, wait=2.0), throttled("UNABLE_TO_LOCK_ROW", 2.0))),
    ("10", 429, detail("concurrent_limit_exceeded"), same(throttled("concurrent_limit_exceeded"))),
    ("10 legacy", 429, {"detail": {"status": "too_many_concurrent_requests"}},
     same(throttled("too_many_concurrent_requests"))),
    ("10 Twilio", 429, twilio(10004), same(throttled("10004"))),
    ("11", 429, detail("rate_limit_exceeded"), same(throttled("rate_limit_exceeded"))),
    ("11 slow_down as 503", 503, openai("x", "slow_down"), same(throttled("slow_down"))),
    ("11 HubSpot second", 429, hubspot("SECONDLY"), same(throttled("SECONDLY", 1.0))),
    ("11 HubSpot ten seconds", 429, hubspot("TEN_SECONDLY_ROLLING"), same(throttled("TEN_SECONDLY_ROLLING", 10.0))),
    ("11 Telegram", 429, {"ok": False, "error_code": 429, "description": "Too Many", "parameters": {"retry_after": 7}},
     same(throttled("http_429", 7.0))),
    ("11 bare 429", 429, BOUNCED, same(throttled("http_429"))),
    ("12 HubSpot day", 429, hubspot("DAILY"), same(throttled("DAILY", 3600.0))),
    ("12 Pipedrive day", 429, {"success": False, "error": "Daily budget is used"}, same(throttled("daily", 3600.0))),
    ("13", 429, detail("system_busy"), same(Want(ThrottledError, "system_busy", counts=True))),
    *((f"14 {n}", n, BOUNCED, (sick(f"http_{n}"), doubt(f"http_{n}"))) for n in (500, 502, 504, 520, 522, 524)),
    ("14 Twilio", 500, twilio(20500), (sick("20500"), doubt("20500"))),
    ("15", 503, detail("maintenance"), same(Want(TransientError, "maintenance", counts=True))),
    ("15 overloaded", 529, openai("overloaded_error"), same(Want(TransientError, "overloaded_error", counts=True))),
    ("25", 200, {"success": False, "message": "Twilio is down", "conversation_id": None},
     (None, doubt("success_false"))),
    ("25 about the number", 200, {"success": False, "message": "Invalid 'To' Phone Number: +14155550100"},
     (None, contact("success_false"))),
    ("25 about our own number", 200, {"success": False, "message": "The source phone number is not yet verified"},
     (None, doubt("success_false"))),
    ("25 with a code", 200, {"success": False, **detail("agent_not_found")},
     (None, held("agent_not_found", alive=True))),
    ("27 HTML by its status", 502, BOUNCED, (sick("http_502"), doubt("http_502"))),
    ("good", 200, {"success": True, "conversation_id": "c1"}, same(None)),
    ("good without a body", 204, "", same(None)),
    ("unknown 4xx", 418, "", same(contact("unknown_status", alive=False))),
    ("unknown 5xx", 599, "", (UNHEARD, replace(doubt("unknown_status"), named=False))),
    ("redirect", 301, "", same(opened("redirect"))),
    ("redirect after the work", 303, "",
     (UNHEARD, replace(doubt("unknown_status"), named=False))),
]  # fmt: skip


@pytest.mark.parametrize("dial", [False, True], ids=["rest", "dial"])
@pytest.mark.parametrize(("status", "body", "wants"), [pytest.param(*c[1:], id=c[0]) for c in CASES])
def test_an_answer_is_classified_by_the_first_row_that_matches(
    status: int, body: Any, wants: tuple[Want | None, Want | None], dial: bool
) -> None:
    error = classify(status, body, {}, service="elevenlabs", dial=dial)

    assert error is None or error.status == status
    seen = error and Want(
        type(error), error.code, error.sent, error.counts, error.alive, error.scope, error.retry_after, error.named
    )
    assert seen == wants[dial]


@pytest.mark.parametrize(
    ("status", "body", "header", "wait"),
    [
        pytest.param(503, "", "120", 120.0, id="seconds"),
        pytest.param(503, "", "1.5", 1.5, id="a fraction"),
        pytest.param(503, "", "soon", None, id="neither a number nor a date"),
        pytest.param(503, "", "nan", None, id="not a number"),
        pytest.param(503, "", "-3", 0.0, id="less than nothing"),
        pytest.param(503, "", "9" * 400, 86_400.0, id="longer than a day"),
        pytest.param(423, "", "1", 2.0, id="a lock waits 2 s at least"),
        pytest.param(423, "", "30", 30.0, id="a lock waits longer if asked"),
        pytest.param(429, hubspot("DAILY"), "60", 60.0, id="a day's limit that ends soon"),
        pytest.param(401, "", "60", None, id="a dead key does not come back"),
    ],
)
def test_a_retry_after_header_is_kept_in_seconds(status: int, body: Any, header: str, wait: float | None) -> None:
    error = classify(status, body, {"retry-AFTER": header}, service="crm")

    assert error is not None
    assert error.retry_after == wait


def test_a_retry_after_date_is_counted_by_the_clock_that_wrote_it() -> None:
    wrong_clock = {"Date": formatdate(1_000_000, usegmt=True), "Retry-After": formatdate(1_000_090, usegmt=True)}
    our_clock = {"Retry-After": formatdate(time.time() + 90, usegmt=True)}

    by_theirs = classify(503, "", wrong_clock, service="crm")
    by_ours = classify(503, "", our_clock, service="crm")

    assert by_theirs is not None
    assert by_theirs.retry_after == 90.0
    assert by_ours is not None
    assert by_ours.retry_after == pytest.approx(90, abs=2)


@pytest.mark.parametrize("value", ["0 Jan 0 0:2200000000 0", "30 Feb 2030 00:00:00 GMT", "", "\x00", None])
def test_a_date_that_no_calendar_knows_is_no_date(value: str | None) -> None:
    assert parse_retry_after(value, 0.0) is None


def test_the_message_says_who_answered_what_and_why() -> None:
    error = classify(503, detail("service_unavailable"), {"Request-Id": "req-1"}, service="elevenlabs")

    assert str(error) == "ElevenLabs answered 503 (service_unavailable): What happened."
    assert error is not None
    assert error.request_id == "req-1"


def test_the_message_names_the_refused_field_but_not_its_value() -> None:
    body = {"detail": [{"type": "value_error", "loc": ["body", "to_number"], "msg": "bad", "input": "+14155550100"}]}

    assert str(classify(422, body, {}, service="elevenlabs")).endswith("(value_error): body.to_number: bad")


@pytest.mark.parametrize("phone", ["+14155550100", "14155550100", "+1 (415) 555-0100", "415.555.0100", "5550100"])
def test_the_message_hides_phone_numbers(phone: str) -> None:
    error = classify(400, {"detail": f"{phone} is not valid, 10000 of 20000 used"}, {}, service="elevenlabs")

    assert "[number] is not valid, 10000 of 20000 used" in str(error)


def test_a_phone_number_is_not_taken_for_a_code() -> None:
    error = classify(400, {"code": "+14155550100", "status": "14155550100", "type": 14155550100}, {}, service="crm")

    assert error is not None
    assert error.code == "http_400"


def test_the_message_is_one_line_of_bounded_length() -> None:
    error = classify(500, "<p>one\n\ttwo\x1b[31m</p>" + "x" * 5000, {}, service="crm")

    assert str(error).startswith("The CRM answered 500: one two [31m x")
    assert len(str(error)) < 250
    assert str(error).isprintable()


@pytest.mark.parametrize(
    "body",
    [None, 7, True, [], {}, [[]], {"detail": []}, {"detail": [None, 7]}, {"error": None}, {"error": {"code": None}},
     {"parameters": 7}, {"detail": {"detail": {"detail": {"detail": {"detail": {"code": "quota_exceeded"}}}}}}],
)  # fmt: skip
def test_a_body_of_any_shape_is_judged_by_its_status(body: Any) -> None:
    error = classify(503, body, {}, service="crm", dial=True)

    assert type(error) is TransientError
    assert error.code == "http_503"


def test_an_error_survives_the_way_between_processes() -> None:
    error = classify(503, detail("maintenance"), {"Retry-After": "9"}, service="elevenlabs")

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), vars(copy), str(copy)) == (TransientError, vars(error), str(error))


@pytest.mark.parametrize(
    ("body", "names"), [(refused_field("to_number"), True), (twilio(21211), True), (refused_field("other"), False)]
)
def test_only_a_refusal_of_the_contact_s_own_data_names_the_contact(body: Any, names: bool) -> None:
    error = classify(422, body, {}, service="elevenlabs", dial=True)

    assert error is not None
    assert error.names_contact is names
