"""When to try again: delays, jitter, and what a service asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.config.settings import load
from resilience.errors import parse_retry_after
from resilience.retry import next_delay

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Rules:
    initial_delay: float = 5.0
    backoff_factor: float = 2.0
    max_attempts: int = 4
    max_delay: float = 60.0
    jitter: float = 0.1
    max_retry_after: float = 900.0


SHIPPED = Rules()
rules = st.builds(
    Rules,
    initial_delay=st.floats(0.001, 60),
    backoff_factor=st.floats(1, 100),
    max_attempts=st.integers(1, 10**9),
    max_delay=st.floats(60, 1e6),
    jitter=st.floats(0, 1),
    max_retry_after=st.floats(1, 1e6),
)


def delay(policy: Rules, attempt: int, retry_after: float | None = None, draw: float = 0.0) -> float:
    found = next_delay(policy, attempt, retry_after, draw=draw)
    assert found is not None
    return found


def test_the_delays_are_5_10_and_20_seconds_and_then_none() -> None:
    assert [next_delay(SHIPPED, attempt, draw=0) for attempt in (1, 2, 3, 4, 5)] == [5, 10, 20, None, None]


def test_the_shipped_policy_says_the_same() -> None:
    shipped = load(environ={"ELEVEN_API_KEY": "key"}).services["elevenlabs"].retry

    assert [next_delay(shipped, attempt, draw=0) for attempt in (1, 2, 3, 4)] == [5, 10, 20, None]


@given(rules, st.integers(1, 10**9), st.none() | st.floats(0, 1e9), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_shorter_than_its_base_nor_longer_than_it_may_be(
    policy: Rules, attempt: int, retry_after: float | None, draw: float
) -> None:
    found = next_delay(policy, attempt, retry_after, draw=draw)

    if attempt >= policy.max_attempts:
        assert found is None
        return
    assert found is not None
    base = min(policy.max_delay, policy.initial_delay * policy.backoff_factor ** min(attempt - 1, 60))
    asked = min(retry_after or 0, policy.max_retry_after)
    assert max(base, asked) <= found <= max(base * (1 + policy.jitter), asked)
    assert math.isfinite(found)


@given(rules, st.integers(1, 50), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_jitter_only_lengthens(policy: Rules, attempt: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if attempt < policy.max_attempts:
        assert delay(policy, attempt) <= delay(policy, attempt, draw=low) <= delay(policy, attempt, draw=high)


@given(rules, st.integers(1, 100))
def test_delays_do_not_shrink_from_one_attempt_to_the_next(policy: Rules, attempt: int) -> None:
    if attempt + 1 < policy.max_attempts:
        assert delay(policy, attempt) <= delay(policy, attempt + 1)


def test_without_a_draw_the_delay_is_random_within_its_bounds() -> None:
    seen = {next_delay(SHIPPED, 1) for _ in range(50)}

    assert len(seen) > 1
    assert all(found is not None and 5 <= found <= 5.5 for found in seen)


@pytest.mark.parametrize(("asked", "waited"), [(None, 5), (0, 5), (3, 5), (40, 40), (901, 900), (math.inf, 900)])
def test_what_the_service_asks_for_is_kept_up_to_a_cap(asked: float | None, waited: float) -> None:
    assert delay(SHIPPED, 1, asked) == waited


def test_the_last_attempt_is_the_last_even_where_the_service_asks_for_another() -> None:
    assert next_delay(SHIPPED, 4, 1) is None


def test_a_billionth_attempt_does_not_overflow() -> None:
    assert delay(Rules(max_attempts=10**18), 10**17) == 60


def header(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW.timestamp() + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("-5", 0),
        (header(90), 90),
        (header(-90), 0),
        ("Sun, 01 Mar 2026 12:01:00 -0000", 60),
        ("Sun, 01 Mar 2026 14:01:00 +0200", 60),
        (None, None),
        ("", None),
        ("soon", None),
        ("inf", 86_400),
        ("nan", None),
        ("1e999", 86_400),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
    ],
)
def test_a_retry_after_header_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@given(st.text() | st.from_regex(r"\w{3}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d [+-]?\w{3,5}", fullmatch=True))
def test_no_header_is_an_error(value: str) -> None:
    found = parse_retry_after(value, NOW.timestamp())

    assert found is None or 0 <= found < math.inf
