"""What Redis holds of one call and its gate, as far as it decides what can follow: no dates, and no random tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.simulation.fleet import Fleet

ABSOLUTE = 10**12  # ms: a number beyond is a point in time
TOKENS = {"owner", "finished", "lost_owner"}
# Nothing is decided by them while there is one call, and the store has kept all its data.
AGES = {"created", "updated", "first_dial", "seq"}
BUCKET = re.compile(r"(\d+):(\d+:\d+:\d+)")  # of the gate's window: its slot, and what it counted
SLOT, SLOTS = 6000, 10  # ms, and how many make the window


def stored(fleet: Fleet, call_id: str, owners: Mapping[str, str]) -> str:
    """The same text for states that nobody can tell apart. `owners`: which running worker has which token."""
    scripts = fleet.scripts
    pipe = fleet.client.pipeline(transaction=False)
    pipe.hgetall(scripts.key("call", call_id))
    pipe.hgetall(scripts.key("cb", "elevenlabs"))
    for name in ("due", "backlog", "deferred:elevenlabs", "cb:elevenlabs:leases"):
        pipe.zrange(scripts.key(name), 0, -1, withscores=True)
    call, gate, due, backlog, deferred, leases = pipe.execute()
    ms = scripts.clock() * 1000
    hashes = [sorted((name, _plain(name, value, ms, owners)) for name, value in h.items()) for h in (call, gate)]
    deadlines = [max(0.0, at - ms) for _, at in due]  # what is due is due, however long
    lent = sorted((_whose(token, owners), at - ms) for token, at in leases)
    return repr((hashes, deadlines, len(backlog), len(deferred), lent))


def _plain(name: str, value: str, ms: float, owners: Mapping[str, str]) -> object:
    if name in TOKENS:
        return _whose(value, owners)
    if name in AGES:
        return "is set"
    if bucket := BUCKET.fullmatch(value):
        age = ms // SLOT - int(bucket[1])
        return (age, ms % SLOT, bucket[2]) if age < SLOTS else "old"
    if name == "not_before":
        return max(0, round(float(value) - ms))
    return round(float(value) - ms) if value.isdecimal() and int(value) > ABSOLUTE else value


def _whose(token: str, owners: Mapping[str, str]) -> str:
    """The token of a run that is over is nobody's: no report of it can come."""
    return owners.get(token, "nobody")
