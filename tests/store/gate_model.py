"""A model of the circuit breaker, written for reading, that the scripts must agree with. Times are whole ms."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

THRESHOLD, RUN_AMID, RATE, MINIMUM, WINDOW = 3, 5, 0.5, 8, 60_000
FIRST, LATER = 0.85, 1.2
RECOVERY, MAX_RECOVERY, HOLD, MAX_RETRY_AFTER = 30_000, 120_000, 300_000, 900_000
IDENTICAL, RISE, FALL = 3, 2, 3
LEASES_KEPT = 10


@dataclass
class GateModel:
    """One gate. A permit is (token, era): a report of another era, or a second one, changes nothing."""

    permits: int = 2
    enough: int = 2
    state: str = "closed"
    era: int = 0
    since: int = 0
    until: int | None = None
    paused: int = 0
    opens: int = 0
    good: int = 0
    lent: dict[str, int] = field(default_factory=dict)
    reported: set[tuple[str, int]] = field(default_factory=set)
    answers: list[tuple[int, bool, object]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    held_by: str = ""
    bad_since_held: bool = False
    checks: list[bool] = field(default_factory=list)
    down: bool = False
    events: list[str] = field(default_factory=list)

    def wait(self, now: int) -> int | None:
        """ms until something may go; None where waiting does not help."""
        if self.state == "held":
            return None if self.until is None else max(0, self.until - now)
        waits = [0, self.paused - now]
        if self.state == "open":
            waits.append((self.until or 0) - now)
            if self.down:
                waits.append(self.since + HOLD - now)
        live = [end for end in self.lent.values() if end > now]
        if self.state == "half_open" and len(live) >= self.permits:
            waits.append(min(live) - now)
        return max(waits)

    def admit(self, token: str, lease: int, now: int) -> bool:
        if self.state == "half_open" and self.lent.get(token, 0) > now:
            return True
        if self.wait(now) != 0:
            return False
        if self.state in ("open", "held"):
            self._move("half_open", "breaker_half_open", now)
        if self.state == "half_open":
            # One that ran out may still be reported for a while.
            kept = {t: end for t, end in self.lent.items() if end > now - LEASES_KEPT * lease}
            self.lent = kept | {token: now + lease}
        return True

    def report(self, token: str, era: int, now: int, outcome: str, **said: object) -> bool:
        if era != self.era or (token, era) in self.reported or (self.state == "half_open" and token not in self.lent):
            return False
        self.reported.add((token, era))
        self.lent.pop(token, None)
        if said.get("hold"):
            self._hold("breaker", None, now)
            return True
        if said.get("open"):
            self._open(now, int(said.get("retry_after", 0)))
            return True
        if self.state == "closed":
            self._count(outcome, str(said.get("code")), int(said.get("retry_after", 0)), now, said.get("source"))
        elif outcome == "failure":
            self._open(now, int(said.get("retry_after", 0)))
        elif outcome != "ignored":
            self.good += 1
            if self.good == self.enough:
                self._close(now)
        if said.get("pause"):
            if self.paused <= now:
                self.events.append("service_throttled")
            self.paused = max(self.paused, now + min(int(said["pause"]), MAX_RETRY_AFTER))
        return True

    def control(self, action: str, now: int, wait: int | None = None) -> bool:
        if action == "hold":
            self._hold("ada", wait, now)
        elif action == "open":
            self.opens += 1
            self._move("open", "breaker_opened", now, now + (RECOVERY if wait is None else wait))
        elif action == "release" and self.state == "held":
            self._move("half_open", "service_released", now)
        elif action == "close" and (self.state != "closed" or self.paused > now):
            self.paused = 0
            self._close(now)
        else:
            return False
        return True

    def health(self, good: bool, now: int, waiting: bool = False) -> None:
        self.checks.append(good)
        self.bad_since_held |= not good and self.state == "held"
        rose, fell = self.checks[-RISE:] == [True] * RISE, self.checks[-FALL:] == [False] * FALL
        before = self.state
        if rose and self.down:
            self.down = False
            self.events.append("health_up")
            if self.state == "open":
                self._move("half_open", "breaker_half_open", now)
        elif fell and not self.down:
            self.down = True
            self.events.append("health_down")
            if self.state in ("closed", "half_open"):
                self._open(now, 0)
        if rose and self.state == "held" and self.held_by == "breaker" and self.bad_since_held:
            self._move("half_open", "service_released", now)
        long = self.checks[-2 * RISE :] == [True] * 2 * RISE
        lent = any(end > now for end in self.lent.values())
        if long and before == self.state and not waiting:  # nobody waits to be the probe
            if self.state == "open" and self.wait(now) == 0:
                self._move("half_open", "breaker_half_open", now)
            elif self.state == "half_open" and not lent:
                self._close(now)

    def _count(self, outcome: str, code: str, retry_after: int, now: int, source: object) -> None:
        if outcome == "refused":
            self.refusals.append(code)
            if self.refusals[-IDENTICAL:] == [code] * IDENTICAL:
                self._hold("breaker", None, now)
        if outcome not in ("success", "failure"):
            return
        if outcome == "success":
            self.refusals = []
        self.answers.append((now, outcome == "failure", source))
        # The window moves on by tenths of itself.
        tenth = WINDOW // 10
        recent = [failed for at, failed, _ in self.answers if at // tenth > now // tenth - 10]
        if self._long_run(now, recent) or self._is_sick(recent, RATE) or self._sick_sample():
            self._open(now, retry_after)

    def _long_run(self, now: int, recent: list[bool]) -> bool:
        run = list(itertools.takewhile(lambda answer: answer[1], reversed(self.answers)))
        sources = {source for _, _, source in run}
        slow = bool(run) and now - run[-1][0] >= (THRESHOLD - 1) * WINDOW // RUN_AMID
        lonely = all(recent) and len(run) >= THRESHOLD and (slow or (len(sources) == 1 and None not in sources))
        return len(run) >= RUN_AMID or lonely

    def _sick_sample(self) -> bool:
        samples, rest = divmod(len(self.answers), MINIMUM)
        sample = [failed for _, failed, _ in self.answers[-MINIMUM:]]
        return rest == 0 and self._is_sick(sample, RATE * (FIRST if samples == 1 else LATER))

    def _is_sick(self, answers: list[bool], rate: float) -> bool:
        failures = sum(answers)
        return len(answers) >= MINIMUM and failures >= THRESHOLD and failures >= rate * len(answers)

    def _open(self, now: int, retry_after: int) -> None:
        self.opens += 1
        wait = max(min(MAX_RECOVERY, RECOVERY * 2 ** (self.opens - 1)), min(retry_after, MAX_RETRY_AFTER))
        self._move("open", "breaker_opened", now, now + wait)

    def _hold(self, by: str, wait: int | None, now: int) -> None:
        self.held_by, self.bad_since_held = by, False
        self._move("held", "service_held", now, None if wait is None else now + wait)

    def _close(self, now: int) -> None:
        self.answers, self.refusals, self.opens = [], [], 0
        self._move("closed", "breaker_closed", now)

    def _move(self, state: str, event: str, now: int, until: int | None = None) -> None:
        self.state, self.era, self.since, self.until, self.good, self.lent = state, self.era + 1, now, until, 0, {}
        self.events.append(event)


def policy(permits: int, enough: int) -> dict[str, float]:
    """The same rules as the scripts take them."""
    return {
        "failure_threshold": THRESHOLD,
        "run_amid_successes": RUN_AMID,
        "failure_rate": RATE,
        "minimum_calls": MINIMUM,
        "window": WINDOW,
        "recovery": RECOVERY,
        "max_recovery": MAX_RECOVERY,
        "half_open_calls": permits,
        "success_threshold": enough,
        "identical_refusals": IDENTICAL,
        "hold": HOLD,
        "max_retry_after": MAX_RETRY_AFTER,
        "ttl": 30 * 24 * 3600 * 1000,
    }
