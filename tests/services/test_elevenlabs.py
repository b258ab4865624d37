"""The ElevenLabs client against a small HTTP server."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from resilience.errors import InDoubtError, PermanentError, Scope, Sent, ServiceError, ThrottledError, TransientError
from services.conversations import MAX_REQUESTS, Conversation
from services.elevenlabs import ElevenLabs
from tests.services.wire import serving

KEY, PHONE, CALL, HOME = "xi-4f9a-secret", "+14155550100", "spring:42", "3f2a9c"
PLACED = {"success": True, "message": "ok", "conversation_id": "conv_1", "callSid": "CA1"}


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    key: str | None
    body: Any


class Provider(ThreadingHTTPServer):
    """Answers with `answers` in turn, the last one for ever: (status, body), a text as it is; each after `delay` s.

    A request whose path ends with the name of one of `records` gets that instead.
    """

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[tuple[int, Any]] = [(200, PLACED)]
        self.records: dict[str, Any] = {}
        self.seen: list[Seen] = []
        self.delay = 0.0
        self.over = threading.Event()

    def client(self, key: str = KEY, timeout: tuple[float, float] = (5.0, 5.0)) -> ElevenLabs:
        return ElevenLabs(
            base_url=f"http://127.0.0.1:{self.server_port}/",
            api_key=key,
            agent_id="agent_1",
            agent_phone_number_id="phnum_1",
            timeout=timeout,
        )


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append(
            Seen(self.command, url.path, parse_qs(url.query), self.headers["xi-api-key"], json.loads(raw or "null"))
        )
        answers, record = self.server.answers, self.server.records.get(url.path.rpartition("/")[2])
        self.server.over.wait(self.server.delay)
        if record is not None:
            status, body = record if isinstance(record, tuple) else (200, record)
        else:
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def provider() -> Iterator[Provider]:
    server = Provider()
    with serving(server, server.over):
        yield server


def dial(client: ElevenLabs, **variables: object) -> str:
    return client.dial(
        phone=PHONE, call_id=CALL, attempt_id=f"{CALL}:2", variables=variables, lease_covers=lambda: True
    )


def look_up(client: ElevenLabs, **options: Any) -> list[Conversation]:
    return client.look_up(CALL, installation=HOME, **options)


def page(*items: dict[str, Any], **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"conversations": list(items), "has_more": False, "next_cursor": None} | more


def item(name: str, started: int = 1000, **more: Any) -> dict[str, Any]:
    return {"conversation_id": name, "status": "done", "start_time_unix_secs": started} | more


def record(
    attempt: int, *, call: str = CALL, user_id: str = "", status: str = "done", variables: Any = None
) -> dict[str, Any]:
    """A conversation's own record, in the API's form."""
    own = {"installation_id": HOME} if variables is None else variables
    data = {"user_id": user_id or call, "dynamic_variables": {"attempt_id": f"{call}:{attempt}", **own}}
    return {"user_id": user_id or call, "status": status, "conversation_initiation_client_data": data}


def test_a_dial_is_one_post_that_carries_the_call_and_the_attempt(provider: Provider) -> None:
    conversation = dial(provider.client(), name="Ada", attempt_id="forged")

    assert conversation == "conv_1"
    expected = {
        "agent_id": "agent_1",
        "agent_phone_number_id": "phnum_1",
        "to_number": PHONE,
        "conversation_initiation_client_data": {
            "user_id": CALL,
            "dynamic_variables": {"name": "Ada", "attempt_id": f"{CALL}:2"},
        },
    }
    assert provider.seen == [Seen("POST", "/v1/convai/twilio/outbound-call", {}, KEY, expected)]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("<html>hi</html>", "not_json", id="no JSON"),
        pytest.param("", "not_json", id="nothing"),
        pytest.param({"success": True}, "no_conversation_id", id="no id"),
        pytest.param({"success": True, "conversation_id": None}, "no_conversation_id", id="no id, but a null"),
        pytest.param({"success": True, "conversation_id": ""}, "no_conversation_id", id="an empty id"),
        pytest.param({"success": True, "conversation_id": 7}, "no_conversation_id", id="an id that is no text"),
        pytest.param({"success": True, "conversation_id": "conv 1"}, "no_conversation_id", id="an id with a space"),
        pytest.param(
            {"success": True, "conversation_id": "c\u00f6nv"}, "no_conversation_id", id="an id outside of ASCII"
        ),
        pytest.param({"success": True, "conversation_id": "c" * 201}, "no_conversation_id", id="an id without an end"),
        pytest.param(["conv_1"], "no_conversation_id", id="a list"),
        pytest.param({"success": False, "message": "Twilio is down"}, "success_false", id="success false"),
    ],
)
def test_a_dial_without_its_receipt_is_in_doubt(provider: Provider, body: Any, code: str) -> None:
    provider.answers = [(200, body)]

    with pytest.raises(InDoubtError) as caught:
        dial(provider.client())

    assert (caught.value.code, caught.value.counts, caught.value.sent) == (code, True, Sent.UNKNOWN)
    assert len(provider.seen) == 1


def test_a_number_that_cannot_be_called_concerns_this_contact_only(provider: Provider) -> None:
    provider.answers = [(200, {"success": False, "message": f"The number {PHONE} is not a valid phone number."})]

    with pytest.raises(PermanentError) as caught:
        dial(provider.client())

    assert (caught.value.scope, caught.value.sent) == (Scope.CONTACT, Sent.NO)
    assert PHONE[1:] not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(503, TransientError), (500, InDoubtError), (429, ThrottledError), (401, PermanentError), (302, PermanentError)],
)
def test_a_dial_that_fails_is_classified_and_never_repeated(
    provider: Provider, status: int, kind: type[ServiceError]
) -> None:
    provider.answers = [(status, "")]

    with pytest.raises(ServiceError) as caught:
        dial(provider.client())

    assert type(caught.value) is kind
    assert len(provider.seen) == 1


def test_a_call_is_looked_up_by_its_id_in_the_last_week_and_confirmed_by_its_record(provider: Provider) -> None:
    provider.answers = [page(item("new", 2000), item("old", 1000))]
    provider.records = {"new": record(2), "old": record(1)}

    found = look_up(provider.client())

    assert found == [Conversation("old", f"{CALL}:1", True), Conversation("new", f"{CALL}:2", True)]
    [listed, *records] = provider.seen
    since = int(listed.query.pop("call_start_after_unix")[0])
    assert abs(time.time() - 7 * 24 * 3600 - since) < 60
    assert listed == Seen("GET", "/v1/convai/conversations", {"user_id": [CALL], "page_size": ["100"]}, KEY, None)
    assert [seen.path for seen in records] == [f"/v1/convai/conversations/{id}" for id in ("new", "old")]


def test_an_empty_list_proves_that_there_is_none(provider: Provider) -> None:
    provider.answers = [page()]

    assert look_up(provider.client()) == []


def test_every_page_is_read_and_a_conversation_on_two_pages_counts_once(provider: Provider) -> None:
    provider.answers = [page(item("a", 3), has_more=True, next_cursor="p2"), page(item("a", 3), item("b", 1))]
    provider.records = {"a": record(2), "b": record(1)}

    assert [conversation.id for conversation in look_up(provider.client())] == ["b", "a"]
    assert [seen.query.get("cursor") for seen in provider.seen if seen.query] == [None, ["p2"]]
    assert len(provider.seen) == 4


def test_a_list_without_an_end_proves_nothing(provider: Provider) -> None:
    provider.answers = [page(has_more=True, next_cursor="again")]

    with pytest.raises(TransientError, match="more conversations"):
        look_up(provider.client())

    assert len(provider.seen) == MAX_REQUESTS


def test_a_look_up_is_bounded_in_time_as_a_whole(provider: Provider) -> None:
    provider.answers, provider.delay = [page(has_more=True, next_cursor="again")], 0.3
    started = time.monotonic()

    with pytest.raises(TransientError):
        look_up(provider.client(), timeout=(0.2, 0.5))

    assert len(provider.seen) < MAX_REQUESTS
    assert time.monotonic() - started < 0.7 + 2


OTHERS = [
    pytest.param(record(1, call="spring:43"), id="another call"),
    pytest.param(record(1, user_id="spring:43"), id="another user"),
    pytest.param(record(1) | {"user_id": None, "conversation_initiation_client_data": {}}, id="nobody's"),
    pytest.param(record(1, call=f"{CALL}:7") | {"user_id": None}, id="a call whose id is longer"),
    pytest.param(record(1, status="failed"), id="failed"),
]


@pytest.mark.parametrize("theirs", OTHERS)
def test_a_filter_that_is_ignored_makes_no_foreign_conversation_ours(provider: Provider, theirs: Any) -> None:
    """The list's rows carry no user id, so one contact adopted the conversation of another and was never called."""
    provider.answers = [page(item("theirs"), item("ours"))]
    provider.records = {"theirs": theirs, "ours": record(3)}

    assert [conversation.id for conversation in look_up(provider.client())] == ["ours"]


