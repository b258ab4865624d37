"""A fleet under fire: real workers, dispatchers and beats on a Redis with its append-only file, behind the proxy.

Whatever ends is started again, as bin/keep or a container's restart policy does, and so is Redis. The fleet knows
which ends were asked for: any other is a crash, and stands in `crashes`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import redis
import requests
import yaml

from demo.processes import KEYS, OWN, ROOT
from resilience import child_process
from resilience.config import Settings, load
from resilience.redis_server import RedisServer
from tests.chaos.proxy import Proxy

RESTART_S = 1.0  # between the end of a process and its next start, as in bin/keep
PATIENCE_S = 40.0  # for a start on a busy machine
LOST_BY_POWER_CUT_S = 1.0  # what appendfsync everysec leaves to the kernel
QUIET = ("--without-gossip", "--without-mingle", "-l", "INFO")
SMALL_RETRY = {"initial_delay": 0.5, "backoff_factor": 2, "max_attempts": 4, "max_delay": 6, "jitter": 0.1}
# The shipped policy with a lease of 2.3 s. Look-ups take 3.5 s, which is about the shipped share of the lease.
SMALL: dict[str, Any] = {
    "broker": {"visibility_timeout": 45},
    "services": {
        "elevenlabs": {
            "timeout": {"connect": 0.3, "read": 1.0},
            "retry": SMALL_RETRY,
            "circuit_breaker": {"failure_threshold": 6, "failure_rate": 0.6, "window": 3, "recovery_timeout": 0.5,
                                "max_recovery_timeout": 1},
            "health": {"path": "/v1/user/subscription", "interval": 1.5, "rise": 2, "fall": 4, "hold": 5},
            "release": {"rate": 10, "max_rate": 50},
        },
        "crm": {"timeout": {"connect": 0.3, "read": 1.0}, "retry": SMALL_RETRY},
    },
    "calls": {
        "lease_margin": 1.0,
        "dispatch": {"interval": 0.2, "feed": 50, "republish": 3},
        "look_up": {"delay": 0.5, "interval": 1.5, "polls": 3, "give_up": 9},
    },
    "alerts": {"interval": 1, "group_interval": 30, "retry": SMALL_RETRY},
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in it."""
    deep = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | over | deep


