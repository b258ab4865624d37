"""A fleet under fire: real workers, dispatchers and beats on a Redis with its append-only file, behind the proxy.

A process that ends is started again, as deploy/keep or a container's restart policy does, and so is Redis. The fleet
knows which ends were requested: any other is a crash, and is listed in `crashes`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

import redis
import requests

from demo.processes import KEYS, OWN, ROOT
from local import child_process
from local.redis_server import RedisServer
from resilience.config.settings import Settings, load
from tests.chaos import policy
from tests.chaos.member import members
from tests.chaos.proxy import Proxy

RESTART_S = 1.0  # between the end of a process and its next start, as in deploy/keep
GRACE_S = 5.0  # beyond the soft shutdown, after a SIGTERM
LOST_BY_POWER_CUT_S = 1.0  # what appendfsync everysec may not have written yet
NOT_OURS = ("SMTP_", "TELEGRAM_", "WEBHOOK_", "PAGERDUTY_", "APPRISE_", "CRM_")


class Fleet:
    """Keeps all its files in `folder`. Call `supervise` often: it starts again what has ended."""

    def __init__(
        self,
        folder: Path,
        *,
        app: str = "tasks",
        calls: int = 2,
        control: int = 2,
        beats: int = 2,
        concurrency: int = 2,
        fsync: str = "always",
    ) -> None:
        self.folder, self.fsync = folder, fsync
        self.config = policy.write(folder / "config.yml")
        self.settings: Settings = load(str(self.config))
        self.server = RedisServer(folder / "redis", appendonly=True, appendfsync=fsync)
        self.members = {member.name: member for member in members(app, calls, control, beats, concurrency)}
        self.crashes: list[str] = []
        self.overdue: list[str] = []  # members that had not ended within `grace` after a SIGTERM
        self._back: tuple[float, Callable[[], Any]] | None = None  # when and how Redis comes back
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
        self.env = {k: v for k, v in os.environ.items() if k not in OWN and not k.startswith(NOT_OURS)}
        self.env |= {k: v for k, v in KEYS.items() if k.startswith("ELEVEN_")}
        self.env |= {"REDIS_URL": self.proxy.url, "CONFIG_FILE": str(self.config), "PYTHONPATH": str(ROOT)}
        self.env |= {"PYTHONUNBUFFERED": "1", "REMAP_SIGTERM": "SIGQUIT"}
        self._stand_in = self.run([sys.executable, "-m", "demo.stand_in"], "stand-in", stdout=subprocess.PIPE)
        assert self._stand_in.stdout
        ready = json.loads(self._stand_in.stdout.readline())
        self.url = ready["url"]
        self.env["ELEVEN_BASE_URL"] = ready["env"]["ELEVEN_BASE_URL"]
        self.supervise()

    def __exit__(self, *_: object) -> None:
        running = [member.process for member in self.members.values() if member.signal(signal.SIGKILL)]
        for process in [*running, self._stand_in]:
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
        out = file if stdout is None else stdout
        return child_process.start(
            command, cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=file
        )

    def supervise(self) -> None:
        """Starts each process that does not run, and notes each crash."""
        now = time.monotonic()
        for member in self.members.values():
            if crash := member.has_ended():
                self.crashes.append(crash)
            if member.process is None and not member.benched and now >= member.down + RESTART_S:
                member.started(self.run(member.command, member.name))
            if member.grace and now >= member.grace:
                self.overdue.append(member.name)
                member.signal(signal.SIGKILL)
                member.grace = 0.0
        if self._back and now >= self._back[0]:
            self._back[1]()
            self._back = None
        if self.fsync != "always" and self.is_up:
            self._sizes.append((now, self._aof().stat().st_size))

    def terminate(self, name: str, *, group: bool) -> None:
        """Sends SIGTERM, as `docker stop` and systemd do, and SIGKILL if the member has not ended after `grace`."""
        if self.members[name].signal(signal.SIGTERM, group=group):
            self.members[name].grace = time.monotonic() + self.grace

    @property
    def grace(self) -> float:
        """Seconds from SIGTERM to SIGKILL."""
        return self.settings.task_time_limit + GRACE_S

    @property
    def is_up(self) -> bool:
        """Whether Redis answers."""
        return self._back is None

    @property
    def is_hurt(self) -> bool:
        """Whether Redis or a member is down."""
        return not self.is_up or any(member.process is None for member in self.members.values())

    def suspend_redis(self, seconds: float) -> None:
        """Stops Redis from answering for so many seconds; its connections stay open."""
        self.server.suspend()
        self._back = (time.monotonic() + seconds, self.server.resume)

    def kill_redis(self, seconds: float) -> None:
        """Kills Redis for so many seconds. Under everysec its last second is lost too, as in a power cut."""
        self.server.kill()
        self._back = (time.monotonic() + seconds, self.server.start)
        if self.fsync != "always":
            before = [size for at, size in self._sizes if at <= time.monotonic() - LOST_BY_POWER_CUT_S]
            if before:
                os.truncate(self._aof(), before[-1])
            self._sizes.clear()

    def _aof(self) -> Path:
        return max(self.server.directory.rglob("*.aof"), key=lambda path: path.stat().st_mtime)

    def control(self, name: str, **body: Any) -> Any:
        """Sends a command to the stand-in's control plane, or asks it where `body` is empty. Returns the JSON."""
        url = f"{self.url}/_control/{name}"
        answer = requests.post(url, json=body, timeout=10) if body else requests.get(url, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def has_said(self, name: str, word: str) -> bool:
        """Whether the output of a process contains `word`."""
        path = self.folder / f"{name}.log"
        return path.exists() and word in path.read_text(errors="replace")

    @property
    def is_ready(self) -> bool:
        """Whether each worker has started once."""
        return all(self.has_said(name, "ready.") for name in self.members if not name.startswith("beat"))

    def log(self) -> list[dict[str, Any]]:
        """The JSON log of the fleet, oldest line first."""
        path = self.folder / self.settings.logging.path
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]