def test_a_row_that_names_somebody_else_needs_no_request(provider: Provider) -> None:
    theirs = item("b", conversation_initiation_client_data={"user_id": "spring:43"})
    provider.answers = [page(item("a", user_id="spring:43"), theirs, item("c", user_id=CALL))]
    provider.records = {"c": record(1)}

    assert [conversation.id for conversation in look_up(provider.client())] == ["c"]
    assert len(provider.seen) == 2


def test_more_strangers_than_a_look_up_may_ask_for_prove_nothing(provider: Provider) -> None:
    provider.answers = [page(*(item(f"c{n}") for n in range(100)))]
    provider.records = {f"c{n}": record(1, call=f"other:{n}") for n in range(100)}

    with pytest.raises(TransientError, match="more conversations"):
        look_up(provider.client())

    assert len(provider.seen) == MAX_REQUESTS


@pytest.mark.parametrize(
    ("variables", "ours"),
    [
        pytest.param({"installation_id": HOME}, True, id="ours"),
        pytest.param({"installation_id": "staging"}, False, id="another's"),
        pytest.param({}, True, id="of a release that sent none"),
    ],
)
def test_another_installation_in_the_same_workspace_is_recognised(
    provider: Provider, variables: dict[str, str], ours: bool
) -> None:
    provider.answers = [page(item("a"))]
    provider.records = {"a": record(1, variables=variables)}

    assert look_up(provider.client()) == [Conversation("a", f"{CALL}:1", ours)]


