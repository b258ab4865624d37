"""Alerts to any place that apprise has a URL for (https://github.com/caronc/apprise/wiki).

One channel has one URL, because apprise reports only whether all its places took the message: a repetition for one
would reach the others twice. Nothing waits in here: apprise's pauses between requests and its retries are off, because
the task repeats. Redirects are not followed: the POST would arrive as a GET without the alert. apprise does not say
whether a failure will pass, so every failure is transient.
The whole URL is secret, and each piece of it: apprise's own log is off, and quoted with the pieces masked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from resilience.alerts.message import Message
from resilience.errors import PermanentError, Sent, TransientError
from resilience.redact import pieces, quoted

_WORTH_HIDING = 4  # characters: a shorter piece of a URL is no secret
_LOG = logging.getLogger("apprise")
_LOG.propagate = False
_LOG.setLevel(logging.WARNING)  # what a failure quotes, whatever the level of our own log


@dataclass(frozen=True)
class Apprise:
    """The channel of one apprise URL, the `position`-th of the configuration. `timeout`: (connect, read) in seconds."""

    url: str = field(repr=False)
    position: int = 1
    timeout: tuple[float, float] = (3, 15)

    def send(self, message: Message) -> None:
        """Send the alert as plain text. Raises PermanentError for a URL that cannot be used, else TransientError."""
        # 0.3 s and 25 MB: only who has such a URL pays them, and only with the first alert.
        import apprise  # noqa: PLC0415

        # No deadline of apprise's: it would need a thread, and leave it behind to deliver after all.
        asset = apprise.AppriseAsset(app_id="Lineman", async_mode=False, http_redirects=False, service_timeout=0)
        place = apprise.Apprise.instantiate(self.url, asset=asset)
        if place is None:
            raise self._unusable()
        self._hurry(place)
        client = apprise.Apprise(place, asset=asset)
        with client.notify(
            title=message.subject, body=message.text, notify_type=_type(message), body_format="text"
        ) as result:
            if result:
                return
            said = next((entry.message for entry in result.logs()), "it did not say why")
        cause = quoted(said, pieces(self.url, _WORTH_HIDING))
        text = f"{self._name} ({place.service_name}) did not take the alert: {cause}"
        raise TransientError(text, service="apprise", sent=Sent.UNKNOWN)

    def _hurry(self, place: Any) -> None:
        place.throttle = lambda *_args, **_named: None
        place.retry = 0
        place.socket_connect_timeout, place.socket_read_timeout = self.timeout

    def _unusable(self) -> PermanentError:
        text = f"{self._name} cannot be used: apprise knows no such service, or a part of it is missing or wrong"
        return PermanentError(f"{text}; nothing was sent", service="apprise", code="bad_url", sent=Sent.NO)

    @property
    def _name(self) -> str:
        return f"URL {self.position} of APPRISE_URLS"


def _type(message: Message) -> str:
    if message.status == "resolved":
        return "success"
    return {"critical": "failure", "warning": "warning"}.get(message.severity, "info")
