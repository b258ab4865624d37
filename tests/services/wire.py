"""A server on a real socket that misbehaves exactly as its script says."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer

GOOD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"ok": true}'
Script = Callable[["Wire", socket.socket], None]


@dataclass
class Wire:
    """Runs one script for each connection. `over` is set when the test ends."""

    script: Script
    context: ssl.SSLContext | None = None
    over: threading.Event = field(default_factory=threading.Event)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"http{'s' if self.context else ''}://{self.address}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                self.threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        # The client may hang up early.
        with connection, suppress(OSError):
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                self.script(self, connection)

    def read(self, connection: socket.socket) -> bytes:
        """Reads one whole request. Raises OSError if the client hangs up first."""
        got = b""
        while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < _length(got):
            piece = connection.recv(65536)
            if not piece:
                raise OSError("the client hung up")
            got += piece
        self.requests.append(got)
        return got

    def close(self) -> None:
        self.over.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)


def sends(*pieces: bytes, pause: float = 0.0, keep: bool = False) -> Script:
    """Reads a request, sends the pieces, `pause` seconds apart, and hangs up. `keep`: serves further requests first."""

    def script(wire: Wire, connection: socket.socket) -> None:
        while True:
            wire.read(connection)
            for piece in pieces:
                connection.sendall(piece)
                wire.over.wait(pause)
            if not keep:
                return

    return script


def never_answers(wire: Wire, connection: socket.socket) -> None:
    wire.read(connection)
    wire.over.wait(10)


def resets(wire: Wire, connection: socket.socket, *, after: bool = True) -> None:
    if after:
        wire.read(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def resets_unread(wire: Wire, connection: socket.socket) -> None:
    # Waits for the request: a reset during the handshake would be a failed connection.
    connection.recv(1, socket.MSG_PEEK)
    resets(wire, connection, after=False)


def resets_in_the_body(wire: Wire, connection: socket.socket) -> None:
    wire.read(connection)
    connection.sendall(GOOD[:-4])
    resets(wire, connection, after=False)


def hangs_up_in_the_handshake(_: Wire, connection: socket.socket) -> None:
    connection.recv(65536)


def drips_in_the_handshake(wire: Wire, connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02")  # a record of 16 KiB, whose first byte is of a ServerHello
    for _ in range(200):
        connection.sendall(b"\x00")
        wire.over.wait(0.05)


def drips(head: bytes, piece: bytes) -> Script:
    return sends(head, *[piece] * 200, pause=0.05)


@contextmanager
def serving(server: ThreadingHTTPServer, over: threading.Event) -> Iterator[None]:
    """Serves in a thread until the block ends, and sets `over` before it waits for the requests under way."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield
        over.set()
        server.shutdown()
        thread.join()


def refusing_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
