"""Alerts to an operator's own URL: one signed POST, after Standard Webhooks (https://www.standardwebhooks.com).

`webhook-id` is the alert's id on every retry, so a receiver can drop repeats, and whatever went unanswered is safe
to repeat. The status alone decides: a receiver's body is its own business, and may echo the error code the alert is
about. The URL may carry a token: no text here carries more of it than its scheme and host.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from resilience.errors import PermanentError, ServiceError, ThrottledError, TransientError
from services import http

_PREFIX = "whsec_"
_WORTH_HIDING = 6  # characters: a shorter piece of a URL is no secret


@dataclass(frozen=True)
class Webhook:
    """The webhook channel.

    `secret` signs each request: `whsec_` and base64, or any text; empty: unsigned. `timeout` is (connect, read) in
    seconds.
    """

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    timeout: tuple[float, float] = (3, 15)

    def send(self, *, alert_id: str, subject: str, text: str, data: Mapping[str, Any]) -> None:
        """Post the alert; its type is `data["kind"]`. Raises ServiceError; a 410 is permanent, with code "gone"."""
        now = datetime.now(UTC)
        id = quote(alert_id, safe=string.punctuation)  # a header takes no more than ASCII without spaces
        body = json.dumps(
            {
                "id": id,
                "type": data.get("kind", "alert"),
                "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "subject": subject,
                "text": text,
                "data": dict(data),
            }
        ).encode()
        headers = {"content-type": "application/json", **self._signed(id, int(now.timestamp()), body)}
        try:
            http.request(
                "POST",
                self.url,
                service="webhook",
                timeout=self.timeout,
                headers=headers,
                data=body,
                secrets=self._secrets(),
            )
        except ServiceError as exc:
            failure = _by_status(exc)
            if failure:
                raise failure from None

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
        whole = f"{parts.path}?{parts.query}"
        pieces = [self.url, whole, parts.path, parts.username or "", parts.password or "", *re.split("[/?&=]", whole)]
        long = [piece for piece in pieces if len(piece) >= _WORTH_HIDING]
        return [*long, *map(unquote, long), *filter(None, [self.secret])]


def _by_status(error: ServiceError) -> ServiceError | None:
    """The error that the status alone asks for; None where it says yes."""
    status = error.status
    if status is None:
        return error
    if status // 100 == 2:
        return None
    if status == 410:
        text = "webhook answered 410: its receiver is gone for good; change or unset WEBHOOK_URL"
        return PermanentError(text, service="webhook", code="gone", status=status)
    kind: type[ServiceError] = PermanentError
    if status == 429:
        kind = ThrottledError
    elif status >= 500 or status in (408, 425):
        kind = TransientError
    return kind(error.message, service="webhook", code=error.code, status=status, retry_after=error.retry_after)
