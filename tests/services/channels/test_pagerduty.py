"""The PagerDuty channel against an HTTP server on loopback that answers as the Events API v2 does."""

from __future__ import annotations

import socket
import traceback
from dataclasses import replace
from typing import Any

import pytest

from resilience.errors import PermanentError, ServiceError, ThrottledError, TransientError
from services.channels.pagerduty import PagerDuty
from tests.services.channels.alert import DOWN

KEY = "R0123456789abcdef0123456789abcde"
ALERT = replace(DOWN, text="3 calls wait. Grüße", data={"since": "2026-01-31T23:59:00Z", "waiting": 3})
TAKEN = {"status": "success", "message": "Event processed", "dedup_key": ALERT.key}
INVALID = {"status": "invalid event", "message": "Event object is invalid", "errors": ["no summary", f"bad key {KEY}"]}


@pytest.fixture
def pagerduty(alert_receiver: Any, alert_reply: Any) -> PagerDuty:
    alert_receiver.replies = [alert_reply(202, TAKEN)]
    return PagerDuty(KEY, f"{alert_receiver.url}/", timeout=(2, 2))


def test_a_firing_alert_triggers_an_incident(pagerduty: PagerDuty, alert_receiver: Any) -> None:
    pagerduty.send(ALERT)

    (arrival,) = alert_receiver.arrivals
    assert arrival.path == "/v2/enqueue"
    assert arrival.headers["content-type"] == "application/json"
    assert arrival.body == {
        "routing_key": KEY,
        "event_action": "trigger",
        "dedup_key": "elevenlabs:service_down",
        "client": "Lineman",
        "payload": {
            "summary": "ElevenLabs is down",
            "source": "lineman",
            "severity": "critical",
            "component": "elevenlabs",
            "class": "service_down",
            "custom_details": {"since": "2026-01-31T23:59:00Z", "waiting": 3, "text": "3 calls wait. Grüße"},
        },
    }


def test_a_resolved_alert_resolves_the_incident_that_it_triggered(pagerduty: PagerDuty, alert_receiver: Any) -> None:
    pagerduty.send(ALERT)
    pagerduty.send(replace(ALERT, id="8-resolved", status="resolved", severity="info", kind="resolved"))

    trigger, resolve = (arrival.body for arrival in alert_receiver.arrivals)
    assert resolve == {"routing_key": KEY, "event_action": "resolve", "dedup_key": trigger["dedup_key"]}


def test_a_message_without_a_state_is_a_trigger_of_severity_info(pagerduty: PagerDuty, alert_receiver: Any) -> None:
    pagerduty.send(replace(ALERT, status="info", severity="info", service="", kind="test"))

    body = alert_receiver.arrivals[0].body
    assert body["event_action"] == "trigger"
    assert (body["payload"]["severity"], body["payload"]["component"]) == ("info", "lineman")


def test_a_summary_and_a_key_that_are_too_long_are_cut(pagerduty: PagerDuty, alert_receiver: Any) -> None:
    pagerduty.send(replace(ALERT, key="k" * 300, subject="s" * 2000))

    body = alert_receiver.arrivals[0].body
    assert body["dedup_key"] == "k" * 255
    assert len(body["payload"]["summary"]) == 1024
    assert body["payload"]["summary"].endswith("s\n[cut]")


def test_an_invalid_event_is_permanent_and_says_what_is_wrong_with_it(
    pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any
) -> None:
    alert_receiver.replies = [alert_reply(400, INVALID)]

    with pytest.raises(PermanentError) as caught:
        pagerduty.send(ALERT)

    assert caught.value.status == 400
    assert "Event object is invalid: no summary; bad key ***" in str(caught.value)


@pytest.mark.parametrize("body", ["", "<html>no</html>", [], {"errors": "no"}, {"message": None, "errors": [{"a": 1}]}])
def test_a_400_of_any_form_is_permanent(pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any, body: Any) -> None:
    alert_receiver.replies = [alert_reply(400, body)]

    with pytest.raises(PermanentError):
        pagerduty.send(ALERT)


def test_too_many_events_wait_as_long_as_pagerduty_says(
    pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any
) -> None:
    alert_receiver.replies = [alert_reply(429, {"message": "Rate limit exceeded"}, {"Retry-After": "30"})]

    with pytest.raises(ThrottledError) as caught:
        pagerduty.send(ALERT)

    assert (caught.value.service, caught.value.retry_after) == ("pagerduty", 30)


@pytest.mark.parametrize("status", [408, 500, 501, 502, 503, 504, 529])
def test_a_failure_of_pagerduty_is_transient(
    pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    alert_receiver.replies = [alert_reply(status, "<html>Bad Gateway</html>")]

    with pytest.raises(TransientError) as caught:
        pagerduty.send(ALERT)

    assert caught.value.status == status


@pytest.mark.parametrize("status", [301, 401, 403, 404, 413])
def test_a_refusal_is_permanent_and_no_redirect_is_followed(
    pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    alert_receiver.replies = [alert_reply(status, "", {"Location": f"{alert_receiver.url}/other"})]

    with pytest.raises(PermanentError) as caught:
        pagerduty.send(ALERT)

    assert caught.value.status == status
    assert len(alert_receiver.arrivals) == 1


@pytest.mark.parametrize("status", [200, 204])
def test_only_a_202_is_a_receipt(pagerduty: PagerDuty, alert_receiver: Any, alert_reply: Any, status: int) -> None:
    alert_receiver.replies = [alert_reply(status, "" if status == 204 else "<html>log in to this network</html>")]

    with pytest.raises(TransientError, match=f"answered {status}"):
        pagerduty.send(ALERT)


@pytest.mark.parametrize("answer", [{"silent": True}, {"hang_up": True}])
def test_no_answer_is_transient(alert_receiver: Any, alert_reply: Any, answer: dict[str, bool]) -> None:
    alert_receiver.replies = [alert_reply(**answer)]

    with pytest.raises(TransientError):
        PagerDuty(KEY, alert_receiver.url, timeout=(2, 0.2)).send(ALERT)


def test_a_server_out_of_reach_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(TransientError):
        PagerDuty(KEY, f"http://127.0.0.1:{port}", timeout=(2, 2)).send(ALERT)


@pytest.mark.parametrize("status", [202, 400, 403, 429, 500, None])
def test_the_routing_key_is_in_no_text(alert_receiver: Any, alert_reply: Any, status: int | None) -> None:
    echo = {"message": f"no service for {KEY}", "errors": [KEY], "routing_key": KEY}
    alert_receiver.replies = [alert_reply(status, echo, {"x-request-id": KEY}) if status else alert_reply(hang_up=True)]
    pagerduty = PagerDuty(KEY, alert_receiver.url)
    shown = repr(pagerduty)

    try:
        pagerduty.send(ALERT)
    except ServiceError as exc:
        shown += "".join(traceback.format_exception(exc)) + repr(vars(exc))

    assert KEY not in shown