@pytest.mark.parametrize(
    "zero_retention", [{"user_id": CALL}, {"conversation_initiation_client_data": {"user_id": CALL}}]
)
def test_a_record_without_variables_is_known_by_its_user_id(provider: Provider, zero_retention: dict[str, Any]) -> None:
    provider.answers, provider.records = [page(item("a"))], {"a": {"status": "done"} | zero_retention}

    assert look_up(provider.client()) == [Conversation("a", "", True)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "<html>hi</html>",
        {"conversations": None},
        {"conversations": {}},
        {"conversations": ""},
        {"conversations": [None]},
        {"conversations": [{"status": "done"}]},
        {"conversations": [{"conversation_id": ""}]},
        {"conversations": [{"conversation_id": "a\nb"}]},
        {"conversations": [{"conversation_id": "a", "start_time_unix_secs": "noon"}]},
        {"conversations": [{"conversation_id": "a", "start_time_unix_secs": 10**400}]},
        {"conversations": [{"conversation_id": "a", "conversation_initiation_client_data": 7}]},
        {"conversations": [], "has_more": True},
        {"conversations": [], "has_more": True, "next_cursor": 7},
    ],
    ids=str,
)
def test_a_list_of_the_wrong_shape_proves_nothing(provider: Provider, body: Any) -> None:
    provider.answers = [(200, body)]

    with pytest.raises(TransientError) as caught:
        look_up(provider.client())

    assert caught.value.counts


@pytest.mark.parametrize(
    "body",
    [
        [],
        "<html>hi</html>",
        {"conversation_initiation_client_data": 7},
        {"user_id": CALL, "conversation_initiation_client_data": {"dynamic_variables": "x"}},
    ],
    ids=str,
)
def test_a_record_of_the_wrong_shape_proves_nothing(provider: Provider, body: Any) -> None:
    provider.answers, provider.records = [page(item("a"))], {"a": body}

    with pytest.raises(TransientError):
        look_up(provider.client())


@pytest.mark.parametrize(
    ("status", "kind", "named"),
    [
        (500, TransientError, True),
        (401, PermanentError, False),
        (404, PermanentError, False),
        (422, PermanentError, False),
    ],
)
def test_a_look_up_that_fails_proves_nothing_and_is_no_contacts_fault(
    provider: Provider, status: int, kind: type[ServiceError], named: bool
) -> None:
    provider.answers = [page(has_more=True, next_cursor="p2"), (status, "")]

    with pytest.raises(kind) as caught:
        look_up(provider.client())

    assert (caught.value.scope, caught.value.named) == (Scope.SERVICE, named)


