"""The Telegram channel against an HTTP server on loopback that answers as the Bot API does."""

from __future__ import annotations

import logging
import socket
import traceback
from dataclasses import replace
from typing import Any

import pytest

from resilience.errors import PermanentError, ThrottledError, TransientError
from services.channels.telegram import Telegram
from tests.services.channels.alert import DOWN

TOKEN = "123456:AAF-secret_token"
ALERT = DOWN
DELIVERED = {"ok": True, "result": {"message_id": 1}}


def refused(code: int, description: str, **parameters: int) -> dict[str, Any]:
    return {"ok": False, "error_code": code, "description": description, "parameters": parameters}


@pytest.fixture
def telegram(alert_receiver: Any, alert_reply: Any) -> Telegram:
    alert_receiver.replies = [alert_reply(200, DELIVERED)]
    return Telegram(TOKEN, "-100", f"{alert_receiver.url}/", timeout=(2, 2))


def test_an_alert_is_sent_as_plain_text_without_a_preview(telegram: Telegram, alert_receiver: Any) -> None:
    telegram.send(replace(ALERT, text="*3* calls_wait <b>\n\N{TELEPHONE RECEIVER}"))

    (arrival,) = alert_receiver.arrivals
    assert arrival.path == f"/bot{TOKEN}/sendMessage"
    assert arrival.body == {
        "chat_id": "-100",
        "text": "ElevenLabs is down\n\n*3* calls_wait <b>\n\N{TELEPHONE RECEIVER}",
        "link_preview_options": {"is_disabled": True},
    }


def test_html_is_not_for_telegram(telegram: Telegram, alert_receiver: Any) -> None:
    telegram.send(replace(ALERT, html="<p>3 calls wait.</p>"))

    assert alert_receiver.arrivals[0].body["text"] == "ElevenLabs is down\n\n3 calls wait."


def test_a_message_has_at_most_4096_characters_subject_included(telegram: Telegram, alert_receiver: Any) -> None:
    room = 4096 - len(f"{ALERT.subject}\n\n")

    telegram.send(replace(ALERT, text="x" * room))
    telegram.send(replace(ALERT, text="x" * (room + 1)))

    fits, is_cut = (arrival.body["text"] for arrival in alert_receiver.arrivals)
    assert fits.endswith("xxx")
    assert len(fits) == len(is_cut) == 4096
    assert is_cut.endswith("x\n[cut]")


@pytest.mark.parametrize("padding", ["", "x"])
def test_a_text_that_is_too_long_is_cut_between_characters_with_a_mark(
    telegram: Telegram, alert_receiver: Any, padding: str
) -> None:
    telegram.send(replace(ALERT, text=padding + "\N{TELEPHONE RECEIVER}" * 4000))

    text = alert_receiver.arrivals[0].body["text"]
    assert 4094 <= len(text.encode("utf-16-le")) // 2 <= 4096
    assert text.endswith("\N{TELEPHONE RECEIVER}\n[cut]")


def test_a_text_that_just_fits_is_not_cut(telegram: Telegram, alert_receiver: Any) -> None:
    text = "\N{TELEPHONE RECEIVER}" * 2047

    telegram.send(replace(ALERT, subject="", text=text + "xx"))

    assert alert_receiver.arrivals[0].body["text"] == text + "xx"


def test_half_a_character_in_the_text_does_not_stop_the_alert(telegram: Telegram, alert_receiver: Any) -> None:
    telegram.send(replace(ALERT, text="half \ud83d"))

    assert alert_receiver.arrivals[0].body["text"].endswith("half ?")


