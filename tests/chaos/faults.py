"""The schedule of a campaign: which fault comes when, drawn from one seed.

Every kind of fault comes at least once. Times are seconds from the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.chaos.policy import LEASE_S, LOOK_UP
from tests.chaos.proxy import CUTS

CALLS, CONTROL, BEATS = ("calls-1", "calls-2"), ("control-1", "control-2"), ("beat-1", "beat-2")
WARM_UP_S = 2.0
WAVE_S = 7.0
PER_FAULT_S = 2.0
OFTEN = ("kill", "kill", "suspend")  # extra turns for what interrupts a dial
# How the provider answers a dial, by weight. A dial that it accepts rings, whatever the answer is.
DIALS = {
    "ok": 20,
    "slow": 70,
    "unavailable": 7,
    "rate_limited": 2,
    "internal_error": 3,
    "accept_then_500": 6,
    "accept_then_fin": 4,
    "accept_then_rst": 4,
    "accept_then_silence": 4,
    "accept_then_truncated": 4,
    "accept_then_not_json": 2,
    "closed_unread": 4,
    "invalid_number": 3,
}
# How it answers a look-up, by weight. `list_lag`: the list shows a call only after LAG_S. A dead key is not among
# them: it holds the service until an operator comes.
LOOK_UPS = {"list_lag": 60, "ok": 20, "unavailable": 8, "forbidden": 6, "closed_unread": 6}
LAG_S = 1.4  # seconds; less than the time between a dial, however late, and its last look-up
# Seconds of a slow answer and of silence. Rounded up, they are the Retry-After.
WEATHER = (0.3, 0.6, 0.9, 1.4)


@dataclass(frozen=True)
class Fault:
    """One fault at second `at`, for `seconds`. A kind is a method `do_<kind>` of `Injector`."""

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{lasting}"


@dataclass(frozen=True)
class Plan:
    """A campaign. `waves`: the contact numbers of each list. `twice`: whether each message is delivered twice."""

    seed: int
    seconds: float
    waves: tuple[range, ...]
    faults: tuple[Fault, ...]
    twice: bool


def _kinds() -> dict[str, Any]:
    """By kind: its targets, and the least and most seconds that it lasts."""
    return {
        "kill": (CALLS, 0, 0),
        "kill_control": (CONTROL, 0, 0),
        "kill_beat": (BEATS, 0, 0),
        "kill_child": (CALLS, 0, 0),
        "terminate": (CALLS, 0, 0),
        "terminate_group": (CALLS, 0, 0),
        "suspend": (CALLS, LEASE_S + 0.3, LEASE_S + 1.5),
        "kill_redis": (("redis",), 0.1, 3),
        "stall_redis": (("redis",), 1, 6),
        "cut": (CUTS, 0, 0),
        "stall_network": (("proxy",), 1, 5),
        "outage": (("elevenlabs",), 1, 4),
        "refuse_look_ups": (("elevenlabs",), 5, LOOK_UP["give_up"] + 4),
        "weather": ([str(seconds) for seconds in WEATHER], 0, 0),
        "repeat_messages": (("all",), 0, 0),
        "send_contacts": (("all",), 0, 0),
        "repeat_file": (("random",), 0, 0),
    }


def plan(seed: int, contacts: int, seconds: float) -> Plan:
    """Draws the campaign of a seed: `contacts` contacts, and faults over `seconds`."""
    random = Random(seed)
    kinds = _kinds()
    menu = sorted([*kinds, *OFTEN])
    number = max(len(menu), round(seconds / PER_FAULT_S))
    names = [name for _ in range(math.ceil(number / len(menu))) for name in random.sample(menu, len(menu))]
    faults = []
    for name, at in zip(names, sorted(random.uniform(WARM_UP_S, seconds) for _ in range(number)), strict=False):
        targets, least, most = kinds[name]
        faults.append(Fault(round(at, 2), name, random.choice(targets), round(random.uniform(least, most), 2)))
    count = max(3, round(seconds / WAVE_S))
    waves = tuple(range(n * contacts // count, (n + 1) * contacts // count) for n in range(count))
    starts = [Fault(round(n * (seconds - 2) / count, 2), "enqueue", str(n)) for n in range(count)]
    return Plan(seed, seconds, waves, tuple(sorted((*faults, *starts), key=lambda f: f.at)), random.random() < 0.5)
