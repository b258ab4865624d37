"""`python -m tests.chaos --seed N`: plays and judges one campaign of faults. Exit status 0 only if no promise broke."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.driver import Campaign
from tests.chaos.faults import Plan, plan
from tests.chaos.fleet import Fleet
from tests.chaos.policy import LEASE_S
from tests.chaos.verdict import BOUND_S, Verdict

SHORT, LONG = (200, 30.0), (900, 120.0)  # contacts, seconds of faults
DEFENCES = ("call_duplicate", "call_early", "call_in_doubt", "call_looked_up", "call_deferred", "report_stale")


def main() -> int:
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    contacts, seconds = SHORT if args.short else LONG
    chosen = plan(args.seed, args.contacts or contacts, args.seconds or seconds)
    began = time.monotonic()
    say(
        f"seed {args.seed}: {chosen.waves[-1].stop} contacts in {len(chosen.waves)} lists, {len(chosen.faults)} faults "
        f"in {chosen.seconds:g} s, appendfsync {args.fsync}, messages delivered {'twice' if chosen.twice else 'once'}"
    )
    folder = Path(tempfile.mkdtemp(prefix="lineman-chaos-"))
    try:
        verdict = run(folder, chosen, args.fsync)
    except AssertionError as exc:
        verdict = Verdict([str(exc)])
    say(f"took {time.monotonic() - began:.0f} s")
    if verdict.faults:
        say(f"FAILED, everything is in {folder}:", *verdict.faults)
        return 1
    shutil.rmtree(folder)
    say("nothing lost, nothing dialed twice")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what is drawn at random follows from it; default 1")
    parser.add_argument("--contacts", type=int, help=f"default {LONG[0]}, short {SHORT[0]}")
    parser.add_argument("--seconds", type=float, help=f"of faults; default {LONG[1]:g}, short {SHORT[1]:g}")
    parser.add_argument("--short", action="store_true", help="at most 90 s in all")
    fsync = "everysec: a kill of Redis takes its last second too, as a power cut does"
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always", help=fsync)
    return parser.parse_args()


def run(folder: Path, chosen: Plan, fsync: str) -> Verdict:
    """Plays the plan on a fleet of its own and prints what happened."""
    with Fleet(folder, app="tests.chaos.twice" if chosen.twice else "tasks", fsync=fsync) as fleet:
        campaign = Campaign(fleet, chosen, say)
        verdict = campaign.play()
        seen = Counter(line["event"] for line in fleet.log())
        say(
            f"states: {dict(verdict.states)}",
            "starts: " + ", ".join(f"{m.name} {m.starts}" for m in fleet.members.values()),
            "seen: " + ", ".join(f"{word} {seen[word]}" for word in DEFENCES),
            f"longest time without a dispatcher, while Redis was there: {campaign.standstill[0]:.1f} s",
            f"slowest answer to a producer: {max(p.slowest for p in campaign.injector.producers):.1f} s",
            *(f"{name} had not ended {fleet.grace:g} s after a SIGTERM and was killed" for name in fleet.overdue),
        )
    report(verdict)
    return verdict


def report(verdict: Verdict) -> None:
    """Prints how long each interrupted call took to be taken up again."""
    times = sorted(seconds - away for _, seconds, away in verdict.taken_up)
    say(f"interrupted calls: {len(times)}, to be taken up within the lease of {LEASE_S:g} s + {BOUND_S:g} s")
    for attempt, seconds, away in verdict.taken_up:
        say(f"  {attempt:14} after {seconds:5.2f} s" + (f", with Redis away {away:.1f} s" if away else ""))
    if times:
        say(f"  Redis' absence taken off: half within {times[len(times) // 2]:.2f} s, all within {times[-1]:.2f} s")


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
