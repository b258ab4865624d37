"""The breaker opens for a sick service, within a few requests, and hardly ever by bad luck.

The gate's own Lua takes the answers, with the time passed in. Where chance decides, the probability is computed and
not simulated, because 1,000 runs cannot part 1 in 1,000 from 2 in 1,000; that the gate follows the rule that is
computed is then shown request by request.
"""

from __future__ import annotations

import itertools
import json
import random
from collections import defaultdict
from math import comb

import pytest
import redis

from resilience.calls.store import DIALER
from resilience.circuit_breaker import policy_of
from resilience.store.scripts import FOLDER
from tests.store.steps import T0, make_settings

RUN, MINIMUM, RATE = 12, 40, 0.5
FIRST, LATER = 17, 24  # failures among the first 40 requests since the gate closed, and among any later 40
GAP = 0.1  # seconds between requests, 10 a second
SLOT = 60  # requests in a tenth of the window
BAD, GOOD = "1", "0"

# Reports answers to a gate of its own, `gap` ms after each other, until it opens.
SCRIPT = """
local g = gate_load(a.service)
for i = 1, #a.answers do
  local failed = string.sub(a.answers, i, i) == '1'
  gate_report(g, a.policy, {gen = num(g.gen), token = 't', outcome = failed and 'failure' or 'success'})
  if g.state ~= 'closed' then return i end
  now = now + a.gap
end
return 0
"""
SHARED = "\n".join((FOLDER / "shared" / f"{part}.lua").read_text("utf-8") for part in ("base", "gate"))
_services = itertools.count()


def opens_at(client: redis.Redis, answers: str, gap: float = GAP) -> int:
    """The number of the request at which a new gate opens, 0 where it stays closed."""
    policy = policy_of(make_settings().services[DIALER])
    args = {"service": f"s{next(_services)}", "policy": policy, "answers": answers, "now": T0 * 1000, "gap": gap * 1000}
    return int(client.eval(SHARED + SCRIPT, 1, "{lineman}", json.dumps(args)))


def is_sick(requests: int, failures: int, run: int, total: int, failures_in_window: int) -> bool:
    """The rule for requests that come fast; the sample that comes later than the first is left out."""
    first_sample = requests == MINIMUM and failures >= FIRST
    return run >= RUN or first_sample or (total >= MINIMUM and failures_in_window >= RATE * total)


def should_open_at(answers: str) -> int:
    """The number of the request at which the rule opens the gate."""
    failures, run = [0], 0
    for n, answer in enumerate(answers, 1):
        failures.append(failures[-1] + (answer == BAD))
        run = run + 1 if answer == BAD else 0
        start = max(0, (n - 1) // SLOT - 9) * SLOT
        later_sample = n > MINIMUM and n % MINIMUM == 0 and failures[n] - failures[n - MINIMUM] >= LATER
        if later_sample or is_sick(n, failures[n], run, n - start, failures[n] - failures[start]):
            return n
    return 0


def chance_to_open(share: float, requests: int) -> float:
    """The probability that the gate opens within so many requests, where the window holds them all."""
    states, opened = {(0, 0): 1.0}, 0.0
    for n in range(1, requests + 1):
        after: dict[tuple[int, int], float] = defaultdict(float)
        for (failures, run), probability in states.items():
            for failed, chance in ((1, share), (0, 1 - share)):
                f, r = failures + failed, (run + 1) * failed
                if is_sick(n, f, r, n, f):
                    opened += probability * chance
                else:
                    after[f, r] += probability * chance
        states = after
    return opened


def chance_of(failures: int, requests: int, share: float) -> float:
    """The probability of so many failures, or more."""
    return sum(comb(requests, k) * share**k * (1 - share) ** (requests - k) for k in range(failures, requests + 1))


def test_a_total_outage_amid_ten_calls_a_second_opens_it_within_12_failures(client: redis.Redis) -> None:
    """The failures were compared with the good answers of a minute: it took hundreds."""
    assert opens_at(client, GOOD * 1000 + BAD * 100) == 1000 + 12


def test_20_percent_failing_open_it_in_at_most_1_of_1000_runs_of_1000_requests() -> None:
    """It was 9 in 100: four unlucky ones at the start were enough."""
    full = 9 * SLOT  # requests that the window holds at least, once it is full
    chances = [
        chance_to_open(0.2, full),
        1000 * (1 - 0.2) * 0.2**RUN,
        1000 / MINIMUM * chance_of(LATER, MINIMUM, 0.2),
        1000 * chance_of(full // 2, full, 0.2),
    ]

    assert sum(chances) <= 0.001


def test_60_percent_failing_open_it_within_40_requests_in_99_of_100_runs() -> None:
    assert chance_to_open(0.6, 40) >= 0.99


def test_no_other_number_of_failures_among_the_first_40_would_do_both() -> None:
    """Nor would any other test of 40 requests: to go by their number is the most powerful (Neyman and Pearson)."""
    assert chance_of(FIRST + 1, MINIMUM, 0.6) < 0.99
    assert chance_of(FIRST - 1, MINIMUM, 0.2) > 0.001


@pytest.mark.parametrize("share", [0.2, 0.4, 0.45, 0.5, 0.6, 0.9])
def test_the_gate_follows_the_rule_that_is_computed(real_redis: redis.Redis, share: float) -> None:
    draw = random.Random(share)
    runs = [
        GOOD * draw.choice([0, 30, 100]) + "".join(BAD if draw.random() < share else GOOD for _ in range(1000))
        for _ in range(40)
    ]

    assert [opens_at(real_redis, answers) for answers in runs] == [should_open_at(answers) for answers in runs]


@pytest.mark.parametrize("gap", [5, 20, 21, 600])
def test_four_failures_and_nothing_else_open_it_however_slowly_they_come(client: redis.Redis, gap: float) -> None:
    assert opens_at(client, BAD * 5, gap) == 4
