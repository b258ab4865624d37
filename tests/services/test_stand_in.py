"""The stand-in fails as asked, and its ground truth does not depend on its answers."""

from __future__ import annotations

import json
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
import requests

from demo.sinks import SmtpSink
from demo.stand_in import StandIn
from tests.support import ROOT, wait_until

KEY = {"xi-api-key": "test"}
CONVERSATIONS, SUBSCRIPTION = "/v1/convai/conversations", "/v1/user/subscription"
PHONE = "+14155550123"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as server:
        yield server


@pytest.fixture
def smtp(stand_in: StandIn) -> Iterator[SmtpSink]:
    with SmtpSink(stand_in.alerts, stand_in.faults) as sink:
        yield sink


def dial(stand_in: StandIn, call: str = "spring:1", number: str = PHONE, timeout: float = 5) -> requests.Response:
    data = {"user_id": call, "dynamic_variables": {"attempt_id": f"{call}:1"}}
    body = {"agent_id": "a", "agent_phone_number_id": "p", "to_number": number}
    body["conversation_initiation_client_data"] = data  # type: ignore[assignment]
    url = f"{stand_in.url}/v1/convai/twilio/outbound-call"
    with requests.Session() as session:
        return session.post(url, json=body, headers=KEY, timeout=timeout)


def get(stand_in: StandIn, path: str, **query: Any) -> requests.Response:
    with requests.Session() as session:
        return session.get(stand_in.url + path, params=query, headers=KEY, timeout=5)


def post(stand_in: StandIn, path: str, body: dict[str, Any], **headers: str) -> requests.Response:
    with requests.Session() as session:
        return session.post(stand_in.url + path, json=body, headers=headers, timeout=5)


def send_mail(smtp: SmtpSink) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"], message["Message-ID"] = "a@x.y", "b@x.y", "Down", "<1@x.y>"
    message.set_content("ElevenLabs is down.")
    with smtplib.SMTP(smtp.hostname, smtp.port, timeout=5) as client:
        client.send_message(message)


def test_a_good_dial_rings_and_is_found_again(stand_in: StandIn) -> None:
    answer = dial(stand_in).json()

    (rang,) = stand_in.rang
    listed = get(stand_in, CONVERSATIONS, user_id="spring:1").json()
    found = get(stand_in, f"{CONVERSATIONS}/{rang.conversation_id}").json()
    assert answer["success"] is True
    assert answer["callSid"]
    assert answer["conversation_id"] == rang.conversation_id
    assert rang[:2] == ("spring:1", "spring:1:1")
    assert [each["conversation_id"] for each in listed["conversations"]] == [rang.conversation_id]
    assert found["user_id"] == "spring:1"
    assert found["conversation_initiation_client_data"]["dynamic_variables"] == {"attempt_id": "spring:1:1"}


@pytest.mark.parametrize(
    ("kind", "status", "word"),
    [
        ("unavailable", 503, "service_unavailable"),
        ("internal_error", 500, "internal_error"),
        ("rate_limited", 429, "rate_limit_exceeded"),
        ("concurrency_exceeded", 429, "concurrent_limit_exceeded"),
        ("invalid_api_key", 401, "invalid_api_key"),
        ("invalid_api_key_legacy", 401, "invalid_api_key"),
        ("quota_exceeded", 401, "quota_exceeded"),
        ("quota_exceeded_legacy", 401, "quota_exceeded"),
        ("insufficient_credits", 402, "insufficient_credits"),
        ("refused", 403, "insufficient_permissions"),
        ("agent_not_found", 404, "agent_not_found"),
    ],
)
def test_a_refusal_is_answered_and_nothing_rings(stand_in: StandIn, kind: str, status: int, word: str) -> None:
    stand_in.fault("elevenlabs", "dial", kind, count=1)

    answer = dial(stand_in)

    detail = answer.json()["detail"]
    assert (answer.status_code, detail["status"]) == (status, word)
    assert ("code" in detail) is not kind.endswith("_legacy")
    assert answer.headers.get("Retry-After") == ("1" if status == 429 else None)
    assert stand_in.rang == []
    assert [logged.answer for logged in stand_in.requests] == [str(status)]


def test_a_503_carries_retry_after_when_seconds_are_given(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "unavailable", seconds=6.5)

    assert dial(stand_in).headers["Retry-After"] == "7"


@pytest.mark.parametrize("fault", ["invalid_number", None])
def test_a_bad_number_is_refused_with_the_list_shape(stand_in: StandIn, fault: str | None) -> None:
    if fault:
        stand_in.fault("elevenlabs", "dial", fault, count=1)

    answer = dial(stand_in, number=PHONE if fault else "555")

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "to_number"]
    assert stand_in.rang == []


