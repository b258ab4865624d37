"""The lists of a campaign, and the producers: each runs `python -m tasks enqueue FILE` until it succeeds."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.fleet import Fleet

CAMPAIGN = "chaos"
PATIENCE_S = 20.0  # an error takes seconds; the rest is for the start of Python on a busy machine


def contact(number: int) -> dict[str, str]:
    """A contact. As far as they suffice, phone numbers are from the range reserved for fiction."""
    return {"id": str(number), "phone": f"+1{201 + number // 100}55501{number % 100:02d}"}


def call_id(number: int) -> str:
    return f"{CAMPAIGN}:{number}"


@dataclass
class Producer:
    """Enqueues one file. `acked`: a run has succeeded. `slowest`: the longest run in seconds."""

    contacts: range
    file: Path
    acked: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def tick(self, fleet: Fleet) -> None:
        """Starts a run, looks at it, and starts another one after an error."""
        if self.acked:
            return
        if self.process is None:
            self.started = time.time()
            command = [sys.executable, "-m", "tasks", "enqueue", str(self.file), "--campaign", CAMPAIGN]
            self.process = fleet.run(command, "producer")
        status, took = self.process.poll(), time.time() - self.started
        if status is None and took < PATIENCE_S:
            return
        self.slowest = max(self.slowest, took)
        if status is None:
            self.faults.append(f"a producer hung for {took:.0f} s")
            self.process.kill()
            self.process.wait()
        elif status == 0:
            self.acked = True
        elif status != 1:
            self.faults.append(f"a producer ended with status {status}")
        self.process = None


def write_list(folder: Path, number: int, contacts: range) -> Path:
    """Writes a file of contacts, CSV with a header."""
    path = folder / f"wave-{number}.csv"
    rows = [contact(n) for n in contacts]
    path.write_text("id,phone\n" + "".join(f"{row['id']},{row['phone']}\n" for row in rows))
    return path
