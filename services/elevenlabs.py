"""The ElevenLabs client: place a call, find out whether one was placed, ask whether the service is well.

The dial has no idempotency key (SDK source: conversational_ai/twilio), so each dial carries the call's id as `user_id`,
and the attempt's and the installation's id as dynamic variables. A dial whose answer was lost is found again by them.
The official SDK is not used: by default it repeats a dial up to twice, after a 5xx that may hide a ringing phone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resilience.errors import PermanentError, Scope, Sent, ServiceError
from services.conversations import LIST, Conversation, Search, is_id, rows_of
from services.http import Answer, request, unconfirmed_success

SERVICE = "elevenlabs"


class ElevenLabs:
    """One account, agent and phone number. Every method raises ServiceError, classified."""

    def __init__(
        self, *, base_url: str, api_key: str, agent_id: str, agent_phone_number_id: str, timeout: tuple[float, float]
    ) -> None:
        self._base_url, self._api_key = base_url.rstrip("/"), api_key
        self.agent_id, self.agent_phone_number_id, self.timeout = agent_id, agent_phone_number_id, timeout

    def __repr__(self) -> str:
        return f"ElevenLabs(agent_id={self.agent_id!r}, agent_phone_number_id={self.agent_phone_number_id!r})"

    def dial(
        self,
        *,
        phone: str,
        call_id: str,
        attempt_id: str,
        variables: Mapping[str, object],
        lease_covers: Callable[[], bool],
    ) -> str:
        """Send one POST that rings `phone` (E.164). Returns the conversation's id.

        `lease_covers` is asked after the handshake; where it is False, LeaseExpired is raised and nothing is sent.
        """
        client_data = {"user_id": call_id, "dynamic_variables": {**variables, "attempt_id": attempt_id}}
        body = {
            "agent_id": self.agent_id,
            "agent_phone_number_id": self.agent_phone_number_id,
            "to_number": phone,
            "conversation_initiation_client_data": client_data,
        }
        answer = self._request(
            "POST", "/v1/convai/twilio/outbound-call", json=body, dial=True, lease_covers=lease_covers
        )
        found = answer.body.get("conversation_id") if isinstance(answer.body, dict) else None
        if not is_id(found):
            raise unconfirmed_success("no_conversation_id", answer.status, service=SERVICE, dial=True)
        return found

    def look_up(
        self, call_id: str, *, installation: str, timeout: tuple[float, float] | None = None
    ) -> list[Conversation]:
        """Every conversation of this call in the last week that rang, oldest first, each confirmed by its own record.

        Only an answer proves absence: what cannot be read to its end is a ServiceError, unless a conversation of ours
        has been confirmed by then. `timeout` bounds the look-up as a whole, in seconds.
        """
        return Search(self._get, call_id, installation, timeout or self.timeout).conversations()

    def has_called(self) -> bool:
        """Whether the agent has had a conversation, at any time."""
        return bool(rows_of(self._get(LIST, {"agent_id": self.agent_id, "page_size": 1}, self.timeout)))

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

    def _get(self, path: str, params: Mapping[str, str | int], timeout: tuple[float, float]) -> Answer:
        """A look-up's request. A refusal concerns every call, so none is taken for the fault of one contact."""
        try:
            return self._request("GET", path, params=params, timeout=timeout)
        except PermanentError as exc:
            if exc.scope is Scope.CONTACT:
                exc.scope, exc.named = Scope.SERVICE, False
            raise

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