def test_success_false_is_a_200_and_nothing_rings(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "success_false", count=1)

    answer = dial(stand_in)

    assert answer.status_code == 200
    assert (answer.json()["success"], answer.json()["conversation_id"]) == (False, None)
    assert stand_in.rang == []


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_after_the_accept_has_rung(stand_in: StandIn, status: int) -> None:
    stand_in.fault("elevenlabs", "dial", f"accept_then_{status}", count=1)

    answer = dial(stand_in)

    assert answer.status_code == status
    assert [rang.attempt_id for rang in stand_in.rang] == ["spring:1:1"]


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        ("accept_then_fin", "RemoteDisconnected"),
        ("accept_then_rst", "ConnectionResetError"),
        ("accept_then_silence", "Read timed out"),
        ("accept_then_truncated", "IncompleteRead"),
    ],
)
def test_an_answer_lost_after_the_accept_has_rung(stand_in: StandIn, kind: str, seen: str) -> None:
    stand_in.fault("elevenlabs", "dial", kind, count=1)

    with pytest.raises(requests.RequestException, match=seen):
        dial(stand_in, timeout=0.2)

    wait_until(lambda: len(stand_in.requests) == 1, what="the dial was logged")
    assert [rang.call_id for rang in stand_in.rang] == ["spring:1"]
    assert [logged.answer for logged in stand_in.requests] == [kind.removeprefix("accept_then_")]


def test_silence_with_seconds_ends_in_a_hang_up(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "accept_then_silence", count=1, seconds=0.01)

    with pytest.raises(requests.ConnectionError, match="RemoteDisconnected"):
        dial(stand_in)


def test_a_200_that_is_not_json_has_rung(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "accept_then_not_json", count=1)

    answer = dial(stand_in)

    assert answer.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    assert len(stand_in.rang) == 1


def test_a_connection_closed_before_the_body_was_read_has_not_rung(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "closed_unread", count=1)
    host, port = stand_in.url.removeprefix("http://").split(":")
    head = b"POST /v1/convai/twilio/outbound-call HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"

    with socket.create_connection((host, int(port)), timeout=5) as client:
        client.sendall(head)
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    assert stand_in.rang == []
    assert [logged.answer for logged in stand_in.requests] == ["unread"]


def test_slow_rings_at_once_and_answers_late(stand_in: StandIn) -> None:
    stand_in.fault("elevenlabs", "dial", "slow", count=1, seconds=0.05)
    stand_in.fault("elevenlabs", "dial", "slow", count=1, seconds=60)

    began = time.monotonic()
    answer = dial(stand_in)
    took = time.monotonic() - began
    with pytest.raises(requests.ReadTimeout):
        dial(stand_in, "spring:2", timeout=0.1)

    assert answer.json()["success"] is True
    assert took >= 0.05
    wait_until(lambda: len(stand_in.rang) == 2, what="both calls rang")


def test_a_lagging_list_shows_a_call_only_later(stand_in: StandIn) -> None:
    dial(stand_in)
    stand_in.fault("elevenlabs", "conversations", "list_lag", count=1, seconds=60)
    stand_in.fault("elevenlabs", "conversations", "list_lag", count=1, seconds=1e-9)

    pages = [get(stand_in, CONVERSATIONS).json()["conversations"] for _ in range(2)]

    assert [len(page) for page in pages] == [0, 1]


@pytest.mark.parametrize(("kind", "status"), [("internal_error", 500), ("invalid_api_key", 401)])
def test_the_list_breaks_alone(stand_in: StandIn, kind: str, status: int) -> None:
    stand_in.fault("elevenlabs", "conversations", kind, count=1)

    answers = [dial(stand_in), get(stand_in, CONVERSATIONS), get(stand_in, CONVERSATIONS)]

    assert [answer.status_code for answer in answers] == [200, status, 200]


def test_the_list_filters_and_pages_newest_first(stand_in: StandIn) -> None:
    for call in ("spring:1", "spring:2", "spring:1", "spring:1"):
        dial(stand_in, call)
    mine = [rang.conversation_id for rang in stand_in.rang if rang.call_id == "spring:1"]
    started = int(stand_in.rang[0].time)

    first = get(stand_in, CONVERSATIONS, user_id="spring:1", page_size=2, call_start_after_unix=started - 1).json()
    last = get(stand_in, CONVERSATIONS, user_id="spring:1", page_size=2, cursor=first["next_cursor"]).json()
    future = get(stand_in, CONVERSATIONS, call_start_after_unix=started + 60).json()

    assert [each["conversation_id"] for each in first["conversations"] + last["conversations"]] == mine[::-1]
    assert (first["has_more"], last["has_more"], last["next_cursor"]) == (True, False, None)
    assert future["conversations"] == []


