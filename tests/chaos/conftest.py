"""A plain Celery app on a Redis of its own, and a fleet of the product: each trap is tried on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.ours import Ours
from tests.chaos.plain import Plain
from tests.support import wait_until


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Callable[..., Plain]]:
    """Starts plain apps with the given Celery settings, and closes them after the test."""
    made: list[Plain] = []

    def make(**conf: Any) -> Plain:
        made.append(Plain(tmp_path, **conf))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two calls workers of one process each, one control worker, one beat."""
    with Fleet(tmp_path_factory.mktemp("fleet"), concurrency=1, control=1, beats=1) as fleet:
        wait_until(lambda: fleet.supervise() or fleet.is_ready, 60, "the fleet")
        yield fleet


@pytest.fixture
def ours(shared_fleet: Fleet) -> Iterator[Ours]:
    """The shared fleet. Before the next test every process runs again and the provider is well."""
    ours = Ours(shared_fleet)
    shared_fleet.crashes.clear()
    yield ours
    shared_fleet.control("recover", service="elevenlabs")
    ours.until(lambda: not shared_fleet.is_hurt, 30, "the fleet to be whole again")
    assert shared_fleet.crashes == []
