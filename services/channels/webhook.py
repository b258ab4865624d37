"""Alerts to an operator's own URL: one signed POST, after Standard Webhooks (https://www.standardwebhooks.com).

`webhook-id` is the alert's id on every retry, so a receiver can drop repeats, and an unanswered request is safe to
repeat. Slack and Discord, known by their hosts, get the body that they understand. The status alone decides, because a
receiver's body may echo the error code that the alert is about; only Discord's `retry_after` is read. The URL may
carry a token, so no text here shows more of it than its scheme and host.
"""

from __future__ import annotations

import base64
import hmac
import json
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from resilience.alerts.message import Message, cut
from resilience.errors import PermanentError, ServiceError, ThrottledError, TransientError, parse_retry_after
from resilience.redact import pieces
from services import http
from services.classification import classify

Format = Literal["auto", "json", "slack", "discord"]

_PREFIX = "whsec_"
_WORTH_HIDING = 6  # characters: a shorter piece of a URL is no secret
_SLACK_LIMIT = 4000  # characters of a text that Slack shows whole
_DISCORD_LIMIT = 2000  # characters of a content that Discord accepts
# The characters by which Slack's text mentions people and channels.
_SLACK_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


@dataclass(frozen=True)
class Webhook:
    """The webhook channel.

    `secret` signs each request: `whsec_` and base64, or any text; empty: unsigned. `format` is the body's: auto goes
    by the URL's host; slack also suits what imitates it, such as Mattermost. `timeout` is (connect, read) in seconds.
    """

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    format: Format = "auto"
    timeout: tuple[float, float] = (3, 15)

    def send(self, message: Message) -> None:
        """Post the alert. Raises ServiceError; a 410 is permanent, with code "gone"."""
        now = datetime.now(UTC)
        id = quote(message.id, safe=string.punctuation)  # a header takes no more than ASCII without spaces
        body = json.dumps(self._body(message, id, now)).encode()
        headers = {"content-type": "application/json", **self._signed(id, int(now.timestamp()), body)}
        failure = self._post(body, headers)
        if failure is not None and failure.status == 410:
            text = "webhook answered 410: its receiver is gone for good; change or unset WEBHOOK_URL"
            raise PermanentError(text, service="webhook", code="gone", status=410)
        if failure is not None:
            raise failure  # here, where no exception that holds the URL can become its context

    def _post(self, body: bytes, headers: dict[str, str]) -> ServiceError | None:
        secrets = self._secrets()
        try:
            answer = http.request(
                "POST",
                self.url,
                service="webhook",
                timeout=self.timeout,
                headers=headers,
                data=body,
                secrets=secrets,
                accept=(429,),
            )
        except ServiceError as exc:
            return by_status(exc)
        judged = classify(answer.status, answer.body, answer.headers, service="webhook", secrets=secrets)
        failure = by_status(judged) if judged else None
        if failure and self._form == "discord" and isinstance(answer.body, dict):
            # Its header has whole seconds, its body the fraction too.
            exact = parse_retry_after(str(answer.body.get("retry_after")), 0.0)
            failure.retry_after = failure.retry_after if exact is None else exact
        return failure

    @property
    def _form(self) -> Format:
        return _form_of(self.url) if self.format == "auto" else self.format

    def _body(self, message: Message, id: str, now: datetime) -> dict[str, Any]:
        text = f"{message.subject}\n\n{message.text}".strip()
        if self._form == "slack":
            return {"text": cut(text, _SLACK_LIMIT).translate(_SLACK_ESCAPES)}
        if self._form == "discord":
            # Without the second, an @everyone in a vendor's error text would ring everybody.
            return {"content": cut(text, _DISCORD_LIMIT), "allowed_mentions": {"parse": []}}
        return {
            "id": id,
            "type": message.kind,
            "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "status": message.status,
            "severity": message.severity,
            "key": message.key,
            "service": message.service,
            "subject": message.subject,
            "text": message.text,
            "data": dict(message.data),
        }

    def _signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        headers = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
        if self.secret:
            signed = f"{id}.{timestamp}.".encode() + body
            signature = base64.b64encode(hmac.digest(self._key(), signed, "sha256")).decode()
            headers["webhook-signature"] = f"v1,{signature}"
        return headers

    def _key(self) -> bytes:
        if not self.secret.startswith(_PREFIX):
            return self.secret.encode()
        try:
            return base64.b64decode(self.secret.removeprefix(_PREFIX), validate=True)
        except ValueError:
            text = f"WEBHOOK_SECRET cannot be used: what follows {_PREFIX} is no base64; nothing was sent"
            raise PermanentError(text, service="webhook", code="bad_secret") from None

    def _secrets(self) -> list[str]:
        parts = urlsplit(self.url)
        hidden = f"{parts.username}:{parts.password}@{parts.path}?{parts.query}"
        return [self.url, *pieces(hidden, _WORTH_HIDING), *filter(None, [self.secret])]


def by_status(error: ServiceError) -> ServiceError | None:
    """The error that the status alone asks for; None where it says yes."""
    status = error.status
    if status is None:
        return error
    if status // 100 == 2:
        return None
    kind: type[ServiceError] = PermanentError
    if status == 429:
        kind = ThrottledError
    elif status >= 500 or status in (408, 425):
        kind = TransientError
    return kind(error.message, service=error.service, code=error.code, status=status, retry_after=error.retry_after)


def _form_of(url: str) -> Format:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "hooks.slack.com":
        return "slack"
    if host.removeprefix("ptb.").removeprefix("canary.") in ("discord.com", "discordapp.com"):
        # Discord takes Slack's bodies too, at an address of their own.
        return "slack" if parts.path.endswith("/slack") else "discord"
    return "json"
