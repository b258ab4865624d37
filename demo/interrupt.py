"""The signals that end the demo."""

from __future__ import annotations


class Stopped(BaseException):
    """A signal ended the demo."""


# Signals that have come. One that arrives inside a `__del__` raises without effect: the next wait asks here.
SIGNALS: list[int] = []


def stop(signum: int, _frame: object) -> None:
    """The handler of the signals that end the demo. A second one does not cut the clearing up short."""
    if not SIGNALS:
        SIGNALS.append(signum)
        raise Stopped
