"""Alerts by Telegram: one message to one chat, by the Bot API's sendMessage.

Plain text without a parse mode: a vendor's error text would break Markdown. What is longer than a message is cut,
and says so. A group that became a supergroup has a new id: the alert follows it there, and a warning asks for the
configuration to be changed. The token is part of the URL, so no text here carries a URL.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from resilience.alerts.message import Message, cut
from resilience.errors import PermanentError
from resilience.logger import log
from services import http
from services.classification import classify

LIMIT = 4096  # UTF-16 code units, which is how Telegram counts


@dataclass(frozen=True)
class Telegram:
    """The Telegram channel. `chat_id`: a number, or @name of a channel. `timeout` is (connect, read) in seconds."""

    token: str = field(repr=False)
    chat_id: str | int
    base_url: str = "https://api.telegram.org"
    timeout: tuple[float, float] = (3, 15)

    def send(self, message: Message) -> None:
        """Send the alert. Raises ServiceError: ThrottledError with Telegram's `retry_after`, or what `http` raises."""
        text = cut(f"{message.subject}\n\n{message.text}".strip(), LIMIT)
        new_id = self._post(self.chat_id, text)
        if new_id is None:
            return
        log(
            "telegram_chat_moved",
            level=logging.WARNING,
            service="telegram",
            next_action=f"set TELEGRAM_CHAT_ID to {new_id}",
            alert_id=message.id,
            new_chat_id=new_id,
        )
        if self._post(new_id, text) is not None:
            raise PermanentError("Telegram says twice that the chat has moved", service="telegram", code="moved")

    def _post(self, chat_id: str | int, text: str) -> int | None:
        """Returns the chat's new id where it has moved, None where the message was taken."""
        url, payload = self._request(chat_id, text)
        answer = http.request(
            "POST",
            url,
            service="telegram",
            timeout=self.timeout,
            json=payload,
            expect_json=True,
            secrets=(self.token,),
            accept=(400,),
        )
        moved = _moved_to(answer.body) if answer.status == 400 else None
        if moved is not None:
            return moved
        failure = classify(answer.status, answer.body, answer.headers, service="telegram", secrets=(self.token,))
        if failure is not None:
            raise failure
        if not (isinstance(answer.body, dict) and answer.body.get("ok") is True):
            raise http.unconfirmed_success("not_ok", answer.status, service="telegram", dial=False)
        return None

    def _request(self, chat_id: str | int, text: str) -> tuple[str, dict[str, Any]]:
        payload = {"chat_id": chat_id, "text": text, "link_preview_options": {"is_disabled": True}}
        return f"{self.base_url.rstrip('/')}/bot{self.token}/sendMessage", payload


def _moved_to(body: Any) -> int | None:
    parameters = body.get("parameters") if isinstance(body, dict) else None
    new_id = parameters.get("migrate_to_chat_id") if isinstance(parameters, dict) else None
    return new_id if isinstance(new_id, int) else None
