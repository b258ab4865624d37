"""One HTTP request, sent once: a good answer, or one classified ServiceError.

Nothing is retried and no redirect is followed, because below the task nobody can know whether a repeat would ring a
phone twice. The connect and read timeouts hold for each wait on the socket; their sum bounds the reading of the body,
so a server that drips a byte at a time is cut off. A dial always has a new connection: on a kept one, a server that
had hung up in between looks just like one that hung up after the dial.

No message carries a URL, an exception's text or one of the `secrets`.
"""

from __future__ import annotations

import json as jsonlib
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
from requests import exceptions as rq
from requests.utils import get_auth_from_url
from urllib3 import exceptions as u3

from resilience.errors import InDoubtError, PermanentError, Scope, Sent, ServiceError, TransientError
from services.classification import classify, display_name

MAX_BODY = 1 << 20
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Answer:
    """A good answer. `headers` go by any case; `body` is the parsed JSON, or the text where it is none."""

    status: int
    headers: Mapping[str, str]
    body: Any


class _Fault(NamedTuple):
    code: str
    text: str
    kind: type[ServiceError] = TransientError
    dial: type[ServiceError] = InDoubtError
    scope: Scope = Scope.SERVICE
    sent: Sent = Sent.UNKNOWN
    counts: bool = True


def _unsent(code: str, text: str, kind: type[ServiceError] = TransientError, scope: Scope = Scope.SERVICE) -> _Fault:
    return _Fault(code, f"{text}; nothing was sent", kind, kind, scope, Sent.NO, counts=kind is TransientError)


_CERTIFICATE = _unsent(
    "bad_certificate", "{} shows a certificate that cannot be verified: check its address and our CAs", PermanentError
)
_BAD_JSON = _unsent("unsendable", "a field cannot be sent to {} as JSON", PermanentError, Scope.CONTACT)
_UNSENDABLE = _unsent(
    "unsendable", "no request to {} can be made: check its address, its key and the CA file", PermanentError
)
_DNS = _unsent("dns", "{}: its host name cannot be resolved")
_REFUSED = _unsent("connect_failed", "{} cannot be reached: no connection")
_CONNECT_TIMEOUT = _unsent("connect_timeout", "{} cannot be reached: no connection in time")
_PROXY_DOWN = _unsent("proxy", "{} cannot be reached: no connection to the proxy")
_PROXY = _Fault("proxy", "{} cannot be reached: the proxy failed")
_TLS = _Fault("tls", "the TLS connection to {} broke")
_READ_TIMEOUT = _Fault("read_timeout", "{} did not answer in time")
_BODY = _Fault("unreadable_body", "{} answered, but with a body cut short, wrongly encoded or over 1 MiB")
_BAD_ANSWER = _Fault("bad_answer", "{} answered with headers that cannot be read")
_LOST = _Fault("connection_lost", "{} closed the connection before it answered")
_UNKNOWN = _Fault("unknown", "{} could not be asked, for a reason that has no name yet", PermanentError, counts=False)


def request(
    method: str,
    url: str,
    *,
    service: str,
    timeout: tuple[float, float],
    headers: Mapping[str, str] | None = None,
    json: object = None,
    data: bytes | str | Mapping[str, str] | None = None,
    params: Mapping[str, str | int] | None = None,
    dial: bool = False,
    secrets: Collection[str] = (),
    session: requests.Session | None = None,
    expect_json: bool = False,
    accept: Collection[int] = (),
) -> Answer:
    """Send one request. `timeout` is (connect, read) in seconds.

    `session` keeps connections between calls; a dial never uses it. An answer with a status in `accept` is returned
    as it is, for a caller that has to read a refusal's body. Raises ServiceError: with `dial`, InDoubtError
    wherever the phone may have rung; with `expect_json`, also for a good status whose body is no JSON.
    """
    failure: ServiceError | None
    try:
        # Without an auth of our own, requests would put one from ~/.netrc over our Authorization header.
        auth = get_auth_from_url(url)
        own: Any = auth if any(auth) else lambda prepared: prepared
        wanted = requests.Request(method, url, headers=headers, json=json, data=data, params=params, auth=own)
        with requests.Session() if dial or session is None else nullcontext(session) as chosen:
            answer = _exchange(chosen, wanted, timeout)
    except (OSError, ValueError, u3.HTTPError) as exc:
        failure = from_exception(exc, service, dial)
    else:
        if answer.status in accept:
            return answer
        failure = classify(
            answer.status, answer.body, answer.headers, service=service, dial=dial, secrets=tuple(secrets)
        )
        if failure is None and expect_json and isinstance(answer.body, str):
            failure = unconfirmed_success("not_json", answer.status, service=service, dial=dial)
        if failure is None:
            return answer
    raise failure  # outside of the except block: its context would carry URLs and keys