@dataclass
class Member:
    """One process of the fleet. `down` is since when it does not run, in monotonic seconds."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    asked: bool = False  # its end was asked for
    down: float = 0.0
    starts: int = 0
    pauses: list[tuple[float, float]] = field(default_factory=list)


def commands(app: str, calls: int, control: int, beats: int) -> dict[str, list[str]]:
    """The command lines of a fleet, by name. `app` is the module of the Celery app."""
    celery = [sys.executable, "-m", "celery", "-A", app]
    found = {f"calls-{n}": [*celery, "worker", "-c", "3", "-Q", "calls", "-n", f"calls-{n}@chaos", *QUIET]
             for n in range(1, calls + 1)}
    found |= {f"control-{n}": [*celery, "worker", "-c", "2", "-Q", "control", "-n", f"control-{n}@chaos", *QUIET]
              for n in range(1, control + 1)}
    return found | {f"beat-{n}": [*celery, "beat", "-s", f"beat-{n}", "-l", "INFO"] for n in range(1, beats + 1)}


class Fleet:
    """Everything in `folder`. `supervise` has to be called often: it starts again what has ended."""

    def __init__(self, folder: Path, *, app: str = "tasks", calls: int = 2, control: int = 2, beats: int = 2,
                 fsync: str = "always", config: dict[str, Any] | None = None) -> None:
        self.folder, self.fsync = folder, fsync
        shipped = yaml.safe_load((ROOT / "config.yml").read_text())
        self.config = folder / "config.yml"
        self.config.write_text(yaml.safe_dump(merged(merged(shipped, SMALL), config or {})))
        self.settings: Settings = load(str(self.config))
        self.server = RedisServer(folder / "redis", appendonly=True, appendfsync=fsync)
        self.members = {name: Member(name, command) for name, command in commands(app, calls, control, beats).items()}
        self.crashes: list[str] = []
        self.down_again: float | None = None  # when Redis is to be started again
        self._files: list[IO[bytes]] = []
        self._sizes: deque[tuple[float, int]] = deque(maxlen=400)
        self._stand_in: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.server.start()
        self.proxy = Proxy(self.server.port).__enter__()
        self.redis = redis.Redis.from_url(self.server.url, decode_responses=True)
        self.env = {k: v for k, v in os.environ.items() if k not in OWN and not k.startswith(("SMTP_", "TELEGRAM_"))}
        self.env |= {k: v for k, v in KEYS.items() if k.startswith("ELEVEN_")}
        self.env |= {"REDIS_URL": self.proxy.url, "CONFIG_FILE": str(self.config), "PYTHONPATH": str(ROOT),
                     "PYTHONUNBUFFERED": "1", "REMAP_SIGTERM": "SIGQUIT"}
        self._stand_in = self.run([sys.executable, "-m", "demo.stand_in"], "stand-in", stdout=subprocess.PIPE)
        assert self._stand_in.stdout
        ready = json.loads(self._stand_in.stdout.readline())
        self.url = ready["url"]
        self.env["ELEVEN_BASE_URL"] = ready["env"]["ELEVEN_BASE_URL"]
        for member in self.members.values():
            self._launch(member)

    def __exit__(self, *_: object) -> None:
        running = [m for m in self.members.values() if m.process]
        for member in running:
            self._signal(member, signal.SIGKILL)
        for process in [*(m.process for m in running), self._stand_in]:
            if process:
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()
        if hasattr(self, "proxy"):
            self.redis.close()
            self.proxy.__exit__()
        self.server.resume()
        self.server.kill()
        for file in self._files:
            file.close()

    def run(self, command: list[str], log: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Starts a process whose output goes to `<log>.log`."""
        file = (self.folder / f"{log}.log").open("ab")
        self._files.append(file)
        return child_process.start(command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                                   stdout=stdout or file, stderr=file)

    def _launch(self, member: Member) -> None:
        member.process, member.asked = self.run(member.command, member.name), False
        member.starts += 1

    def supervise(self) -> None:
        """Starts again what has ended, and notes what ended by itself."""
        now = time.monotonic()
        for member in self.members.values():
            if member.process and (status := member.process.poll()) is not None:
                if not member.asked:
                    self.crashes.append(f"{member.name} ended by itself with status {status}")
                self._signal(member, signal.SIGKILL)  # whatever is left of its group
                member.process, member.down = None, now
            if member.process is None and now >= member.down + RESTART_S:
                self._launch(member)
        if self.down_again is not None and now >= self.down_again:
            self.server.start()
            self.down_again = None
        if self.fsync != "always" and self.down_again is None:
            self._sizes.append((now, self._aof().stat().st_size))

    def signal(self, name: str, number: signal.Signals, *, group: bool = True) -> bool:
        """Signals a member, its whole group or its main process alone. False where it does not run."""
        member = self.members[name]
        member.asked |= number in (signal.SIGKILL, signal.SIGTERM)
        return self._signal(member, number, group=group)

    def _signal(self, member: Member, number: signal.Signals, *, group: bool = True) -> bool:
        if member.process is None:
            return False
        try:
            (os.killpg if group else os.kill)(member.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def children(self, name: str) -> list[int]:
        """The process ids that a member has forked."""
        process = self.members[name].process
        if process is None:
            return []
        try:
            text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def kill_redis(self, seconds: float) -> None:
        """Ends Redis as a crash does, for that long. Not with appendfsync always, then the last second is gone too."""
        if self.down_again is not None:
            return
        self.server.kill()
        self.down_again = time.monotonic() + seconds
        if self.fsync != "always":
            before = [size for at, size in self._sizes if at <= time.monotonic() - LOST_BY_POWER_CUT_S]
            if before:
                os.truncate(self._aof(), before[-1])
            self._sizes.clear()

    def _aof(self) -> Path:
        return max(self.server.directory.rglob("*.aof"), key=lambda path: path.stat().st_mtime)

    def control(self, name: str, **body: Any) -> Any:
        """The stand-in's control plane."""
        url = f"{self.url}/_control/{name}"
        answer = requests.post(url, json=body, timeout=10) if body else requests.get(url, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def has_said(self, name: str, word: str) -> bool:
        """Whether a member's output since its first start has that word in it."""
        path = self.folder / f"{name}.log"
        return path.exists() and word in path.read_text(errors="replace")

    def log(self) -> list[dict[str, Any]]:
        """The fleet's own log, oldest first."""
        path = self.folder / self.settings.logging.path
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]
