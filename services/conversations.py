"""A call's conversations at ElevenLabs, each confirmed by its own record.

The list is asked for the call's id as `user_id`, but its rows need not show whose they are, so a filter that is ignored
would make another contact's conversation ours. A row counts only when its record names the call and did not fail to
ring. The window is wide, because the id is the key: the provider's clock and ours need not agree.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import quote

from resilience.errors import PermanentError, ServiceError, TransientError
from services.http import Answer, unconfirmed_success

SERVICE = "elevenlabs"
LIST = "/v1/convai/conversations"
WINDOW_S = 7 * 24 * 3600  # longer than a call waits for a sick service, shorter than a call's id is remembered
PAGE_SIZE = 100
MAX_REQUESTS = 12  # of one look-up; a call has a handful of conversations, on one page
_ID = re.compile(r"[!-~]{1,200}")

Get = Callable[[str, Mapping[str, str | int], tuple[float, float]], Answer]


@dataclass(frozen=True)
class Conversation:
    """A conversation of the call that was looked up. `ours` is False where another installation dialed it."""

    id: str
    attempt_id: str
    ours: bool


class Search:
    """One look-up, bounded in requests and time. `timeout` is (connect, read) in seconds; their sum bounds it all.

    `wall` gives unix seconds; `clock` gives seconds that go on evenly.
    """

    def __init__(
        self,
        get: Get,
        call_id: str,
        installation: str,
        timeout: tuple[float, float],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._get, self._call_id, self._installation, self._connect = get, call_id, installation, timeout[0]
        self._wall, self._clock = wall, clock
        self._end = clock() + sum(timeout)
        self._requests = 0

    def conversations(self) -> list[Conversation]:
        """Those that rang, oldest first. Raises ServiceError where an answer is missing and none of ours is found."""
        found: list[tuple[float, Conversation]] = []
        seen: set[str] = set()  # a conversation may be on two pages
        try:
            for row in self._rows():
                if row["conversation_id"] not in seen and (conversation := self._confirmed(row)):
                    found.append((row.get("start_time_unix_secs") or 0, conversation))
                seen.add(row["conversation_id"])
        except ServiceError:
            # What has been confirmed stays true.
            if not any(conversation.ours for _, conversation in found):
                raise
        return [conversation for _, conversation in sorted(found, key=lambda each: each[0])]

    def _rows(self) -> Iterator[dict[str, Any]]:
        params: dict[str, str | int] = {
            "user_id": self._call_id,
            "call_start_after_unix": int(self._wall()) - WINDOW_S,
            "page_size": PAGE_SIZE,
        }
        while True:
            answer = self._ask(LIST, params)
            yield from rows_of(answer)
            cursor = answer.body.get("next_cursor")
            if not answer.body.get("has_more", cursor):
                return
            if not (isinstance(cursor, str) and cursor):
                raise _unexpected(answer)
            params["cursor"] = cursor

    def _confirmed(self, row: Mapping[str, Any]) -> Conversation | None:
        if _user_id(row) not in ("", self._call_id):
            return None
        id = row["conversation_id"]
        answer = self._record(id)
        try:
            record = answer.body
            variables = _client_data(record).get("dynamic_variables") or {}
            user_id, attempt_id = _user_id(record), str(variables.get("attempt_id") or "")
            installation = variables.get("installation_id") or self._installation  # an older release sent none
        except AttributeError:
            raise _unexpected(answer) from None
        named = {user_id, attempt_id.rpartition(":")[0]} - {""}
        if named != {self._call_id} or record.get("status") == "failed":
            return None
        return Conversation(id, attempt_id, installation == self._installation)

    def _record(self, id: str) -> Answer:
        try:
            return self._ask(f"{LIST}/{quote(id, safe='')}", {})
        except PermanentError as exc:
            if exc.status != 404:
                raise
        text = "ElevenLabs lists a conversation that it does not know"
        raise TransientError(text, service=SERVICE, code="conversation_not_found", status=404)

    def _ask(self, path: str, params: Mapping[str, str | int]) -> Answer:
        left = self._end - self._clock()
        if self._requests == MAX_REQUESTS or left <= 0:
            text = "ElevenLabs has more conversations of one call than can be read in time"
            raise TransientError(text, service=SERVICE, code="too_many")
        self._requests += 1
        connect = min(self._connect, left)
        return self._get(path, params, (connect, left - connect))


def is_id(value: object) -> TypeGuard[str]:
    """Whether it can be a conversation's id: printable ASCII without spaces, at most 200 characters."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def rows_of(answer: Answer) -> list[dict[str, Any]]:
    """The rows of one page of the list. Raises ServiceError where it has another shape."""
    rows = answer.body.get("conversations") if isinstance(answer.body, dict) else None
    if not (isinstance(rows, list) and all(_is_row(row) for row in rows)):
        raise _unexpected(answer)
    return rows


def _is_row(row: Any) -> bool:
    if not (isinstance(row, dict) and is_id(row.get("conversation_id"))):
        return False
    started, data = row.get("start_time_unix_secs") or 0, _client_data(row)
    return isinstance(started, int | float) and abs(started) < 1e12 and isinstance(data, dict)


def _user_id(item: Mapping[str, Any]) -> str:
    return str(item.get("user_id") or _client_data(item).get("user_id") or "")


def _client_data(item: Mapping[str, Any]) -> Any:
    return item.get("conversation_initiation_client_data") or {}


def _unexpected(answer: Answer) -> ServiceError:
    return unconfirmed_success("unexpected_body", answer.status, service=SERVICE, dial=False)