def from_exception(exc: Exception, service: str, dial: bool) -> ServiceError:
    """What an exception of requests means; nothing of its text is kept."""
    fault = _fault(exc)
    return (fault.dial if dial else fault.kind)(
        fault.text.format(display_name(service)) + _doubt(fault.dial, dial),
        service=service,
        code=fault.code,
        scope=fault.scope,
        sent=fault.sent,
        counts=fault.counts,
    )


def unconfirmed_success(code: str, status: int, *, service: str, dial: bool) -> ServiceError:
    """The error for a good status whose body is not what was asked for."""
    kind = InDoubtError if dial else TransientError
    text = f"{display_name(service)} answered {status}, but not in the form that was agreed ({code})"
    sent = Sent.UNKNOWN if dial else Sent.YES
    return kind(text + _doubt(kind, dial), service=service, code=code, status=status, sent=sent, counts=True)


def _doubt(kind: type[ServiceError], dial: bool) -> str:
    return "; the call may have been placed" if dial and kind is InDoubtError else ""


def _fault(exc: Exception) -> _Fault:
    links = list(_links(exc))

    def has(kind: type[Exception]) -> bool:
        return any(isinstance(link, kind) for link in links)

    # The order matters: requests' SSLError, ProxyError and ConnectTimeout are ConnectionErrors; a certificate's error,
    # and the one for an answer's bad header, are ValueErrors like those for a request that was never sent. What is
    # neither of requests nor of urllib3 comes from before the sending: a CA file that is not there.
    rules = (
        (has(ssl.SSLCertVerificationError), _CERTIFICATE),
        (has(u3.InvalidHeader), _BAD_ANSWER),
        (isinstance(exc, rq.InvalidJSONError), _BAD_JSON),
        (isinstance(exc, ValueError) or not isinstance(exc, rq.RequestException | u3.HTTPError), _UNSENDABLE),
        (isinstance(exc, rq.SSLError), _TLS),
        (isinstance(exc, rq.ProxyError), _PROXY_DOWN if has(u3.ConnectTimeoutError) else _PROXY),
        (has(u3.NameResolutionError), _DNS),
        (has(u3.NewConnectionError), _REFUSED),
        (isinstance(exc, rq.ConnectTimeout), _CONNECT_TIMEOUT),
        (isinstance(exc, rq.ReadTimeout) or has(u3.ReadTimeoutError), _READ_TIMEOUT),
        (isinstance(exc, rq.ChunkedEncodingError | rq.ContentDecodingError), _BODY),
        (isinstance(exc, rq.ConnectionError), _LOST),
    )
    return next((fault for holds, fault in rules if holds), _UNKNOWN)


def _links(exc: BaseException | None) -> Iterator[BaseException]:
    """The exception and those that it wraps. Not its __context__, which may be of an earlier try."""
    while exc is not None:
        yield exc
        inner = (getattr(exc, "reason", None), getattr(exc, "original_error", None), *exc.args)
        exc = next((link for link in inner if isinstance(link, BaseException)), None)


def _exchange(session: requests.Session, wanted: requests.Request, timeout: tuple[float, float]) -> Answer:
    deadline = time.monotonic() + sum(timeout)
    prepared = session.prepare_request(wanted)
    url = prepared.url or ""
    proxies = {"no_proxy": "*"} if _is_loopback(url) else {}
    settings: Any = session.merge_environment_settings(url, proxies, True, None, None)
    # The adapter's send, not the session's, which reads a redirect's whole body and judges its Location.
    with session.get_adapter(url).send(prepared, timeout=timeout, **settings) as response:
        content, failure = _read(response, deadline - time.monotonic())
        # A refusal is one even where its text got lost.
        if failure is not None and response.status_code // 100 == 2:
            raise failure
        return Answer(response.status_code, response.headers, _parsed(content))


def _read(response: requests.Response, seconds: float) -> tuple[bytes, Exception | None]:
    """The body, at most MAX_BODY of it, and why it ended early."""
    expired = threading.Event()

    def cut() -> None:
        expired.set()
        with suppress(OSError, RuntimeError, ValueError):  # it has just been closed
            response.raw.shutdown()

    timer = threading.Timer(max(0.0, seconds), cut)
    timer.daemon = True
    timer.start()
    content = bytearray()
    failure: Exception | None = None
    try:
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > MAX_BODY:
                return bytes(content[:MAX_BODY]), rq.ContentDecodingError()
            if expired.is_set():
                break
    except rq.RequestException as exc:
        failure = exc
    except (OSError, ValueError, u3.HTTPError):  # a connection that was cut meanwhile
        failure = rq.ChunkedEncodingError()
    finally:
        timer.cancel()
    return bytes(content), rq.ReadTimeout() if expired.is_set() else failure


def _parsed(content: bytes) -> Any:
    try:
        return jsonlib.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