def test_bad_requests_are_refused_as_the_provider_would(stand_in: StandIn) -> None:
    without_key = requests.get(stand_in.url + SUBSCRIPTION, timeout=5)
    without_agent = post(stand_in, "/v1/convai/twilio/outbound-call", {}, **KEY)
    bad_page = get(stand_in, CONVERSATIONS, page_size="many")
    unknown = get(stand_in, f"{CONVERSATIONS}/nothing")
    nowhere = get(stand_in, "/nowhere")

    answers = without_key, without_agent, bad_page, unknown, nowhere
    assert [answer.status_code for answer in answers] == [401, 422, 422, 404, 404]


def test_the_other_services_answer(stand_in: StandIn) -> None:
    assert get(stand_in, SUBSCRIPTION).json()["status"] == "active"
    assert get(stand_in, "/models").json()["data"]
    assert get(stand_in, "/crm/v3/objects/contacts").json() == {"results": []}
    assert post(stand_in, "/chat/completions", {}).json()["choices"][0]["message"]["content"]
    assert post(stand_in, "/crm/v3/objects/calls", {"properties": {"attempt_id": "spring:1:1"}}).status_code == 201
    assert stand_in.requests[-1].call_id == "spring:1"


@pytest.mark.parametrize(
    ("service", "endpoint", "path", "shown"),
    [
        ("crm", "contacts", "/crm/v3/objects/contacts", {"errorType": "RATE_LIMIT"}),
        ("llm", "models", "/models", {"error": {"code": "rate_limit_exceeded"}}),
    ],
)
def test_each_service_words_its_errors_its_own_way(
    stand_in: StandIn, service: str, endpoint: str, path: str, shown: dict[str, Any]
) -> None:
    stand_in.fault(service, endpoint, "rate_limited", count=1, seconds=2)

    answer = get(stand_in, path)

    ((name, value),) = shown.items()
    shown = answer.json()[name]
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
    assert (shown if isinstance(value, str) else {key: shown[key] for key in value}) == value


def test_a_script_runs_before_a_standing_fault_and_a_mix_comes_last(stand_in: StandIn) -> None:
    stand_in.mix("elevenlabs", "*", {"agent_not_found": 1})
    stand_in.fault("elevenlabs", "*", "invalid_api_key")
    stand_in.fault("elevenlabs", "dial", "unavailable", count=2)
    stand_in.fault("elevenlabs", "dial", "rate_limited", count=1)

    scripted = [dial(stand_in).status_code for _ in range(5)]
    stand_in.recover("elevenlabs")
    stand_in.mix("elevenlabs", "*", {"agent_not_found": 1})

    assert scripted == [503, 503, 429, 401, 401]
    assert dial(stand_in).status_code == 404


def test_a_mix_repeats_with_its_seed(stand_in: StandIn) -> None:
    runs = []
    for _ in range(2):
        stand_in.mix("elevenlabs", "dial", {"ok": 1, "unavailable": 1}, seed=7)
        runs.append([stand_in.faults.take("elevenlabs", "dial").name for _ in range(20)])

    assert runs[0] == runs[1]
    assert set(runs[0]) == {"ok", "unavailable"}


def test_an_outage_takes_all_of_one_service_until_it_recovers(stand_in: StandIn) -> None:
    stand_in.outage("elevenlabs")

    down = [dial(stand_in).status_code, get(stand_in, SUBSCRIPTION).status_code, get(stand_in, "/models").status_code]
    stand_in.recover("elevenlabs")

    assert down == [503, 503, 200]
    assert dial(stand_in).status_code == 200


def test_the_control_plane_sets_faults_and_shows_the_truth(stand_in: StandIn) -> None:
    fault = {"service": "elevenlabs", "endpoint": "dial", "kind": "accept_then_500", "count": 1, "seconds": 0}
    ready = get(stand_in, "/_control/ready").status_code
    post(stand_in, "/_control/fault", fault)
    post(stand_in, "/_control/outage", {"service": "crm"})
    answers = [dial(stand_in).status_code, get(stand_in, "/crm/v3/objects/contacts").status_code]
    post(stand_in, "/_control/recover", {"service": "crm"})
    answers.append(get(stand_in, "/crm/v3/objects/contacts").status_code)

    shown = get(stand_in, "/_control/requests")
    rang = get(stand_in, "/_control/rang").json()["rang"]

    assert ready == 200
    assert answers == [500, 503, 200]
    assert [row["answer"] for row in shown.json()["requests"]] == ["500", "503", "200"]
    assert [row["attempt_id"] for row in rang] == ["spring:1:1"]
    assert PHONE not in shown.text


