"""`python -m tests.chaos --seed N`: one campaign, its faults, its verdict. Exit status 0 only where nothing broke."""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from resilience.call_store import DIALER
from tests.chaos.driver import Campaign
from tests.chaos.faults import plan
from tests.chaos.fleet import Fleet
from tests.chaos.verdict import BOUND_S, Verdict

SHORT = {"contacts": 150, "seconds": 35.0}
LONG = {"contacts": 400, "seconds": 120.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--contacts", type=int, help=f"default {LONG['contacts']}, short {SHORT['contacts']}")
    parser.add_argument("--seconds", type=float, help=f"of faults; default {LONG['seconds']}, short {SHORT['seconds']}")
    parser.add_argument("--short", action="store_true", help="at most 90 s in all")
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always",
                        help="everysec: a power cut takes the last second, and only that is excused")
    args = parser.parse_args()
    size = SHORT if args.short else LONG
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="lineman-chaos-"))
    began = time.monotonic()
    with Fleet(folder, fsync=args.fsync) as fleet:
        pass_ = plan(args.seed, args.contacts or int(size["contacts"]), args.seconds or size["seconds"],
                     lease=fleet.settings.lease(DIALER), give_up=fleet.settings.calls.look_up.give_up)
    return 0


if __name__ == "__main__":
    sys.exit(main())