@pytest.mark.parametrize(("headers", "seconds"), [({}, 37), ({"Retry-After": "37"}, 37), ({}, 3600)])
def test_too_many_messages_wait_exactly_as_long_as_telegram_says(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, headers: dict[str, str], seconds: int
) -> None:
    body = refused(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)
    alert_receiver.replies = [alert_reply(429, body, headers)]

    with pytest.raises(ThrottledError) as caught:
        telegram.send(ALERT)

    assert caught.value.retry_after == seconds
    assert caught.value.service == "telegram"


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (400, "Bad Request: chat not found"),
        (401, "Unauthorized"),
        (403, "Forbidden: bot was kicked from the group chat"),
        (404, "Not Found"),
    ],
)
def test_a_wrong_token_or_chat_is_permanent_and_says_why(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, status: int, description: str
) -> None:
    alert_receiver.replies = [alert_reply(status, refused(status, description))]

    with pytest.raises(PermanentError, match=description) as caught:
        telegram.send(ALERT)

    assert caught.value.status == status


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_of_telegram_is_transient(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, status: int
) -> None:
    alert_receiver.replies = [alert_reply(status, "<html>Bad Gateway</html>")]

    with pytest.raises(TransientError):
        telegram.send(ALERT)


@pytest.mark.parametrize("answer", [{"silent": True}, {"hang_up": True}])
def test_no_answer_is_transient(alert_receiver: Any, alert_reply: Any, answer: dict[str, bool]) -> None:
    alert_receiver.replies = [alert_reply(**answer)]

    with pytest.raises(TransientError):
        Telegram(TOKEN, "-100", alert_receiver.url, timeout=(2, 0.2)).send(ALERT)


def test_a_server_out_of_reach_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with pytest.raises(TransientError):
        Telegram(TOKEN, "-100", f"http://127.0.0.1:{port}", timeout=(2, 2)).send(ALERT)


@pytest.mark.parametrize("body", [refused(400, "no"), {"result": {}}, [], "<html>log in to this network</html>"])
def test_a_good_status_without_ok_is_an_error(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, body: Any
) -> None:
    alert_receiver.replies = [alert_reply(200, body)]

    with pytest.raises(TransientError, match="Telegram answered 200"):
        telegram.send(ALERT)


def test_an_alert_follows_a_group_to_its_new_id_and_asks_for_the_configuration_to_be_changed(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    moved = refused(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-100123)
    alert_receiver.replies = [alert_reply(400, moved), alert_reply(200, DELIVERED)]

    with caplog.at_level(logging.WARNING, "lineman"):
        telegram.send(ALERT)

    assert alert_receiver.arrivals[-1].body["chat_id"] == -100123
    assert "ElevenLabs is down" in alert_receiver.arrivals[-1].body["text"]
    (record,) = (record for record in caplog.records if record.name == "lineman")
    assert record.getMessage() == "telegram_chat_moved"
    assert record.lineman[0]["next_action"] == "set TELEGRAM_CHAT_ID to -100123"


def test_a_group_that_moves_for_ever_is_followed_once(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any
) -> None:
    moved = refused(400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=-100123)
    alert_receiver.replies = [alert_reply(400, moved)]

    with pytest.raises(PermanentError, match="says twice"):
        telegram.send(ALERT)

    assert len(alert_receiver.arrivals) == 2


@pytest.mark.parametrize(
    "reply",
    [
        {"status": 401, "body": refused(401, f"Unauthorized: {TOKEN}")},
        {"status": 500, "body": f"no route /bot{TOKEN}/sendMessage or /bot123456%3AAAF-secret_token/sendMessage"},
        {"status": 302, "headers": {"location": f"http://127.0.0.1:1/bot{TOKEN}"}},
        {"status": 400, "body": refused(400, "no"), "headers": {"x-request-id": TOKEN}},
        {"hang_up": True},
    ],
)
def test_the_token_is_in_no_text(
    telegram: Telegram, alert_receiver: Any, alert_reply: Any, caplog: pytest.LogCaptureFixture, reply: dict[str, Any]
) -> None:
    alert_receiver.replies = [alert_reply(**reply)]
    caplog.set_level(logging.INFO)

    with pytest.raises((PermanentError, TransientError)) as caught:
        telegram.send(ALERT)

    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + caplog.text
    assert "secret_token" not in shown
    assert "secret_token" not in repr(telegram)
