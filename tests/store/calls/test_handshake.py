"""A worker that is suspended in the handshake of its dial.

The lease was checked before DNS, TCP and TLS only, so a worker that woke up there after its lease dialed a call that
was another worker's by then: two POSTs of one call, 0.3 s apart. It is checked once more before the first byte now.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import trustme

from local.redis_server import RedisServer
from resilience.calls.processor import CallProcessor, boot_clock
from resilience.calls.store import DIALER, CallStore
from resilience.config.settings import Settings
from resilience.store.scripts import Scripts
from services.elevenlabs import ElevenLabs
from tests.services.wire import Wire
from tests.store.steps import add, make_settings
from tests.support import wait_until

CONNECT, READ, MARGIN = 1.0, 0.5, 0.2


class Held:
    """A TLS server that takes the client's hello and goes on with the handshake when it is let."""

    def __init__(self, authority: trustme.CA) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)
        self.greeted, self.let = threading.Event(), threading.Event()
        self.wire = Wire(self._script)
        self.hung_up = threading.Event()

    def _script(self, wire: Wire, connection: socket.socket) -> None:
        connection.recv(1, socket.MSG_PEEK)
        self.greeted.set()
        self.let.wait(10)
        try:
            with suppress(OSError), self.context.wrap_socket(connection, server_side=True) as encrypted:
                wire.read(encrypted)
                encrypted.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"conversation_id": "conv_1"}')
        finally:
            self.hung_up.set()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    held = Held(authority)
    yield held
    held.let.set()
    held.wire.close()


def work(redis_url: str, base_url: str, id: str) -> None:
    """A worker's one attempt."""
    settings = settings_of()
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        dialer = ElevenLabs(
            base_url=base_url, api_key="key", agent_id="a", agent_phone_number_id="p", timeout=(CONNECT, READ)
        )
        CallProcessor(CallStore(Scripts(client), settings), dialer, settings).process(id)


def settings_of() -> Settings:
    timeout = {"connect": CONNECT, "read": READ}
    return make_settings({"timeout": timeout}, calls={"lease_margin": MARGIN})


def worker(redis_server: RedisServer, server: Held, id: str) -> multiprocessing.Process:
    base_url = server.wire.url.replace("http", "https")
    process = multiprocessing.get_context("fork").Process(target=work, args=(redis_server.url, base_url, id))
    process.start()
    assert server.greeted.wait(10)
    return process


@pytest.mark.parametrize("suspended", [True, False], ids=["past its lease", "not at all"])
def test_a_worker_dials_after_the_handshake_only_while_its_lease_lasts(
    real_redis: redis.Redis, redis_server: RedisServer, server: Held, suspended: bool
) -> None:
    store = CallStore(Scripts(real_redis), settings_of())
    [id] = add(store, "1")
    process = worker(redis_server, server, id)

    if suspended:
        os.kill(process.pid, signal.SIGSTOP)
        lease_end = boot_clock() + store.settings.lease(DIALER)
        server.let.set()
        wait_until(lambda: boot_clock() > lease_end, what="the lease to end")
        os.kill(process.pid, signal.SIGCONT)
    server.let.set()
    process.join(20)
    process.kill()

    assert process.exitcode == 0
    assert server.hung_up.wait(10)
    call = store.get(id)
    if suspended:
        assert server.wire.requests == []
        assert (call["state"], call["attempts"], call["dials"]) == ("queued", "0", "0")
        assert call["reason"] == "the lease no longer covered the dial"
    else:
        assert len(server.wire.requests) == 1
        assert (call["state"], call["conversation_id"]) == ("placed", "conv_1")