def test_a_key_without_the_lists_scope_is_named(provider: Provider) -> None:
    provider.answers = [(401, {"detail": {"status": "missing_permissions", "message": "no convai_read"}})]

    with pytest.raises(PermanentError) as caught:
        look_up(provider.client())

    assert (caught.value.scope, caught.value.named) == (Scope.SERVICE, True)


def test_a_conversation_of_ours_counts_even_where_the_rest_of_the_list_is_lost(provider: Provider) -> None:
    provider.answers = [page(item("a"), has_more=True, next_cursor="p2"), (503, "")]
    provider.records = {"a": record(1)}

    assert [conversation.id for conversation in look_up(provider.client())] == ["a"]


def test_a_conversation_that_is_listed_and_unknown_proves_nothing(provider: Provider) -> None:
    provider.answers = [page(item("a"))]
    provider.records = {"a": (404, {"detail": {"status": "conversation_not_found"}})}

    with pytest.raises(TransientError) as caught:
        look_up(provider.client())

    assert not caught.value.counts


@pytest.mark.parametrize(("listed", "has"), [(page(item("a")), True), (page(), False)])
def test_an_agent_has_called_where_it_has_any_conversation(provider: Provider, listed: Any, has: bool) -> None:
    provider.answers = [listed]

    assert provider.client().has_called() is has
    assert provider.seen == [
        Seen("GET", "/v1/convai/conversations", {"agent_id": ["agent_1"], "page_size": ["1"]}, KEY, None)
    ]


def test_a_store_is_not_taken_for_new_where_the_answer_is_lost(provider: Provider) -> None:
    provider.answers = [(200, {"conversations": None})]

    with pytest.raises(TransientError):
        provider.client().has_called()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(200, {"character_count": 9, "character_limit": 10, "status": "active"}, id="quota left"),
        pytest.param(200, {"character_count": 9, "character_limit": 0}, id="no quota"),
        pytest.param(200, {"character_count": None}, id="no counts"),
        pytest.param(200, [], id="another path's answer"),
        pytest.param(401, {"detail": {"status": "missing_permissions", "message": "no"}}, id="no scope, by status"),
        pytest.param(
            403,
            {"detail": {"type": "authorization_error", "message": "You are missing the permission user_read to do so"}},
            id="no scope, by message",
        ),
    ],
)
def test_a_service_that_answers_with_quota_left_is_well(provider: Provider, status: int, body: Any) -> None:
    provider.answers = [(status, body)]

    provider.client().health()

    assert [seen.path for seen in provider.seen] == ["/v1/user/subscription"]


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        pytest.param(200, {"character_count": 10, "character_limit": 10}, PermanentError, "quota_exceeded", id="spent"),
        pytest.param(200, "<html>log in</html>", TransientError, "not_json", id="a captive portal"),
        pytest.param(401, {"detail": {"status": "invalid_api_key"}}, PermanentError, "invalid_api_key", id="dead key"),
        pytest.param(500, {"detail": "missing the permission user_read"}, TransientError, "http_500", id="sick"),
        pytest.param(503, "", TransientError, "http_503", id="busy"),
    ],
)
def test_a_service_that_is_unwell_says_why(
    provider: Provider, status: int, body: Any, kind: type[ServiceError], code: str
) -> None:
    provider.answers = [(status, body)]

    with pytest.raises(ServiceError) as caught:
        provider.client().health()

    assert (type(caught.value), caught.value.code, caught.value.scope) == (kind, code, Scope.SERVICE)


def test_the_health_check_goes_to_the_path_it_is_given(provider: Provider) -> None:
    provider.client().health("/v1/models")

    assert provider.seen[0].path == "/v1/models"


@pytest.mark.parametrize("key", [KEY, f"{KEY}\n", f"{KEY}\r\nX: y", f"{KEY}\u20ac"])
@pytest.mark.parametrize("act", [dial, look_up, lambda c: c.health()], ids=["dial", "look", "health"])
def test_no_error_shows_the_key(provider: Provider, act: Callable[[ElevenLabs], object], key: str) -> None:
    provider.answers = [(401, {"detail": {"status": "invalid_api_key", "message": f"{KEY} is not a key"}})]
    client = provider.client(key)

    with pytest.raises(PermanentError) as caught:
        act(client)

    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(client)
    assert "4f9a" not in shown
    assert error.scope is Scope.SERVICE
