"""The CRM (HubSpot's API): one entry a call, written after it. Whether a call is retried never depends on it.

https://developers.hubspot.com/docs/api-reference/crm-calls-v3/guide
"""

from __future__ import annotations

from services.http import request

STATUS = {"placed": "COMPLETED", "failed": "FAILED"}


class Crm:
    """One CRM account. Every method raises ServiceError, classified. `timeout` is (connect, read) in seconds."""

    def __init__(self, *, base_url: str, api_key: str, timeout: tuple[float, float]) -> None:
        self.base_url, self._api_key, self.timeout = base_url.rstrip("/"), api_key, timeout

    def __repr__(self) -> str:
        return f"Crm({self.base_url!r})"

    def log_call(self, *, call_id: str, contact_id: str, state: str, at_ms: int, note: str) -> None:
        """Writes the entry. Not idempotent: an entry whose answer was lost may be written twice."""
        properties = {
            "hs_timestamp": at_ms,
            "hs_call_title": f"Call {call_id}: {state}",
            "hs_call_body": f"Contact {contact_id}. {note}".strip(),
            "hs_call_direction": "OUTBOUND",
            "hs_call_status": STATUS.get(state, "CANCELED"),
        }
        self._ask("POST", "/crm/v3/objects/calls", {"properties": properties})

    def health(self, path: str) -> None:
        """A free request that shows whether the account answers."""
        self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: object) -> None:
        request(
            method,
            f"{self.base_url}{path}",
            service="crm",
            timeout=self.timeout,
            json=body,
            headers={"Authorization": f"Bearer {self._api_key}"},
            secrets=(self._api_key,),
        )
