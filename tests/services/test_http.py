"""The transport rows of the error table, each provoked on a real socket, for a dial and for everything else.

A dial is in doubt wherever its bytes may have arrived. Each case also holds that exactly one connection was made and
that the error's whole traceback shows neither key nor URL.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from resilience.errors import InDoubtError, PermanentError, Scope, Sent, ServiceError, TransientError
from services.connection import MAX_BODY
from services.failures import from_exception
from services.http import Answer, request
from tests.services.wire import (
    GOOD,
    Script,
    Wire,
    drips,
    drips_in_the_handshake,
    hangs_up_in_the_handshake,
    never_answers,
    refusing_port,
    resets,
    resets_in_the_body,
    resets_unread,
    sends,
)
from tests.support import wait_until

KEY, TOKEN = "xi-4f9a/secret", "bot77:AAF-token"
PATIENT, SHORT = (5.0, 5.0), (0.4, 0.4)
SLACK_S = 3.0  # for a busy machine; what drips or is silent goes on for 10 s


@pytest.fixture
def serve() -> Iterator[Callable[..., Wire]]:
    with ExitStack() as stack:

        def start(script: Script, context: ssl.SSLContext | None = None) -> Wire:
            wire = Wire(script, context)
            stack.callback(wire.close)
            return wire

        yield start


@pytest.fixture(autouse=True)
def _no_ambient_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))


@pytest.fixture
def full_address() -> Iterator[str]:
    """A listener that accepts nothing and whose queue is full, so that Linux drops every further SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("", 0))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", listener.getsockname()[1]))
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def resolves(monkeypatch: pytest.MonkeyPatch, name: str, *addresses: tuple[str, int]) -> None:
    """Has the system's resolver answer with these addresses for the host `name`."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *args: Any, **options: Any) -> Any:
        found = addresses if host == name else [(host, port)]
        return [entry for address in found for entry in real(*address, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def ask(base: str, *, dial: bool = False, **more: Any) -> Answer:
    return request(
        "POST",
        f"{base}/{TOKEN}/x",
        **{"service": "elevenlabs", "timeout": PATIENT, "headers": {"xi-api-key": KEY}, "json": {"to": 1}} | more,
        dial=dial,
        secrets=(KEY, TOKEN),
    )


def fails(base: str, *, dial: bool, **more: Any) -> ServiceError:
    """The error of one request, which shows no secret and drags none along."""
    with pytest.raises(ServiceError) as caught:
        ask(base, dial=dial, **more)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert not [secret for secret in (KEY, TOKEN, "4f9a", "AAF-token") if secret in shown]
    assert error.__context__ is None
    assert error.__cause__ is None
    return error


def check(error: ServiceError, code: str, kind: type[ServiceError], sent: Sent, *, counts: bool = True) -> None:
    assert (type(error), error.code, error.sent, error.counts) == (kind, code, sent, counts)
    assert error.scope is Scope.SERVICE
    assert error.status is None
    assert not error.alive


both = pytest.mark.parametrize("dial", [False, True], ids=["rest", "dial"])


@both
def test_16_a_connect_timeout_was_not_sent(full_address: str, dial: bool) -> None:
    check(fails(f"http://{full_address}", dial=dial, timeout=SHORT), "connect_timeout", TransientError, Sent.NO)


@both
def test_17_a_refused_connection_was_not_sent(dial: bool) -> None:
    check(fails(f"http://{refusing_port()}", dial=dial), "connect_failed", TransientError, Sent.NO)


@both
def test_17_an_unknown_host_name_was_not_sent(dial: bool) -> None:
    check(fails("http://lineman.invalid", dial=dial), "dns", TransientError, Sent.NO)


@both
def test_18_a_proxy_that_cannot_be_reached_was_not_sent(dial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{refusing_port()}")

    check(fails("http://lineman.invalid", dial=dial), "proxy", TransientError, Sent.NO)


@both
def test_18_a_proxy_that_fails_leaves_a_dial_in_doubt(
    serve: Callable[..., Wire], dial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = serve(sends(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"))
    monkeypatch.setenv("https_proxy", wire.url)

    check(fails("https://lineman.invalid", dial=dial), "proxy", in_doubt(dial), Sent.UNKNOWN)


@both
def test_19_a_certificate_nobody_vouches_for_is_permanent(
    serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool
) -> None:
    wire = serve(sends(GOOD), tls)

    check(fails(wire.url, dial=dial), "bad_certificate", PermanentError, Sent.NO, counts=False)
    assert wire.requests == []


@both
@pytest.mark.usefixtures("trusted")
def test_19_a_certificate_for_another_host_is_permanent(
    serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool
) -> None:
    wire = serve(sends(GOOD), tls)

    error = fails(wire.url.replace("127.0.0.1", "localhost"), dial=dial)

    check(error, "bad_certificate", PermanentError, Sent.NO, counts=False)


@both
def test_20_a_handshake_that_breaks_leaves_a_dial_in_doubt(serve: Callable[..., Wire], dial: bool) -> None:
    wire = serve(hangs_up_in_the_handshake)

    check(fails(wire.url.replace("http", "https"), dial=dial), "tls", in_doubt(dial), Sent.UNKNOWN)
    assert wire.connections == 1


def in_doubt(dial: bool) -> type[ServiceError]:
    return InDoubtError if dial else TransientError


IN_DOUBT: list[tuple[str, Script, str]] = [
    ("21 silence", never_answers, "read_timeout"),
    ("21 silence in the headers", sends(GOOD[:30], b"", pause=10), "read_timeout"),
    ("21 a status line that drips", drips(b"HTTP/1.1 20", b"0"), "read_timeout"),
    ("21 headers that drip", drips(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"), "read_timeout"),
    ("21 one 100 Continue after the other", drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "read_timeout"),
    ("21 silence in the body", sends(GOOD[:-4], b"", pause=10), "read_timeout"),
    ("21 a body that drips", drips(GOOD.replace(b"12", b"900")[:-12], b" "), "read_timeout"),
    ("21 a chunk's head that drips",
     drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"), "read_timeout"),
    ("21 a body without an end", drips(b"HTTP/1.1 200 OK\r\n\r\n", b" "), "read_timeout"),
    ("22 reset before the reading", resets_unread, "connection_lost"),
    ("22 reset after the reading", resets, "connection_lost"),
    ("22 hung up after the reading", sends(), "connection_lost"),
    ("22 no HTTP", sends(b"SSH-2.0-OpenSSH_9.6\r\n"), "connection_lost"),
    ("22 two lengths", sends(GOOD.replace(b"12\r\n", b"12\r\nContent-Length: 13\r\n")), "bad_answer"),
    ("23 cut short", sends(GOOD[:-4]), "unreadable_body"),
    ("23 cut short in a chunk",
     sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"o"), "unreadable_body"),
    ("23 reset in the body", resets_in_the_body, "unreadable_body"),
    ("23 not the encoding it names", sends(GOOD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")),
     "unreadable_body"),
    ("23 too long", sends(b"HTTP/1.1 200 OK\r\n\r\n", b" " * (MAX_BODY + 1)), "unreadable_body"),
]  # fmt: skip


@both
@pytest.mark.parametrize(("script", "code"), [pytest.param(*case[1:], id=case[0]) for case in IN_DOUBT])
def test_once_sent_an_answer_that_got_lost_leaves_a_dial_in_doubt(
    serve: Callable[..., Wire], script: Script, code: str, dial: bool
) -> None:
    wire = serve(script)
    started = time.monotonic()

    error = fails(wire.url, dial=dial, timeout=SHORT if code == "read_timeout" else PATIENT)

    check(error, code, in_doubt(dial), Sent.UNKNOWN)
    assert wire.connections == 1
    assert time.monotonic() - started < sum(SHORT) + SLACK_S
    assert ("may have been placed" in str(error)) is dial


@both
@pytest.mark.usefixtures("trusted")
def test_a_dripping_body_is_cut_off_under_tls_too(serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool) -> None:
    wire = serve(drips(GOOD.replace(b"12", b"900")[:-12], b" "), tls)
    started = time.monotonic()

    check(fails(wire.url, dial=dial, timeout=SHORT), "read_timeout", in_doubt(dial), Sent.UNKNOWN)
    assert time.monotonic() - started < sum(SHORT) + SLACK_S


@both
@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    "script",
    [
        drips(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers that drip", "100 Continue without end"],
)
def test_an_answer_that_drips_is_cut_off_under_tls_and_in_a_pools_thread(
    serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool, script: Script
) -> None:
    wire = serve(script, tls)
    started = time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(fails, wire.url, dial=dial, timeout=SHORT).result()

    check(error, "read_timeout", in_doubt(dial), Sent.UNKNOWN)
    assert time.monotonic() - started < sum(SHORT) + SLACK_S


@both
def test_a_tls_handshake_without_an_end_was_not_sent(serve: Callable[..., Wire], dial: bool) -> None:
    wire = serve(drips_in_the_handshake)
    started = time.monotonic()

    error = fails(wire.url.replace("http", "https"), dial=dial, timeout=(0.4, 9))

    check(error, "connect_timeout", TransientError, Sent.NO)
    assert time.monotonic() - started < 0.4 + SLACK_S


@both
def test_many_addresses_out_of_reach_share_the_connect_timeout(
    full_address: str, dial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(full_address.partition(":")[2])
    resolves(monkeypatch, "many.example", *((f"127.0.0.{n}", port) for n in range(1, 21)))
    started = time.monotonic()

    check(fails("http://many.example", dial=dial, timeout=(0.5, 9)), "connect_timeout", TransientError, Sent.NO)
    assert time.monotonic() - started < 0.5 + SLACK_S


def test_an_address_out_of_reach_leaves_time_for_the_next(
    serve: Callable[..., Wire], full_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = serve(sends(GOOD))
    full, good = (("127.0.0.1", int(each.partition(":")[2])) for each in (full_address, wire.address))
    resolves(monkeypatch, "two.example", full, good)

    assert ask("http://two.example", timeout=(1.0, 5.0)).status == 200


@both
def test_a_resolver_without_an_answer_was_not_sent(dial: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(20) and [])
    started = time.monotonic()

    error = fails("http://slow.example", dial=dial, timeout=(0.4, 9))
    took = time.monotonic() - started
    over.set()

    check(error, "dns", TransientError, Sent.NO)
    assert took < 0.4 + SLACK_S
    wait_until(
        lambda: "dns" not in [thread.name for thread in threading.enumerate()], what="the resolver's thread to end"
    )


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_thread_and_no_socket_outlives_its_request(serve: Callable[..., Wire], full_address: str) -> None:
    wire = serve(drips(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"))
    threads, descriptors = threading.active_count(), open_descriptors()

    for base in (f"http://{full_address}", f"http://{refusing_port()}", "http://lineman.invalid"):
        fails(base, dial=True, timeout=(0.1, 0.1))
    fails(wire.url, dial=True, timeout=(0.1, 0.1))
    wire.close()

    wait_until(lambda: threading.active_count() < threads, what="the threads to end")
    assert open_descriptors() < descriptors


@both
@pytest.mark.usefixtures("trusted")
def test_20_a_tls_connection_torn_off_leaves_a_dial_in_doubt(
    serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool
) -> None:
    wire = serve(sends(), tls)

    error = fails(wire.url, dial=dial)

    assert error.code in ("tls", "connection_lost")
    check(error, error.code, in_doubt(dial), Sent.UNKNOWN)


@both
def test_24_a_good_status_without_json_is_a_lost_receipt(serve: Callable[..., Wire], dial: bool) -> None:
    wire = serve(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n<html>hi</html>"))

    error = fails(wire.url, dial=dial, expect_json=True)

    assert (type(error), error.code, error.counts, error.status) == (in_doubt(dial), "not_json", True, 200)


def test_text_is_a_good_answer_to_a_caller_that_wants_no_json(serve: Callable[..., Wire]) -> None:
    wire = serve(sends(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))

    assert ask(wire.url).body == "ok"


@both
def test_json_nested_without_end_is_a_text_like_any_other(serve: Callable[..., Wire], dial: bool) -> None:
    wire = serve(sends(b"HTTP/1.1 500 Oops\r\n\r\n", b"[" * 100_000))

    assert fails(wire.url, dial=dial).status == 500


@both
def test_25_success_false_is_in_doubt_for_a_dial_only(serve: Callable[..., Wire], dial: bool) -> None:
    body = b'{"success": false, "message": "Twilio is down"}'
    wire = serve(sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)))

    if dial:
        assert (fails(wire.url, dial=True).code, wire.connections) == ("success_false", 1)
    else:
        assert ask(wire.url).status == 200


@both
@pytest.mark.parametrize(
    ("url", "key"),
    [
        pytest.param("api.elevenlabs.io", KEY, id="no scheme"),
        pytest.param("ftp://127.0.0.1", KEY, id="another scheme"),
        pytest.param("http://", KEY, id="no host"),
        pytest.param("http://[::1", KEY, id="half a bracket"),
        pytest.param("http://127.0.0.1:99999", KEY, id="no such port"),
        pytest.param("", f"{KEY}\r\nX: y", id="a key of two lines"),
        pytest.param("", f"{KEY}\n", id="a key with its line's end"),
        pytest.param("", f" {KEY}", id="a key with a space before it"),
        pytest.param("", f"{KEY}\u20ac", id="a key outside of latin-1"),
    ],
)
def test_26_what_cannot_be_sent_holds_the_service(serve: Callable[..., Wire], url: str, key: str, dial: bool) -> None:
    wire = serve(sends(GOOD))

    error = fails(url or wire.url, dial=dial, headers={"xi-api-key": key})

    check(error, "unsendable", PermanentError, Sent.NO, counts=False)
    assert wire.requests == []


@both
def test_26_a_ca_file_that_is_not_there_holds_the_service(
    serve: Callable[..., Wire], tls: ssl.SSLContext, dial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")

    error = fails(serve(sends(GOOD), tls).url, dial=dial)

    check(error, "unsendable", PermanentError, Sent.NO, counts=False)


@both
def test_a_field_that_json_cannot_hold_is_this_contacts_fault(serve: Callable[..., Wire], dial: bool) -> None:
    wire = serve(sends(GOOD))

    error = fails(wire.url, dial=dial, json={"score": float("nan")})

    assert (type(error), error.scope, error.sent) == (PermanentError, Scope.CONTACT, Sent.NO)
    assert wire.requests == []


def test_a_failure_nobody_named_is_permanent_but_leaves_a_dial_in_doubt() -> None:
    unnamed = requests.RequestException(f"something about {KEY}")

    rest, dialed = (from_exception(unnamed, "elevenlabs", dial) for dial in (False, True))

    check(rest, "unknown", PermanentError, Sent.UNKNOWN, counts=False)
    check(dialed, "unknown", InDoubtError, Sent.UNKNOWN, counts=False)
    assert KEY not in str(rest) + str(dialed)


@both
@pytest.mark.parametrize("location", ["http://127.0.0.1:1/", "http://[", ""])
def test_a_redirect_is_an_error_wherever_it_leads(serve: Callable[..., Wire], location: str, dial: bool) -> None:
    wire = serve(sends(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()))

    error = fails(wire.url, dial=dial)

    assert (type(error), error.code, error.status, error.sent) == (PermanentError, "redirect", 302, Sent.NO)
    assert wire.connections == 1


def test_the_body_of_a_redirect_is_bounded_too(serve: Callable[..., Wire]) -> None:
    wire = serve(drips(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 9999\r\n\r\n", b" "))
    started = time.monotonic()

    error = fails(wire.url, dial=True, timeout=(1.0, 1.0))

    assert error.code == "redirect"
    assert time.monotonic() - started < 2.0 + SLACK_S


@both
@pytest.mark.parametrize("rest", [b"", b"x" * (MAX_BODY + 1)], ids=["cut short", "too long"])
def test_a_refusal_counts_even_where_its_text_got_lost(serve: Callable[..., Wire], rest: bytes, dial: bool) -> None:
    wire = serve(sends(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 2000000\r\n\r\n", rest))

    error = fails(wire.url, dial=dial)

    assert (type(error), error.sent, error.retry_after) == (TransientError, Sent.NO, 7.0)
    assert wire.connections == 1


@both
@pytest.mark.parametrize("spelled", [KEY, KEY.replace("/", "%2F"), KEY.replace("/", "\\/")])
def test_a_key_that_the_service_repeats_is_hidden(serve: Callable[..., Wire], spelled: str, dial: bool) -> None:
    body = f'{{"detail": {{"code": "{TOKEN}", "message": "bad key {spelled}, at {TOKEN}"}}}}'.encode()
    head = f"HTTP/1.1 401 No\r\nrequest-id: {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    error = fails(serve(sends(head + body)).url, dial=dial)

    assert str(error).endswith("bad key ***, at ***")
    assert error.request_id == "***"


def test_a_good_answer_comes_back_whole(serve: Callable[..., Wire]) -> None:
    wire = serve(sends(GOOD))

    answer = ask(wire.url, params={"q": "a b"})

    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, {"ok": True}, "application/json")
    assert wire.requests[0].startswith(f"POST /{TOKEN}/x?q=a+b HTTP/1.1\r\n".encode())
    assert f"xi-api-key: {KEY}\r\n".encode() in wire.requests[0]
    assert wire.requests[0].endswith(b'\r\n\r\n{"to": 1}')


def test_each_request_has_a_connection_of_its_own(serve: Callable[..., Wire]) -> None:
    wire = serve(sends(GOOD, keep=True))

    ask(wire.url)
    ask(wire.url)

    assert wire.connections == 2


def test_loopback_is_asked_without_the_ambient_proxy(
    serve: Callable[..., Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://{refusing_port()}")

    assert ask(serve(sends(GOOD)).url).status == 200
    assert ask(serve(sends(GOOD)).url.replace("127.0.0.1", "localhost")).status == 200


def test_a_netrc_file_does_not_replace_our_authorization(
    serve: Callable[..., Wire], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wire = serve(sends(GOOD))

    ask(wire.url, headers={"Authorization": "Bearer ours"})

    assert b"Authorization: Bearer ours\r\n" in wire.requests[0]


def test_a_name_and_password_in_the_url_are_sent(serve: Callable[..., Wire]) -> None:
    wire = serve(sends(GOOD))

    ask(wire.url.replace("//", "//me:pw@"))

    assert b"Authorization: Basic bWU6cHc=\r\n" in wire.requests[0]
