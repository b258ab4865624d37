"""Makes a failing plan short: steps left out, lists cut, times rounded, for as long as the same property fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.simulation.plan import Step

Fails = Callable[[Sequence[Step]], bool]


def shrink(plan: Sequence[Step], fails: Fails, most: int = 150) -> list[Step]:
    """The shortest plan found within so many runs."""
    best, runs = list(plan), 0
    progress = True
    while progress and runs < most:
        progress = False
        for shorter in _shorter(best):
            runs += 1
            if fails(shorter):
                best, progress = shorter, True
                break
            if runs >= most:
                break
    return best


def _shorter(plan: list[Step]) -> Iterator[list[Step]]:
    half = len(plan) // 2
    if half > 1:
        yield plan[:half]
        yield plan[half:]
    for n in range(len(plan)):
        yield plan[:n] + plan[n + 1 :]
    for n, step in enumerate(plan):
        for smaller in _smaller(step):
            yield [*plan[:n], smaller, *plan[n + 1 :]]


def _smaller(step: Step) -> Iterator[Step]:
    if step.what == "enqueue" and step.seconds > 1:
        yield replace(step, seconds=1.0)
        yield replace(step, seconds=float(int(step.seconds / 2)))
    elif step.what == "outage" and step.seconds > 60:
        yield replace(step, seconds=float(round(step.seconds / 4)))
        yield replace(step, seconds=float(round(step.seconds / 2)))
    if step.at and step.at != round(step.at):
        yield replace(step, at=float(round(step.at)))
    if step.seconds != round(step.seconds):
        yield replace(step, seconds=float(round(step.seconds)))
