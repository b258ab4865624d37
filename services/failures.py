"""What a failed exchange means: one table of the exceptions of requests, urllib3 and ssl, first match wins.

A dial is in doubt wherever a byte of it may have been sent. Nothing of an exception's text is kept: it may hold a URL
or a key.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NamedTuple

from requests import exceptions as rq
from urllib3 import exceptions as u3

from resilience.errors import InDoubtError, PermanentError, Scope, Sent, ServiceError, TransientError
from services.classification import display_name


class _Fault(NamedTuple):
    code: str
    text: str
    kind: type[ServiceError] = TransientError
    dial: type[ServiceError] = InDoubtError
    scope: Scope = Scope.SERVICE
    sent: Sent = Sent.UNKNOWN
    counts: bool = True
    named: bool = True


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
_UNKNOWN = _Fault(
    "unknown", "{} could not be asked, for an unclassified reason", PermanentError, counts=False, named=False
)


def from_exception(exc: Exception, service: str, dial: bool) -> ServiceError:
    """The error for an exception of one exchange."""
    fault = _fault(exc)
    return (fault.dial if dial else fault.kind)(
        fault.text.format(display_name(service)) + doubt(fault.dial, dial),
        service=service,
        code=fault.code,
        scope=fault.scope,
        sent=fault.sent,
        counts=fault.counts,
        named=fault.named,
    )


def doubt(kind: type[ServiceError], dial: bool) -> str:
    """What an error of this kind adds to its message."""
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
        (isinstance(exc, rq.ReadTimeout) or has(u3.ReadTimeoutError) or has(TimeoutError), _READ_TIMEOUT),
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
