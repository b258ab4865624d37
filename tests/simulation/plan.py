"""What happens to the fleet: a list of steps, made from a seed, that can be written down, replayed and shortened."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

DAY = 86_400.0


@dataclass(frozen=True)
class Step:
    """`at`: true seconds since the start; `what`: a method of World, which reads the rest. A repr is Python again."""

    at: float
    what: str
    who: str = ""
    seconds: float = 0.0
    arg: str = ""


SEAMS = ("begin", "look-up", "handshake", "POST", "answer", "finish")
# Between the last check of the lease and the first byte no client can close the window.
SUSPENDABLE = tuple(seam for seam in SEAMS if seam != "POST")
CONTROL_SEAMS = ("dispatch", "publish", "probe", "collect", "deliver")
KINDS = ("outage", "clock", "crash", "suspend", "message", "operator", "redis", "list")
MODES = ("503", "silent", "down", "429", "quota", "slow", "lost", "drip", "page")


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but `parts`: a step that is left out reshuffles nothing else."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def make(seed: int) -> list[Step]:
    """A random plan: some lists of contacts, and up to eight faults around them.

    Only some kinds of faults take part in a plan: one that shows often would hide the others.
    """
    r = random.Random(seed)
    horizon = r.choice((120.0, 600.0, 3600.0, 6 * 3600.0))
    kinds = r.sample(tuple(KINDS), r.randint(1, 3))
    steps = [_fault(r, horizon, kinds) for _ in range(r.randint(1, 8))]
    steps.append(Step(0.0, "enqueue", seconds=r.choice((1, 3, 10, 40, 120)), arg="a"))
    for name in "bcd"[: r.randint(0, 3)]:
        # Often just when something else begins or ends.
        near = r.choice(steps)
        at = r.choice((r.uniform(0, horizon), max(0.0, near.at + r.choice((0.0, near.seconds)) + r.uniform(-5, 40))))
        steps.append(Step(round(at, 3), "enqueue", seconds=r.choice((1, 5, 100, 300)), arg=name))
    return sorted(steps, key=lambda step: step.at)


def _fault(r: random.Random, horizon: float, kinds: Sequence[str]) -> Step:
    at = round(r.uniform(0, horizon) if r.random() < 0.5 else r.uniform(0, 60), 3)
    kind = r.choice(kinds)
    if kind == "outage":
        paths = r.choice(("all", "all", "dial", "list"))
        length = r.choice((20.0, 90.0, 600.0, 3600.0, 8 * 3600.0))
        step = Step(at, "outage", paths, r.uniform(0.5, 1) * length, r.choice(MODES))
    elif kind == "clock":
        who = r.choice(("redis", "provider", "w1", "w2", "c1", "c2"))
        step = Step(at, "clock", who, r.choice((-3600.0, -120.0, -30.0, 30.0, 120.0, 3600.0)))
    elif kind in ("crash", "suspend"):
        who = r.choice(("w1", "w1", "w2", "w2", "c1", "c2"))
        seams = SEAMS if kind == "crash" else SUSPENDABLE
        seam = r.choice(seams if who[0] == "w" else CONTROL_SEAMS)
        step = Step(at, kind, who, r.choice((1.0, 20.0, 45.0, 60.0, 100.0, 900.0)), seam)
    elif kind == "message":
        step = Step(at, r.choice(("lose", "double", "late")), seconds=r.choice((1.0, 5.0, 20.0)))
    elif kind == "operator":
        step = Step(at, "operator", arg=r.choice(("retry", "retry", "cancel")))
    elif kind == "redis":
        what = r.choice(("redis_down", "reply_lost", "redis_restart", "redis_loses", "redis_wiped"))
        step = Step(at, what, seconds=r.choice((1.0, 2.0)) if what == "redis_loses" else r.choice((1.0, 10.0, 60.0)))
    else:
        what = r.choice(("lag", "lag", "no_scope", "ignored_filter", "repeated_page"))
        step = Step(at, what, seconds={"lag": r.choice((10.0, 60.0, 600.0)), "no_scope": DAY}.get(what, 0.0))
    return step
