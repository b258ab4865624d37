"""Where the stand-in's alerts arrive: mail over SMTP, Telegram and webhook over the stand-in's HTTP server.

An alert is recorded when its channel accepted it, whatever answer the sender gets: a fault of kind
`accept_then_500` records it and answers an error, which is how a doubled alert is provoked. Of the faults, SMTP knows
those that answer: `refused` is 550, every other 451.
"""

from __future__ import annotations

import email
import socket
import time
from collections.abc import Mapping
from email.message import Message
from email.policy import default
from typing import Any, NamedTuple, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from demo.faults import Faults


class Alert(NamedTuple):
    """`time` is unix seconds; `alert_id` is the mail's Message-ID, the webhook's webhook-id, "" for Telegram."""

    time: float
    subject: str
    text: str
    alert_id: str = ""
    headers: Mapping[str, str] = {}  # a webhook's webhook-* headers, in lower case, for its signature


class Alerts:
    """What arrived, by channel, oldest first. Appending to a list is atomic, so there is no lock."""

    def __init__(self) -> None:
        self.mails: list[Alert] = []
        self.telegrams: list[Alert] = []
        self.webhooks: list[Alert] = []

    def telegram(self, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The Bot API's sendMessage."""
        text = str(body.get("text", ""))
        self.telegrams.append(Alert(time.time(), text.partition("\n")[0], text))
        return 200, {"ok": True, "result": {"message_id": len(self.telegrams)}}

    def webhook(self, body: Mapping[str, Any], raw: bytes, headers: Message) -> tuple[int, dict[str, Any]]:
        """Any JSON; the text recorded is the body as it came, since the signature covers its bytes."""
        own = {name.lower(): value for name, value in headers.items() if name.lower().startswith("webhook-")}
        subject, alert_id = str(body.get("subject", "")), own.get("webhook-id", "")
        self.webhooks.append(Alert(time.time(), subject, raw.decode(errors="replace"), alert_id, own))
        return 200, {"ok": True}


class SmtpSink(Controller):
    """An SMTP server on loopback, plain, without login, at `hostname` and `port`. OSError if the port is taken."""

    def __init__(self, alerts: Alerts, faults: Faults, port: int = 0) -> None:
        self._alerts, self._faults = alerts, faults
        # Bound here: the controller cannot start on port 0, it connects to the port it was given.
        self._socket = socket.create_server(("127.0.0.1", port))
        super().__init__(self, "127.0.0.1", self._socket.getsockname()[1], server_hostname="localhost")

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        """A mail came in whole. Returns the SMTP reply."""
        fault = self._faults.take("smtp", "mail")
        if fault.kind.accepted:
            mail = email.message_from_bytes(envelope.original_content or b"", policy=default)
            part = mail.get_body(("plain", "html"))
            text = part.get_content() if part else ""
            self._alerts.mails.append(Alert(time.time(), mail["subject"] or "", text, mail["message-id"] or ""))
        if not fault.kind.status:
            return "250 2.0.0 accepted"
        return f"{550 if fault.name == 'refused' else 451} {fault.kind.code}"
