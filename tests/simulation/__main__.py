"""Random weeks: `python -m tests.simulation --seed 1 --minutes 5`; `--once` replays one seed and shrinks it."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

import redis

from tests.simulation.plan import DAY, Step, make
from tests.simulation.run import a_redis, run
from tests.simulation.shrink import shrink


def show(plan: list[Step]) -> str:
    """As lines of a regression."""
    return "\n".join(f"    {step!r}," for step in plan)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--minutes", type=float, default=5.0, help="of real time (default 5)")
    parser.add_argument("--once", action="store_true", help="this seed alone")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first failure; count them by property")
    options = parser.parse_args()
    seed, days, steps, calls = options.seed, 0.0, 0, 0
    failed: Counter[str] = Counter()
    until = time.monotonic() + options.minutes * 60
    with a_redis() as client:
        while time.monotonic() < until:
            plan = make(seed)
            done = run(client, plan)
            days, steps, calls = days + done.seconds / DAY, steps + done.steps, calls + done.calls
            if done.violation:
                failed[done.violation.name] += 1
                print(f"seed {seed}: {done.violation}", flush=True)
            if done.violation and not options.go_on:
                short = shrink(plan, partial(_fails, client, done.violation.name))
                print(f"shrunk to {len(short)} of {len(plan)} steps: {run(client, short).violation}\n{show(short)}")
                break
            seed += 1
            if options.once:
                break
    print(f"seeds {options.seed} to {seed}: {days:.1f} simulated days, {steps} steps, {calls} calls, "
          f"{dict(failed) or 'nothing failed'}")  # fmt: skip
    return bool(failed)


def _fails(client: redis.Redis, name: str, plan: Sequence[Step]) -> bool:
    violation = run(client, plan).violation
    return violation is not None and violation.name == name


if __name__ == "__main__":
    sys.exit(main())
