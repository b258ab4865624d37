"""ElevenLabs, the CRM and the LLM as they answer when they are well, and what really rang.

An endpoint takes a `Request` and returns the HTTP status and the JSON answer. `ElevenLabs.rang` is the ground truth:
it is written when a dial is accepted, whatever answer the caller gets.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from email.message import Message
from typing import Any, NamedTuple

Answer = tuple[int, dict[str, Any]]


class Request(NamedTuple):
    """One request. `target` is the variable part of its path; `lag` is in seconds."""

    query: Mapping[str, str]
    body: Mapping[str, Any]
    raw: bytes
    headers: Message
    target: str = ""
    lag: float = 0.0

    @property
    def ids(self) -> tuple[str, str]:
        """The call id and the attempt id, each "" where the request carries none."""
        data = self.body.get("conversation_initiation_client_data") or {}
        notes = self.body.get("properties") or self.body.get("metadata") or {}
        attempt_id = str((data.get("dynamic_variables") or notes).get("attempt_id", ""))
        call_id = data.get("user_id") or self.query.get("user_id") or notes.get("call_id")
        return str(call_id or attempt_id.rpartition(":")[0]), attempt_id


class Rang(NamedTuple):
    """A telephone that rang, at `time` in unix seconds."""

    call_id: str
    attempt_id: str
    conversation_id: str
    time: float


class ElevenLabs:
    """The calls that rang, oldest first, and the endpoints that make and find them. `clock` gives unix seconds."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.rang: list[Rang] = []
        self._variables: dict[str, Any] = {}  # a conversation's dynamic variables, by its id

    def dial(self, request: Request) -> Answer:
        """The phone rings, or 422."""
        for name in {"agent_id", "agent_phone_number_id", "to_number"} - set(request.body):
            return 422, _invalid("missing", "body", name)
        if not re.fullmatch(r"\+[1-9]\d{6,14}", str(request.body["to_number"])):
            return 422, _invalid("value_error", "body", "to_number")
        call = Rang(*request.ids, f"conv_{uuid.uuid4().hex}", self._clock())
        data = request.body.get("conversation_initiation_client_data") or {}
        self._variables[call.conversation_id] = data.get("dynamic_variables") or {}
        self.rang.append(call)
        ids = {"conversation_id": call.conversation_id, "callSid": f"CA{uuid.uuid4().hex}"}
        return 200, {"success": True, "message": "Success"} | ids

    def conversations(self, request: Request) -> Answer:
        """Newest first. `call_start_after_unix` excludes its own second; the cursor is a place in `rang`."""
        query, everything = request.query, list(enumerate(self.rang))
        try:
            after, size = int(query.get("call_start_after_unix", 0)), min(int(query.get("page_size", 30)), 100)
            earlier = everything[: int(query.get("cursor", len(everything)))]
        except ValueError:
            return 422, _invalid("int_parsing", "query", "call_start_after_unix, page_size or cursor")
        found = [
            (place, _summary(call))
            for place, call in reversed(earlier)
            if query.get("user_id", call.call_id) == call.call_id
            and after < int(call.time) <= call.time <= self._clock() - request.lag
        ]
        page, more = found[:size], len(found) > size
        answer = {"conversations": [summary for _, summary in page], "has_more": more}
        return 200, answer | {"next_cursor": str(page[-1][0]) if more else None}

    def conversation(self, request: Request) -> Answer:
        """One conversation with what the dial handed over, or 404."""
        for call in self.rang:
            if call.conversation_id == request.target:
                summary, user = _summary(call), {"user_id": call.call_id}
                phone_call = {"type": "twilio", "direction": "outbound", "call_result": "answered"}
                metadata = {key: summary.pop(key) for key in _TIMES} | {"phone_call": phone_call}
                data = user | {"dynamic_variables": self._variables[call.conversation_id]}
                return 200, summary | user | {"metadata": metadata, "conversation_initiation_client_data": data}
        return 404, {"detail": {"code": "conversation_not_found", "type": "not_found", "message": "No conversation"}}


def _invalid(kind: str, place: str, name: str) -> dict[str, Any]:
    return {"detail": [{"type": kind, "loc": [place, name], "msg": f"{name}: {kind}"}]}


_TIMES = "start_time_unix_secs", "call_duration_secs"


def _summary(call: Rang) -> dict[str, Any]:
    state = {"status": "done", "call_successful": "success", "direction": "outbound", "message_count": 1}
    start = {"start_time_unix_secs": int(call.time), "call_duration_secs": 1}
    return {"agent_id": "stand-in", "conversation_id": call.conversation_id} | start | state


SUBSCRIPTION = {"tier": "stand-in", "status": "active", "character_count": 1_000, "character_limit": 1_000_000}
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": "Good day."}, "finish_reason": "stop"}]}
