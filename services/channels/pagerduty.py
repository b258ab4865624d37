"""Alerts to PagerDuty: one event of its Events API v2 (https://developer.pagerduty.com/docs/send-alert-event).

The alert's key is the event's: a reminder joins the open incident, `resolved` closes it, and a repeat changes
nothing. Whatever the routing sends here becomes an incident, of the alert's severity, so a message that is never
resolved stays open until a person closes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from resilience.alerts.message import Message, cut
from resilience.errors import ServiceError
from services import http
from services.channels.webhook import by_status
from services.classification import classify

_SUMMARY_LIMIT = 1024
_KEY_LIMIT = 255


@dataclass(frozen=True)
class PagerDuty:
    """The PagerDuty channel. `routing_key`: a service's integration key. `timeout` is (connect, read) in seconds."""

    routing_key: str = field(repr=False)
    base_url: str = "https://events.pagerduty.com"
    timeout: tuple[float, float] = (3, 15)

    def send(self, message: Message) -> None:
        """Send the event. Raises ServiceError; a 400 is permanent and names what PagerDuty objects to."""
        try:
            answer = http.request(
                "POST",
                f"{self.base_url.rstrip('/')}/v2/enqueue",
                service="pagerduty",
                timeout=self.timeout,
                json=self._event(message),
                secrets=(self.routing_key,),
                accept=(400,),
            )
        except ServiceError as exc:
            failure = by_status(exc)
        else:
            failure = self._refusal(answer)
        if failure is not None:
            raise failure

    def _event(self, message: Message) -> dict[str, Any]:
        about = {"routing_key": self.routing_key, "dedup_key": message.key[:_KEY_LIMIT]}
        if message.status == "resolved":
            return {**about, "event_action": "resolve"}
        payload = {
            "summary": cut(message.subject, _SUMMARY_LIMIT),
            "source": "lineman",
            "severity": message.severity,
            "component": message.service or "lineman",
            "class": message.kind,
            "custom_details": {**message.data, "text": message.text},
        }
        return {**about, "event_action": "trigger", "client": "Lineman", "payload": payload}

    def _refusal(self, answer: http.Answer) -> ServiceError | None:
        if answer.status == 400:
            body = {"message": _objections(answer.body)}
            return classify(400, body, answer.headers, service="pagerduty", secrets=(self.routing_key,))
        if answer.status != 202:
            return http.unconfirmed_success("not_accepted", answer.status, service="pagerduty", dial=False)
        return None


def _objections(body: Any) -> str:
    if not isinstance(body, dict):
        return str(body)
    errors = body.get("errors")
    named = [str(error) for error in errors] if isinstance(errors, list) else []
    return ": ".join(filter(None, [str(body.get("message") or ""), "; ".join(named)]))
