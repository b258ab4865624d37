"""The webhook channel against an HTTP server on loopback. The signature is checked as a receiver would."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import time
import traceback
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import standardwebhooks

from resilience.errors import PermanentError, ServiceError, ThrottledError, TransientError
from services.channels.webhook import Format, Webhook
from tests.services.channels.alert import DOWN

ALERT = replace(
    DOWN,
    id="1700000000000-0-down",
    text="3 calls wait. Grüße",
    data={"kind": "service_down", "service": "elevenlabs", "waiting": 3},
)


@pytest.fixture
def webhook(alert_receiver: Any) -> Webhook:
    return Webhook(f"{alert_receiver.url}/alerts", timeout=(2, 2))


def test_an_alert_arrives_as_json_with_its_id_type_and_time(webhook: Webhook, alert_receiver: Any) -> None:
    webhook.send(ALERT)

    (arrival,) = alert_receiver.arrivals
    assert arrival.path == "/alerts"
    assert arrival.headers["content-type"] == "application/json"
    sent_at = datetime.fromisoformat(arrival.body["timestamp"]).timestamp()
    assert abs(sent_at - time.time()) < 60
    assert arrival.body == {
        "id": "1700000000000-0-down",
        "type": "service_down",
        "timestamp": arrival.body["timestamp"],
        "status": "firing",
        "severity": "critical",
        "key": "elevenlabs:service_down",
        "service": "elevenlabs",
        "subject": "ElevenLabs is down",
        "text": "3 calls wait. Grüße",
        "data": {"kind": "service_down", "service": "elevenlabs", "waiting": 3},
    }


def test_every_retry_carries_the_same_id(webhook: Webhook, alert_receiver: Any) -> None:
    webhook.send(ALERT)
    webhook.send(ALERT)

    first, second = alert_receiver.arrivals
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "1700000000000-0-down" == first.body["id"]
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < 60


def test_an_id_that_is_no_ascii_is_percent_encoded(webhook: Webhook, alert_receiver: Any) -> None:
    webhook.send(replace(ALERT, id="frühling:1 a\r\nx-evil: 1"))

    (arrival,) = alert_receiver.arrivals
    assert arrival.headers["webhook-id"] == "fr%C3%BChling:1%20a%0D%0Ax-evil:%201" == arrival.body["id"]
    assert "x-evil" not in arrival.headers


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("whsec_" + base64.b64encode(b"\x00\xffbinary key").decode(), b"\x00\xffbinary key"),
        ("a raw secret, ü", "a raw secret, ü".encode()),
    ],
)
def test_a_receiver_can_verify_the_signature(alert_receiver: Any, secret: str, key: bytes) -> None:
    Webhook(alert_receiver.url, secret).send(ALERT)

    (arrival,) = alert_receiver.arrivals
    headers = arrival.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + arrival.raw
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_the_signature_is_what_standard_webhooks_own_library_verifies(alert_receiver: Any) -> None:
    secret = "whsec_" + base64.b64encode(b"\x00\xffbinary key").decode()
    Webhook(alert_receiver.url, secret).send(ALERT)
    Webhook(alert_receiver.url, "whsec_" + base64.b64encode(b"another").decode()).send(ALERT)
    ours, forged = alert_receiver.arrivals

    seen = standardwebhooks.Webhook(secret).verify(ours.raw, dict(ours.headers))

    assert seen == ours.body
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(forged.raw, dict(forged.headers))


def test_without_a_secret_nothing_is_signed(webhook: Webhook, alert_receiver: Any) -> None:
    webhook.send(ALERT)

    assert "webhook-signature" not in alert_receiver.arrivals[0].headers


def test_a_secret_that_is_no_base64_is_permanent_and_stays_out_of_the_text(alert_receiver: Any) -> None:
    secret = "whsec_" + "not base64!"

    with pytest.raises(PermanentError, match="WEBHOOK_SECRET") as caught:
        Webhook(alert_receiver.url, secret).send(ALERT)

    assert "base64!" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert alert_receiver.arrivals == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_success_whatever_its_body_says(
    webhook: Webhook, alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    body = "" if status == 204 else {"error": {"code": "quota_exceeded"}, "success": False}
    alert_receiver.replies = [alert_reply(status, body)]

    webhook.send(ALERT)

    assert len(alert_receiver.arrivals) == 1


def test_a_receiver_that_is_gone_is_permanent(webhook: Webhook, alert_receiver: Any, alert_reply: Any) -> None:
    alert_receiver.replies = [alert_reply(410)]

    with pytest.raises(PermanentError, match="WEBHOOK_URL") as caught:
        webhook.send(ALERT)

    assert (caught.value.code, caught.value.status) == ("gone", 410)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://hooks.slack.com/services/T0/B0/xyz", "text"),
        ("https://discord.com/api/webhooks/1/xyz", "content"),
        ("https://discordapp.com/api/webhooks/1/xyz", "content"),
        ("https://canary.discord.com/api/v10/webhooks/1/xyz", "content"),
        ("https://discord.com/api/webhooks/1/xyz/slack", "text"),
        ("https://hooks.slack.com.example/services/T0", "type"),
        ("https://example.com/hooks.slack.com/discord.com", "type"),
    ],
)
def test_auto_goes_by_the_host(url: str, key: str) -> None:
    assert key in Webhook(url)._body(ALERT, "7", datetime.now(UTC))


def test_slack_gets_a_text_in_which_nobody_can_be_mentioned(alert_receiver: Any) -> None:
    Webhook(alert_receiver.url, format="slack").send(replace(ALERT, text="<!channel> a & b"))

    assert alert_receiver.arrivals[0].body == {"text": "ElevenLabs is down\n\n&lt;!channel&gt; a &amp; b"}


def test_discord_gets_a_content_in_which_nobody_can_be_mentioned(alert_receiver: Any) -> None:
    Webhook(alert_receiver.url, format="discord").send(replace(ALERT, text="@everyone <b>"))

    assert alert_receiver.arrivals[0].body == {
        "content": "ElevenLabs is down\n\n@everyone <b>",
        "allowed_mentions": {"parse": []},
    }


@pytest.mark.parametrize(("form", "key", "limit"), [("discord", "content", 2000), ("slack", "text", 4000)])
def test_what_is_too_long_for_a_chat_is_cut_with_a_mark(
    alert_receiver: Any, form: Format, key: str, limit: int
) -> None:
    room = limit - len(f"{ALERT.subject}\n\n")
    chat = Webhook(alert_receiver.url, format=form)

    chat.send(replace(ALERT, text="x" * room))
    chat.send(replace(ALERT, text="x" * (room + 1)))

    fits, is_cut = (arrival.body[key] for arrival in alert_receiver.arrivals)
    assert len(fits) == len(is_cut) == limit
    assert fits.endswith("xxx")
    assert is_cut.endswith("x\n[cut]")


def test_a_chat_gets_the_same_id_on_every_retry_too(alert_receiver: Any) -> None:
    Webhook(alert_receiver.url, format="slack").send(ALERT)

    assert alert_receiver.arrivals[0].headers["webhook-id"] == ALERT.id


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"message": "You are being rate limited.", "retry_after": 0.64, "global": False}, {"Retry-After": "1"}, 0.64),
        ({"message": "You are being rate limited.", "retry_after": 64.57}, {}, 64.57),
        ("<html>banned</html>", {"Retry-After": "600"}, 600),
        ({"retry_after": "soon"}, {"Retry-After": "5"}, 5),
        ({}, {}, None),
    ],
)
def test_discord_says_in_the_body_how_long_to_wait(
    alert_receiver: Any, alert_reply: Any, body: Any, headers: dict[str, str], seconds: float | None
) -> None:
    alert_receiver.replies = [alert_reply(429, body, headers)]

    with pytest.raises(ThrottledError) as caught:
        Webhook(alert_receiver.url, format="discord").send(ALERT)

    assert caught.value.retry_after == seconds


def test_a_429_is_a_throttle_whatever_its_body_says(webhook: Webhook, alert_receiver: Any, alert_reply: Any) -> None:
    alert_receiver.replies = [alert_reply(429, {"error": {"code": "quota_exceeded"}, "retry_after": 7})]

    with pytest.raises(ThrottledError) as caught:
        webhook.send(ALERT)

    assert caught.value.retry_after is None


def test_too_many_requests_wait_as_long_as_the_receiver_says(
    webhook: Webhook, alert_receiver: Any, alert_reply: Any
) -> None:
    alert_receiver.replies = [alert_reply(429, "", {"Retry-After": "12"})]

    with pytest.raises(ThrottledError) as caught:
        webhook.send(ALERT)

    assert caught.value.service == "webhook"
    assert caught.value.retry_after == 12


@pytest.mark.parametrize("body", ["<html>", {"code": "authentication_error"}])
@pytest.mark.parametrize("status", [408, 425, 500, 501, 502, 503, 504, 530])
def test_a_failure_of_the_receiver_is_transient_whatever_its_body_says(
    webhook: Webhook, alert_receiver: Any, alert_reply: Any, status: int, body: Any
) -> None:
    alert_receiver.replies = [alert_reply(status, body)]

    with pytest.raises(TransientError) as caught:
        webhook.send(ALERT)

    assert caught.value.status == status


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 409, 413, 418, 422])
def test_a_refusal_is_permanent_and_no_redirect_is_followed(
    webhook: Webhook, alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    alert_receiver.replies = [alert_reply(status, {"error": "no"}, {"Location": f"{alert_receiver.url}/other"})]

    with pytest.raises(PermanentError) as caught:
        webhook.send(ALERT)

    assert caught.value.status == status
    assert len(alert_receiver.arrivals) == 1


@pytest.mark.parametrize("answer", [{"silent": True}, {"hang_up": True}])
def test_no_answer_is_transient(alert_receiver: Any, alert_reply: Any, answer: dict[str, bool]) -> None:
    alert_receiver.replies = [alert_reply(**answer)]

    with pytest.raises(TransientError):
        Webhook(alert_receiver.url, timeout=(2, 0.2)).send(ALERT)


def test_a_receiver_out_of_reach_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(TransientError):
        Webhook(f"http://127.0.0.1:{port}/alerts", timeout=(2, 2)).send(ALERT)


@pytest.mark.parametrize("status", [400, 404, 429, 500, None])
def test_no_piece_of_the_url_and_no_secret_is_in_any_text(alert_receiver: Any, alert_reply: Any, status: int) -> None:
    url = alert_receiver.url.replace("://", "://user:pass-word@") + "/services/T0TOKEN/B%2BTOKEN?key=q-token"
    echo = f"no {url} /services/T0TOKEN T0TOKEN B%2BTOKEN B+TOKEN q-token pass-word raw-signing-secret"
    alert_receiver.replies = [alert_reply(status, echo) if status else alert_reply(hang_up=True)]
    webhook = Webhook(url, "raw-signing-secret")

    with pytest.raises(ServiceError) as caught:
        webhook.send(ALERT)

    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(webhook)
    for secret in ("TOKEN", "q-token", "pass-word", "raw-signing-secret", "services/T"):
        assert secret not in shown
