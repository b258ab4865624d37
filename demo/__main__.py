"""`make demo`: starts everything, plays the scripted outage, and ends with a verdict.

Exit status 0 only if every step was observed; otherwise 1, and the step that was not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.interrupt import SIGNALS, Stopped, stop
from demo.processes import ROOT, Processes
from demo.scenario import Scenario, Verdict
from demo.timeline import Timeline
from demo.world import StepFailed, World
from resilience.calls.store import DIALER
from resilience.config.settings import load
from resilience.errors import ConfigError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "config.yml", help="the config.yml to play with")
    config = parser.parse_args().config.resolve()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    try:
        settings = load(str(config))
        timeline = Timeline(settings.services[DIALER].retry.max_attempts - 1)
        with (
            tempfile.TemporaryDirectory(prefix="lineman-demo-") as folder,
            Processes(Path(folder), config) as processes,
            closing(World(processes, settings, timeline)) as world,
        ):
            verdict = Scenario(world).play()
    except (StepFailed, ConfigError, RuntimeError) as exc:
        print(f"FAILED: {exc}", file=sys.stderr)
        return 1
    except Stopped:
        print("Stopped; everything that was started has ended.", file=sys.stderr)
        return 128 + SIGNALS[0]
    return show(verdict, timeline)


def show(verdict: Verdict, timeline: Timeline) -> int:
    """Prints the verdict and returns the exit status."""
    timeline.step("5. Verdict")
    table = Table("contact", "state", "attempts", "dial requests", "rang")
    for row in verdict.rows:
        table.add_row(*map(str, row))
    Console(width=80).print(table)
    placed = sum(row[1] == "placed" for row in verdict.rows)
    failed = sum(row[1] == "failed" for row in verdict.rows)
    twice = sum(row[4] > 1 for row in verdict.rows)
    print(
        f"{placed} placed, {failed} failed, {len(verdict.rows) - placed - failed} lost, {twice} dialed twice, "
        f"{time.time() - timeline.started:.0f} s in all."
    )
    for fault in verdict.faults:
        print(f"FAILED: expected {fault}", file=sys.stderr)
    if verdict.faults:
        return 1
    print("Every step was observed in the store, the event stream and the stand-in's own log.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
