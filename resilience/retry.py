"""When to try again: pure arithmetic, no clock and no sleep.

delay = min(max_delay, initial_delay * backoff_factor ** (attempt - 1)), lengthened by at most `jitter` of itself and
never shorter than the service's Retry-After. Jitter only lengthens, because Celery's own full jitter sometimes gives
0 s. Celery's backoff also has a fixed base of 2, so tasks override `retry()` and take their countdown from here.
`resilience.errors.parse_retry_after` reads the header (seconds or HTTP-date, RFC 9110, 10.2.3).
"""

from __future__ import annotations

import random
from typing import Protocol


class Policy(Protocol):
    """A retry policy. Times in seconds; `max_attempts` includes the first try."""

    @property
    def initial_delay(self) -> float: ...
    @property
    def backoff_factor(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def max_delay(self) -> float: ...
    @property
    def jitter(self) -> float: ...
    @property
    def max_retry_after(self) -> float: ...


def next_delay(
    policy: Policy, attempt: int, retry_after: float | None = None, *, draw: float | None = None
) -> float | None:
    """Seconds to wait after the `attempt`-th try (from 1) failed, or None when it was the last one.

    `retry_after` is what the service asks for, in seconds, honoured up to `max_retry_after`. `draw` in [0, 1) replaces
    the random number.
    """
    if attempt >= policy.max_attempts:
        return None
    # The exponent is bounded: a float overflows beyond 2 ** 1023.
    exponent = min(attempt - 1, 60)
    delay = min(policy.max_delay, policy.initial_delay * policy.backoff_factor**exponent)
    delay *= 1 + policy.jitter * (random.random() if draw is None else draw)
    return max(delay, min(retry_after or 0.0, policy.max_retry_after))