@pytest.mark.parametrize(
    "body",
    [
        {"service": "nobody", "endpoint": "dial", "kind": "ok"},
        {"service": "crm", "endpoint": "dial", "kind": "ok"},
        {"service": "crm", "endpoint": "calls", "kind": "earthquake"},
        {"service": "crm", "what": 1},
    ],
)
def test_a_control_request_that_names_nothing_known_is_refused(stand_in: StandIn, body: dict[str, Any]) -> None:
    assert post(stand_in, "/_control/fault", body).status_code == 400
    assert post(stand_in, "/_control/nothing", {}).status_code == 404


def test_alerts_are_recorded_by_channel(stand_in: StandIn, smtp: SmtpSink) -> None:
    send_mail(smtp)
    telegram = post(stand_in, "/botSECRET/sendMessage", {"chat_id": 1, "text": "Down\nmore"}).json()
    post(stand_in, "/webhook", {"subject": "Down"}, **{"webhook-id": "alert-1", "webhook-signature": "v1,x"})

    alerts = get(stand_in, "/_control/alerts").json()

    (mail,), (message,), (hook,) = alerts["mails"], alerts["telegrams"], alerts["webhooks"]
    assert telegram["ok"] is True
    assert (mail["subject"], mail["text"].strip(), mail["alert_id"]) == ("Down", "ElevenLabs is down.", "<1@x.y>")
    assert (message["subject"], message["text"]) == ("Down", "Down\nmore")
    assert (hook["alert_id"], hook["headers"]["webhook-signature"]) == ("alert-1", "v1,x")
    assert "SECRET" not in get(stand_in, "/_control/requests").text


def test_alert_channels_break_too(stand_in: StandIn, smtp: SmtpSink) -> None:
    stand_in.fault("telegram", "send_message", "rate_limited", count=1, seconds=3)
    stand_in.fault("webhook", "post", "internal_error", count=1)
    stand_in.fault("smtp", "mail", "refused", count=1)
    stand_in.fault("smtp", "mail", "unavailable")

    telegram = post(stand_in, "/botX/sendMessage", {"chat_id": 1, "text": "Down"})
    webhook = post(stand_in, "/webhook", {})
    codes = []
    for _ in range(2):
        with pytest.raises(smtplib.SMTPDataError) as refusal:
            send_mail(smtp)
        codes.append(refusal.value.smtp_code)

    assert (telegram.status_code, telegram.json()["parameters"]) == (429, {"retry_after": 3})
    assert webhook.status_code == 500
    assert codes == [550, 451]
    assert (stand_in.alerts.mails, stand_in.alerts.telegrams, stand_in.alerts.webhooks) == ([], [], [])


def test_nothing_outlives_a_stand_in_that_was_holding_a_caller() -> None:
    before = threading.active_count()
    with StandIn() as stand_in, requests.Session() as session:
        session.get(stand_in.url + "/models", timeout=5)
        stand_in.fault("elevenlabs", "dial", "accept_then_silence", count=1)
        with pytest.raises(requests.ReadTimeout):
            dial(stand_in, timeout=0.05)

    assert threading.active_count() == before


def test_the_process_says_where_it_listens_and_ends_on_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-m", "demo.stand_in"], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        line = json.loads(process.stdout.readline())
        ready = requests.get(f"{line['url']}/_control/ready", timeout=5).status_code
        with smtplib.SMTP(line["env"]["SMTP_HOST"], int(line["env"]["SMTP_PORT"]), timeout=5) as client:
            greeted = client.noop()[0]
        process.send_signal(signal.SIGTERM)

        assert process.wait(5) == 0
    assert (ready, greeted) == (200, 250)


def test_a_taken_port_is_told_without_a_traceback(stand_in: StandIn) -> None:
    port = stand_in.url.rpartition(":")[2]
    command = [sys.executable, "-m", "demo.stand_in", "--port", port]

    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10, cwd=ROOT)

    assert ended.returncode == 1
    assert ended.stderr.startswith("The stand-in cannot listen on 127.0.0.1")
