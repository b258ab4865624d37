"""The ElevenLabs client: place a call, find out whether one was placed, ask whether the service is well.

The dial has no idempotency key (SDK source: conversational_ai/twilio), so each dial carries the call's id as `user_id`
and the attempt's as the dynamic variable `attempt_id`; a dial whose answer was lost is found again by the first.
The official SDK is not used: by default it repeats a dial up to twice, after a 5xx that may hide a ringing phone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resilience.errors import PermanentError, Sent, ServiceError, TransientError
from services.http import Answer, request, unconfirmed_success

SERVICE = "elevenlabs"
PAGE_SIZE = 100
MAX_PAGES = 10
CLOCK_SKEW_S = 60


@dataclass(frozen=True)
class Conversation:
    """A conversation that ElevenLabs knows. `started` is in Unix seconds, `attempt_id` is empty where it is unknown."""

    id: str
    status: str
    attempt_id: str
    started: float


class ElevenLabs:
    """One account, agent and phone number. Every method raises ServiceError, classified."""

    def __init__(
        self, *, base_url: str, api_key: str, agent_id: str, agent_phone_number_id: str, timeout: tuple[float, float]
    ) -> None:
        self._base_url, self._api_key = base_url.rstrip("/"), api_key
        self.agent_id, self.agent_phone_number_id, self.timeout = agent_id, agent_phone_number_id, timeout

    def __repr__(self) -> str:
        return f"ElevenLabs(agent_id={self.agent_id!r}, agent_phone_number_id={self.agent_phone_number_id!r})"

    def dial(self, *, phone: str, call_id: str, attempt_id: str, variables: Mapping[str, object]) -> str:
        """Send one POST that rings `phone` (E.164). Returns the conversation's id."""
        client_data = {"user_id": call_id, "dynamic_variables": {**variables, "attempt_id": attempt_id}}
        body = {
            "agent_id": self.agent_id,
            "agent_phone_number_id": self.agent_phone_number_id,
            "to_number": phone,
            "conversation_initiation_client_data": client_data,
        }
        answer = self._request("POST", "/v1/convai/twilio/outbound-call", json=body, dial=True)
        found = answer.body.get("conversation_id") if isinstance(answer.body, dict) else None
        if not (isinstance(found, str) and found):
            raise unconfirmed_success("no_conversation_id", answer.status, service=SERVICE, dial=True)
        return found

    def look_up(self, call_id: str, since: float, *, timeout: tuple[float, float] | None = None) -> list[Conversation]:
        """Every conversation of this call since then (Unix seconds), oldest first.

        Only an answer proves absence: what cannot be read to its end is a ServiceError. `timeout` holds for each page,
        and no page is requested after its sum.
        """
        limit = timeout or self.timeout
        params: dict[str, str | int] = {
            "user_id": call_id,
            "call_start_after_unix": int(since) - CLOCK_SKEW_S,
            "page_size": PAGE_SIZE,
        }
        found: list[Conversation] = []
        deadline = time.monotonic() + sum(limit)
        for _ in range(MAX_PAGES):
            answer = self._request("GET", "/v1/convai/conversations", params=params, timeout=limit)
            page, cursor = _page(answer, call_id)
            found += page
            if not cursor:
                return sorted(found, key=lambda conversation: conversation.started)
            if time.monotonic() >= deadline:
                break
            params["cursor"] = cursor
        raise TransientError(
            "ElevenLabs has more conversations of one call than can be read in time", service=SERVICE, code="too_many"
        )

    def has_called(self) -> bool:
        """Whether the agent has had any conversation."""
        params: dict[str, str | int] = {"agent_id": self.agent_id, "page_size": 1}
        answer = self._request("GET", "/v1/convai/conversations", params=params)
        try:
            return bool(_checked(answer.body["conversations"], list))
        except (KeyError, TypeError):
            raise unconfirmed_success("unexpected_body", answer.status, service=SERVICE, dial=False) from None

    def health(self, path: str = "/v1/user/subscription") -> None:
        """Return if the service is well. A key without the scope for this path proves that it is one."""
        try:
            body = self._request("GET", path).body
        except ServiceError as exc:
            named = f"{exc.code} {exc.message}"
            if exc.status in (401, 403) and ("missing_permissions" in named or "missing the permission" in named):
                return
            raise
        body = body if isinstance(body, dict) else {}
        used, limit = body.get("character_count"), body.get("character_limit")
        if isinstance(used, int | float) and isinstance(limit, int | float) and 0 < limit <= used:
            raise PermanentError(
                f"ElevenLabs: the quota is spent, {used} of {limit} characters are used",
                service=SERVICE,
                code="quota_exceeded",
                status=200,
                sent=Sent.NO,
            )

    def _request(self, method: str, path: str, timeout: tuple[float, float] | None = None, **more: Any) -> Answer:
        return request(
            method,
            self._base_url + path,
            service=SERVICE,
            timeout=timeout or self.timeout,
            headers={"xi-api-key": self._api_key},
            secrets=(self._api_key,),
            expect_json=True,
            **more,
        )


def _page(answer: Answer, call_id: str) -> tuple[list[Conversation], str | None]:
    """The call's conversations on one page, and the next page's cursor."""
    try:
        body = answer.body
        items = _checked(body["conversations"], list)
        found = [_conversation(item) for item in items if _user_id(item) in (None, call_id)]
        cursor = body.get("next_cursor")
        return found, _checked(cursor, str) if body.get("has_more", cursor) else None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise unconfirmed_success("unexpected_body", answer.status, service=SERVICE, dial=False) from None


def _conversation(item: dict[str, Any]) -> Conversation:
    variables = _client_data(item).get("dynamic_variables") or {}
    return Conversation(
        _checked(item["conversation_id"], str),
        str(item.get("status") or ""),
        str(variables.get("attempt_id") or ""),
        float(item.get("start_time_unix_secs") or 0),
    )


def _user_id(item: dict[str, Any]) -> Any:
    return item.get("user_id") or _client_data(item).get("user_id") or None


def _client_data(item: dict[str, Any]) -> dict[str, Any]:
    return item.get("conversation_initiation_client_data") or {}


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or value == "":
        raise TypeError(f"not a {kind.__name__}")
    return value
