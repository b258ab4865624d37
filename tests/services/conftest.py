"""An HTTP receiver for the alert channels' tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.services.wire import serving


@dataclass(frozen=True)
class Arrival:
    """One request as it came. `headers` in lower case."""

    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


@dataclass(frozen=True)
class Reply:
    """One answer. `body`: text as it is, anything else as JSON. `silent`: no answer until the receiver ends."""

    status: int = 200
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    silent: bool = False
    hang_up: bool = False


class AlertReceiver(ThreadingHTTPServer):
    """Answers with `replies` in turn, the last one for ever, and keeps what arrived."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = [Reply()]
        self.arrivals: list[Arrival] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: AlertReceiver

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.arrivals.append(Arrival(self.path, headers, raw))
        replies = self.server.replies
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if reply.silent:
            self.server.over.wait(30)
        if reply.silent or reply.hang_up:
            return
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def alert_receiver() -> Iterator[AlertReceiver]:
    server = AlertReceiver()
    with serving(server, server.over):
        yield server


@pytest.fixture
def alert_reply() -> type[Reply]:
    return Reply
