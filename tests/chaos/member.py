"""One member of a fleet: a worker or a beat, with the processes that it forks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

QUIET = ("--without-gossip", "--without-mingle", "-l", "INFO")


@dataclass
class Member:
    """A process that is started again when it ends. Moments are monotonic seconds.

    `asked`: its end was requested. `grace`: when it is killed if it has not ended, 0 for never. `down`: since when it
    does not run. `benched`: it stays down.
    """

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    asked: bool = False
    grace: float = 0.0
    down: float = 0.0
    benched: bool = False
    starts: int = 0

    @property
    def pid(self) -> int | None:
        """The id of the main process, None while it does not run."""
        return self.process.pid if self.process else None

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Notes that `process` runs now."""
        self.process, self.asked, self.grace, self.starts = process, False, 0.0, self.starts + 1

    def signal(self, number: signal.Signals, *, group: bool = True) -> bool:
        """Signals its whole group, or its main process alone. Returns False if it does not run."""
        self.asked |= number in (signal.SIGKILL, signal.SIGTERM)
        if self.process is None:
            return False
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)
            return True
        return False

    def kill_child(self) -> None:
        """Kills one of the processes that it has forked."""
        with suppress(OSError):
            if self.process:
                children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                for child in children[-1:]:  # none while it starts
                    os.kill(int(child), signal.SIGKILL)

    def has_ended(self) -> str:
        """How it ended by itself, "" if it runs or its end was requested. Kills what is left of its group."""
        if self.process is None or (status := self.process.poll()) is None:
            return ""
        crash = "" if self.asked else f"{self.name} ended by itself with status {status}"
        self.signal(signal.SIGKILL)
        self.process, self.down = None, time.monotonic()
        return crash


def members(app: str, calls: int, control: int, beats: int, concurrency: int) -> list[Member]:
    """The members of a fleet. `app`: the module of the Celery app. `concurrency`: the processes of a calls worker."""
    celery = [sys.executable, "-m", "celery", "-A", app]

    def worker(queue: str, number: int, processes: int) -> Member:
        name = f"{queue}-{number}"
        return Member(name, [*celery, "worker", "-c", str(processes), "-Q", queue, "-n", f"{name}@chaos", *QUIET])

    return [
        *(worker("calls", n, concurrency) for n in range(1, calls + 1)),
        *(worker("control", n, 2) for n in range(1, control + 1)),
        *(Member(f"beat-{n}", [*celery, "beat", "-s", f"beat-{n}", "-l", "INFO"]) for n in range(1, beats + 1)),
    ]
