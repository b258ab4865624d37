"""The providers' stand-in: one real HTTP server on loopback that answers for all of them, and fails on demand.

`with StandIn() as s:` serves at `s.url` in threads; `python -m demo.stand_in` serves until SIGTERM and prints one JSON
line whose `env` points Lineman at it. Faults: `s.fault(...)`, or the same over `POST /_control/fault` (demo/faults.py).
The truth is kept apart from what was answered: `s.requests` is every request, `s.rang` every telephone that rang.
Neither holds a phone number or a token.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import struct
import threading
import time
import uuid
from collections import namedtuple
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from weakref import WeakSet

from demo.faults import Fault, Faults
from demo.providers import COMPLETION, SUBSCRIPTION, Answer, ElevenLabs, Rang, Request
from demo.sinks import Alerts, SmtpSink

Route = namedtuple("Route", "method path service endpoint answer")
# One request. `answer` is the HTTP status, or how it ended (`Kind.ending`).
Logged = namedtuple("Logged", "monotonic unix method path service endpoint call_id attempt_id answer")


class StandIn:
    """The server. `fault`, `mix`, `outage`, `recover` are those of `Faults`. OSError if the port is taken.

    `clock` is the provider's own, in unix seconds.
    """

    def __init__(self, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        self.requests: list[Logged] = []  # appending to a list is atomic, so there is no lock
        self.alerts, self._elevenlabs = Alerts(), ElevenLabs(clock)
        self.routes = _routes(self._elevenlabs, self.alerts)
        endpoints: dict[str, set[str]] = {"smtp": {"mail"}}
        for route in self.routes:
            endpoints.setdefault(route.service, set()).add(route.endpoint)
        self.faults = Faults(endpoints)
        self.fault, self.mix = self.faults.fault, self.faults.mix
        self.outage, self.recover = self.faults.outage, self.faults.recover
        self.closing = threading.Event()
        self._server = _Server(port, self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def rang(self) -> list[Rang]:
        """(call_id, attempt_id, conversation_id, unix time) of each dial that was accepted, oldest first."""
        return list(self._elevenlabs.rang)

    def answer(self, route: Route, request: Request, fault: Fault, path: str) -> tuple[Answer, str]:
        """Take effect if the fault lets it, and log. What the endpoint itself refuses is answered so, fault or not."""
        own = route.answer(request) if fault.kind.accepted else (0, {})
        faulty = fault.kind.status and own[0] < 400
        answer = (fault.kind.status, fault.body(route.service)) if faulty else own
        ending = "" if own[0] >= 400 else fault.kind.ending
        shown = re.sub(r"^/bot[^/]+", "/bot***", path)
        where = (route.method, shown, route.service, route.endpoint)
        self.requests.append(Logged(time.monotonic(), time.time(), *where, *request.ids, ending or str(answer[0])))
        return answer, ending

    def control(self, name: str, body: dict[str, Any]) -> Answer:
        """The control plane: a verb with its arguments, answered by {}, or the name of a record."""
        records: dict[str, dict[str, list[Any]]] = {
            "ready": {},
            "requests": {"requests": self.requests},
            "rang": {"rang": self.rang},
            "alerts": vars(self.alerts),
        }
        if name in records:
            return 200, {key: [row._asdict() for row in list(rows)] for key, rows in records[name].items()}
        if name not in ("fault", "mix", "outage", "recover"):
            return 404, {"error": f"no {name!r} in the control plane"}
        try:
            getattr(self, name)(**body)
        except (TypeError, ValueError) as exc:
            return 400, {"error": str(exc)}
        return 200, {}


def _routes(elevenlabs: ElevenLabs, alerts: Alerts) -> list[Route]:
    def keyed(endpoint: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        unauthorized = 401, Fault("invalid_api_key").body("elevenlabs")
        return lambda request: endpoint(request) if request.headers.get("xi-api-key") else unauthorized

    found = "/v1/convai/conversations"
    return [
        Route("POST", "/v1/convai/twilio/outbound-call", "elevenlabs", "dial", keyed(elevenlabs.dial)),
        Route("GET", found, "elevenlabs", "conversations", keyed(elevenlabs.conversations)),
        Route("GET", f"{found}/([^/]+)", "elevenlabs", "conversation", keyed(elevenlabs.conversation)),
        Route("GET", "/v1/user/subscription", "elevenlabs", "subscription", keyed(lambda _: (200, SUBSCRIPTION))),
        Route("POST", "/crm/v3/objects/calls", "crm", "calls", lambda _: (201, {"id": str(uuid.uuid4().int)})),
        Route("GET", "/crm/v3/objects/contacts", "crm", "contacts", lambda _: (200, {"results": []})),
        Route("GET", "/models", "llm", "models", lambda _: (200, {"object": "list", "data": [{"id": "stand-in"}]})),
        Route("POST", "/chat/completions", "llm", "completions", lambda _: (200, COMPLETION)),
        Route("POST", "/bot[^/]+/sendMessage", "telegram", "send_message", lambda r: alerts.telegram(r.body)),
        Route("POST", "/webhook", "webhook", "post", lambda r: alerts.webhook(r.body, r.raw, r.headers)),
    ]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, port: int, stand_in: StandIn) -> None:
        self.stand_in, self._open = stand_in, WeakSet[socket.socket]()
        super().__init__(("127.0.0.1", port), _Exchange)

    def get_request(self) -> Any:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def server_close(self) -> None:
        """Hang up on those still connected, so that no socket and no thread outlives the server."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a caller may hang up at any time
            super().handle()

    def do_GET(self) -> None:
        url, stand_in = urlsplit(self.path), self.server.stand_in
        if url.path.startswith("/_control/"):
            return self._send(stand_in.control(url.path.removeprefix("/_control/"), self._body()[1]))
        for route in stand_in.routes:
            if route.method == self.command and (match := re.fullmatch(route.path, url.path)):
                fault = stand_in.faults.take(route.service, route.endpoint)
                raw, body = (b"", {}) if fault.kind.ending == "unread" else self._body()
                lag = fault.seconds if fault.name == "list_lag" else 0.0
                query, target = dict(parse_qsl(url.query)), "".join(match.groups())
                if fault.name == "filter_ignored":
                    query.pop("user_id", None)
                request = Request(query, body, raw, self.headers, target, lag)
                return self._end(*stand_in.answer(route, request, fault, url.path), fault)
        self._body()
        return self._send((404, {"detail": "Not Found"}))

    do_POST = do_GET

    def _body(self) -> tuple[bytes, dict[str, Any]]:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        with contextlib.suppress(ValueError):
            if isinstance(body := json.loads(raw), dict):
                return raw, body
        return raw, {}

    def _end(self, answer: Answer, ending: str, fault: Fault) -> None:
        if ending in ("slow", "silence"):
            self.server.stand_in.closing.wait(fault.seconds or None)
        if ending in ("", "slow", "truncated"):
            self._send(answer, fault.retry_after, cut=ending == "truncated")
        elif ending == "not_json":
            self._send((200, "<html>OK</html>"))
        elif ending in ("rst", "unread"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The descriptor itself: a socket's own close waits for the handler's files, after a FIN.
            os.close(self.connection.detach())
        self.close_connection = ending not in ("", "slow", "not_json")

    def _send(self, answer: tuple[int, Any], retry_after: int = 0, cut: bool = False) -> None:
        status, body = answer
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if retry_after:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(payload[: len(payload) // 2] if cut else payload)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.stand_in", description="Serve the stand-in providers.")
    parser.add_argument("--port", type=int, default=0, help="HTTP port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--smtp-port", type=int, default=0, help="SMTP port on 127.0.0.1; 0 takes a free one")
    args = parser.parse_args()
    # Blocked before any thread starts: every thread inherits it, so that only sigwait below gets them.
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        stand_in = StandIn(args.port)
        smtp = SmtpSink(stand_in.alerts, stand_in.faults, args.smtp_port)
    except (OSError, OverflowError) as exc:
        raise SystemExit(f"The stand-in cannot listen on 127.0.0.1: {exc}. Choose another port.") from None
    with stand_in, smtp:
        names = ("ELEVEN_BASE_URL", "LLM_BASE_URL", "CRM_BASE_URL", "TELEGRAM_BASE_URL")
        env = dict.fromkeys(names, stand_in.url) | {"WEBHOOK_URL": f"{stand_in.url}/webhook"}
        env |= {"SMTP_HOST": smtp.hostname, "SMTP_PORT": str(smtp.port)}
        print(json.dumps({"url": stand_in.url, "env": env}), flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
