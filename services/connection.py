"""One exchange over HTTP, bounded as a whole: connected within `connect` seconds, over within `connect` + `read`.

The timeouts of requests and urllib3 hold for each address and each wait, so a server that drips a byte at a time, or
sends `100 Continue` without end, keeps them waiting for hours. Here one deadline holds for DNS, every address, TLS, the
request, the headers and the body; each wait gets what is left of it. It needs no signal and no watchdog, so it works in
any thread. Only the system's DNS look-up cannot be interrupted: it runs in a daemon thread, which ends by itself.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import requests
from requests import exceptions as rq
from requests.adapters import HTTPAdapter
from urllib3 import exceptions as u3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import create_connection

from resilience.errors import LeaseExpired, Sent

MAX_BODY = 1 << 20
_CHUNK = 1 << 16


class Bounds:
    """The deadline of one request, and whether the caller may still send it once the connection is there."""

    def __init__(self, connect: float, read: float, lease_covers: Callable[[], bool]) -> None:
        now = time.monotonic()
        self._connected, self._over = now + connect, now + connect + read
        self.lease_covers = lease_covers

    def to_connect(self) -> float:
        """Seconds left for the connection. Raises TimeoutError where none are."""
        return _positive(self._connected - time.monotonic())

    def left(self) -> float:
        """Seconds left for the request. Raises TimeoutError where none are."""
        return _positive(self._over - time.monotonic())


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _Bounded(HTTPConnection):
    def __init__(self, bounds: Bounds, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds

    def _new_conn(self) -> socket.socket:
        failure: Exception = u3.NewConnectionError(self, "no address")
        try:
            addresses = _resolve(self._dns_host, self.port, self._bounds.to_connect())
        except socket.gaierror as exc:
            raise u3.NameResolutionError(self.host, self, exc) from exc
        for position, address in enumerate(addresses):
            try:
                # A fair share for each address: an unreachable one must not use up the time of the others.
                share = self._bounds.to_connect() / (len(addresses) - position)
                sock = create_connection(address, share, socket_options=self.socket_options)
                sock.settimeout(self._bounds.to_connect())
            except TimeoutError:
                failure = u3.ConnectTimeoutError(self, "no connection in time")
            except OSError as exc:
                failure = u3.NewConnectionError(self, str(exc))
            else:
                return sock
        raise failure

    def connect(self) -> None:
        failure: Exception | None = None
        try:
            super().connect()
        except u3.ConnectTimeoutError as exc:
            failure = exc
        except TimeoutError:
            failure = u3.ConnectTimeoutError(self, "no connection in time")
        # First the lease: the time may have run out because this process was suspended.
        if not self._bounds.lease_covers():
            self.close()
            raise LeaseExpired("the lease no longer covers the request; nothing was sent", service="", sent=Sent.NO)
        if failure:
            raise failure

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        rest = memoryview(data)
        while rest:
            self.sock.settimeout(self._bounds.left())
            rest = rest[self.sock.send(rest) :]

    def response_class(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        response = http.client.HTTPResponse(sock, **options)
        response.fp = io.BufferedReader(_Reader(response.fp.detach(), sock, self._bounds))
        return response


class _BoundedTLS(_Bounded, HTTPSConnection):
    pass


class _Reader(io.RawIOBase):
    """A socket's stream, of which each read waits for what is left of the request's time."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, bounds: Bounds) -> None:
        super().__init__()
        self._raw, self._sock, self._bounds = raw, sock, bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._bounds.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Adapter(HTTPAdapter):
    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self._bounds = bounds

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = partial(_BoundedTLS if pool.scheme == "https" else _Bounded, self._bounds)
        return pool


def exchange(wanted: requests.Request, bounds: Bounds, *, proxies: dict[str, str]) -> tuple[requests.Response, bytes]:
    """Send the request on a connection of its own. Returns the answer and its body, of a refusal what arrived of it.

    No redirect is followed. Raises the exceptions of requests, and LeaseExpired.
    """
    with requests.Session() as session:
        adapter = _Adapter(bounds)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        prepared = session.prepare_request(wanted)
        url = prepared.url or ""
        settings: Any = session.merge_environment_settings(url, proxies, True, None, None)
        # The adapter's send, not the session's, which reads a redirect's whole body and judges its Location.
        with session.get_adapter(url).send(prepared, **settings) as response:
            content, failure = _read(response)
    if failure is not None and response.status_code // 100 == 2:
        raise failure
    return response, content


def _read(response: requests.Response) -> tuple[bytes, Exception | None]:
    """The body, at most MAX_BODY of it, and why it ended early."""
    content = bytearray()
    try:
        for chunk in response.iter_content(_CHUNK):
            content += chunk
            if len(content) > MAX_BODY:
                return bytes(content[:MAX_BODY]), rq.ContentDecodingError()
    except rq.RequestException as exc:
        return bytes(content), exc
    return bytes(content), None


def _resolve(host: str, port: int, seconds: float) -> list[tuple[str, int]]:
    """The host's addresses. Raises socket.gaierror, also where there is no answer in time."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as exc:
            answer.set_exception(exc)

    threading.Thread(target=ask, name="dns", daemon=True).start()
    try:
        found = answer.result(seconds)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "no answer in time") from None
    return list(dict.fromkeys(address[:2] for *_, address in found))
