"""The demo's processes: a real Redis, the stand-in providers, a calls worker, a control worker and beat.

All of them on free ports and in one temporary folder; all of them end with this process, also when it is killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from celery import Celery

from local import child_process
from local.redis_server import RedisServer

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10.0  # seconds until a process that was asked to end is killed
KEYS = {
    "ELEVEN_API_KEY": "demo-key",
    "ELEVEN_AGENT_ID": "demo-agent",
    "ELEVEN_PHONE_NUMBER_ID": "demo-number",
    "CRM_API_KEY": "demo-crm-key",
    "TELEGRAM_BOT_TOKEN": "1:demo-token",
    "TELEGRAM_CHAT_ID": "1",
}
# Whatever the caller's environment says of real services: the demo must not page anybody.
OWN = set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
WORKER = ("worker", "-c", "1", "-l", "INFO", "--without-gossip", "--without-mingle")
CELERY = {
    # One process: what runs between two dials of a call runs on the worker that waits to dial it again.
    "calls": (*WORKER, "-Q", "calls", "-n", "calls@demo"),
    "control": ("worker", "-c", "4", *WORKER[3:], "-Q", "control", "-n", "control@demo"),
    "beat": ("beat", "-l", "INFO", "-s", "beat-schedule"),
}


class Processes:
    """Starts everything in `folder` with the given config.yml; `stop` ends it. The environment is in `env`."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis", appendonly=True)
        self.env = {k: v for k, v in os.environ.items() if k not in OWN} | KEYS
        self.env |= {
            "CONFIG_FILE": str(config),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(folder),
        }
        self.url = ""
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        self.redis.start()
        self.env["REDIS_URL"] = self.redis.url
        stand_in = self._run("stand-in", ["-m", "demo.stand_in"], stdout=subprocess.PIPE)
        ready: Mapping[str, Any] = json.loads((stand_in.stdout and stand_in.stdout.readline()) or b"{}")
        if not ready:
            raise RuntimeError(f"the stand-in did not start: {self.tail('stand-in')}")
        self.url = str(ready["url"])
        self.env |= ready["env"]
        for name in CELERY:
            self.start(name)

    def start(self, name: str) -> None:
        """Starts one of the Celery processes: calls, control or beat."""
        self._run(name, ["-m", "celery", "-A", "tasks", *CELERY[name]])

    def kill(self, name: str) -> None:
        """Ends one as a crash would, with the children that it forked."""
        os.killpg(self.pid(name), signal.SIGKILL)
        self._running.pop(name).wait()

    def pid(self, name: str) -> int:
        """The process id of one that runs."""
        return self._running[name].pid

    def _run(self, name: str, arguments: list[str], stdout: int | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = child_process.start(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=stdout or log,
                stderr=log,
            )
        self._running[name] = process
        return process

    def command(self, *arguments: str, given: str | None = None, fine: Sequence[int] = (0,)) -> str:
        """Runs `python -m tasks ...` as an operator would, and returns what it printed.

        Raises RuntimeError for an exit status that is not `fine`.
        """
        done = subprocess.run(
            [sys.executable, "-m", "tasks", *arguments],
            cwd=self.folder,
            env=self.env,
            input=given,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode not in fine:
            raise RuntimeError(f"tasks {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def send_task(self, name: str, kwargs: Mapping[str, Any], **options: Any) -> None:
        """Sends a task as another service would: by its name, with none of our code."""
        with Celery(broker=self.redis.url, set_as_current=False) as app:
            app.send_task(name, kwargs=dict(kwargs), **options)

    def dead(self) -> str | None:
        """The name of a process that ended by itself, None while all of them run."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)

    def tail(self, name: str, lines: int = 5) -> str:
        """The last lines that a process wrote."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Ends everything: first what works, then what it works with."""
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._running.values()):
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # A task that still runs is not waited for: its call is looked up at the next start.
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
        self._running.clear()
        self.redis.stop()
