"""The call store as a person would explain it: what the scripts must agree with. Times are whole ms.

What a gate says is left to `GateModel`. How many deferred calls a tick releases is not modelled: see `released`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.store.gate_model import GateModel

LEASE, REPUBLISH, BACKLOG_CHECK = 43_000, 30_000, 300_000
FIRST_LOOK, BETWEEN_LOOKS, POLLS, LOOKS_IN_ALL = 20_000, 60_000, 2, 4
ATTEMPTS, RETRY_DELAY, RETENTION = 3, 5_000, 7_200_000
OVER = ("placed", "failed", "needs_review", "cancelled")


@dataclass
class Call:
    """One call. `due` is when somebody must look at it again, `in_line` whether it waits for a message."""

    created: int
    state: str = "queued"
    due: int | None = None
    in_line: bool = True
    attempts: int = 0
    dials: int = 0
    not_before: int = 0
    owner: str | None = None
    finished: str | None = None
    era: int = 0
    looks: int = 0
    absent: int = 0
    errors: int = 0
    over_at: int = 0
    probe: bool = False
    lost_owner: str | None = None


@dataclass
class CallsModel:
    """All calls by id, and the gate in front of them."""

    gate: GateModel
    calls: dict[str, Call] = field(default_factory=dict)
    looked_at: int = 0

    def enqueue(self, id: str, now: int) -> bool:
        if id in self.calls:
            return False
        self.calls[id] = Call(now, due=now + BACKLOG_CHECK)
        return True

    def begin(self, id: str, owner: str, now: int) -> str:
        call = self.calls.get(id)
        if call is None:
            return "unknown"
        if call.state == "dialing" and call.owner == owner:
            return "go"
        if call.state not in ("queued", "retrying"):
            return "duplicate"
        if call.not_before > now:
            call.due = call.not_before
            return "early"
        if not self.gate.admit(owner, LEASE, now):
            self._to(call, "deferred", now + BACKLOG_CHECK)
            return "deferred"
        self._to(call, "dialing", now + LEASE)
        call.owner, call.era, call.not_before = owner, self.gate.era, 0
        call.probe, call.lost_owner = False, None
        call.attempts, call.dials = call.attempts + 1, call.dials + 1
        return "go"

    def finish(self, id: str, owner: str, to: str, now: int, report: dict[str, object], **how: object) -> str:
        call = self.calls.get(id)
        if call is None:
            return "stale"
        if call.finished == owner:
            return "repeated"
        if call.lost_owner == owner and call.state not in OVER and to == "placed":
            call.finished, call.lost_owner = owner, None
            self._end(call, to, now)
            return "done"
        if call.state != "dialing" or call.owner != owner:
            return "stale"
        well = self.is_well()
        self.gate.report(owner, call.era, now, source=id, **report)
        call.finished, call.owner = owner, None
        if how.pop("service_fault", False) and not well:
            if to == "in_doubt":
                call.probe = True
            else:
                to, how["used"] = "deferred", False
                self.calls[id] = self.calls.pop(id)
        call.attempts -= not how.get("used", True)
        call.dials -= not how.get("dialed", True)
        if to == "retrying":
            call.not_before = now + RETRY_DELAY
            self._to(call, to, call.not_before + REPUBLISH)
        elif to == "in_doubt":
            self._doubt(call, now + FIRST_LOOK)
        elif to in ("deferred", "queued"):
            self._to(call, to, now + BACKLOG_CHECK)
        else:
            self._end(call, to, now)
        return "done"

    def look_up(self, id: str, look: int, result: str, now: int) -> str:
        call = self.calls.get(id)
        if call is None or call.state != "in_doubt" or call.looks != look:
            return "stale"
        if result != "found" and now < call.not_before:
            return "stale"
        call.looks += 1
        call.absent += result == "absent"
        call.errors += result == "error" and self.is_well()
        if result == "found":
            self._end(call, "placed", now)
        elif call.absent == POLLS and call.attempts - call.probe >= ATTEMPTS:
            self._end(call, "failed", now)
        elif call.absent == POLLS:
            call.attempts, call.probe = call.attempts - call.probe, False
            call.not_before = now + RETRY_DELAY
            self._to(call, "retrying", call.not_before)
        elif call.absent + call.errors == LOOKS_IN_ALL:
            self._end(call, "needs_review", now)
        else:
            call.not_before = call.due = now + BETWEEN_LOOKS
        return "done"

    def command(self, id: str, action: str, now: int) -> str:
        call = self.calls.get(id)
        if call is None:
            return "unknown"
        if action == "cancel" and call.state in ("queued", "retrying", "deferred", "cancelled"):
            if call.state != "cancelled":
                self._end(call, "cancelled", now)
            return "done"
        if action == "retry" and call.state in ("failed", "needs_review", "cancelled", "retrying"):
            call.not_before = 0
            if call.state != "retrying":
                call.attempts = 0
                call.state = "queued"
            call.due, call.in_line = now + BACKLOG_CHECK, True
            return "done"
        return "refused"

    def take_due(self, now: int) -> list[str]:
        """The first part of a tick. Returns the calls to look up."""
        look_up = []
        due = sorted((call.due, id) for id, call in self.calls.items() if call.due is not None and call.due <= now)
        for id in (id for _, id in due):
            call = self.calls[id]
            if call.state in ("queued", "retrying"):
                call.in_line, call.due = True, now + BACKLOG_CHECK
            elif call.state == "deferred":
                call.due = now + BACKLOG_CHECK
            else:
                if call.state == "dialing":
                    call.probe = not self.is_well()
                    self.gate.report(str(call.owner), call.era, now, "failure", source=id)
                    self._doubt(call, 0)
                    call.owner, call.lost_owner, call.not_before = None, call.owner, 0
                may = self.is_well() or self.looked_at + BETWEEN_LOOKS <= now
                call.due = now + (2 * LEASE if may else BETWEEN_LOOKS)
                if may:
                    look_up.append(id)
                    self.looked_at = self.looked_at if self.is_well() else now
        return look_up

    def is_well(self) -> bool:
        return self.gate.state == "closed" and not self.gate.down

    def released(self, ids: list[str], now: int) -> None:
        """The store says that a tick let these go; the gate must have allowed it."""
        assert not ids or self.gate.wait(now) == 0
        for id in ids:
            self._to(self.calls[id], "queued", now + BACKLOG_CHECK)

    def feed(self, room: int, now: int) -> list[str]:
        """The last part of a tick: the calls to place, in the order in which they came in."""
        place = [id for id, call in self.calls.items() if call.in_line][: max(0, room)]
        for id in place:
            self.calls[id].in_line, self.calls[id].due = False, now + REPUBLISH
        return place

    def forget(self, now: int) -> set[str]:
        """The calls whose time is up."""
        expired = {id for id, call in self.calls.items() if call.state in OVER and call.over_at + RETENTION <= now}
        self.calls = {id: call for id, call in self.calls.items() if id not in expired}
        return expired

    def _doubt(self, call: Call, due: int) -> None:
        call.absent = call.errors = 0
        call.not_before = due
        self._to(call, "in_doubt", due)

    def _to(self, call: Call, state: str, due: int | None) -> None:
        call.state, call.due, call.in_line = state, due, state == "queued"

    def _end(self, call: Call, state: str, now: int) -> None:
        self._to(call, state, None)
        call.over_at = now
