"""Beat goes on at its pace when its host's clock is set, also where it was restarted in between."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.celery import app as tasks_app
from tasks.worker.schedule import BoundedScheduler

STEP = timedelta(seconds=0.1)


class Watched(BoundedScheduler):
    """Counts the dispatcher's ticks instead of sending them."""

    sent = 0
    producer = None  # no broker

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self.sent += entry.name == "dispatch"


class Host:
    """A host with a clock that can be set."""

    def __init__(self, file: Path) -> None:
        self.file, self.now = str(file), datetime(2026, 11, 25, 12, tzinfo=UTC)

    def beat(self) -> Watched:
        return Watched(tasks_app, schedule_filename=self.file)

    def ticks(self, beat: Watched, seconds: int) -> int:
        """How many ticks beat sends in so many seconds."""
        before = beat.sent
        for _ in range(round(seconds / STEP.total_seconds())):
            while beat.tick() == 0:
                pass
            self.now += STEP
        return beat.sent - before


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "schedule")
    tasks_app.set_current()
    monkeypatch.setattr(tasks_app, "now", lambda: host.now)
    return host


@pytest.mark.parametrize("hours", [-1, 1])
def test_beat_goes_on_when_the_clock_is_set(host: Host, hours: int) -> None:
    with closing(host.beat()) as beat:
        assert 8 <= host.ticks(beat, 10) <= 11
        host.now += timedelta(hours=hours)

        assert 8 <= host.ticks(beat, 10) <= 11


def test_beat_goes_on_after_a_restart_at_an_earlier_time(host: Host) -> None:
    with closing(host.beat()) as beat:
        host.ticks(beat, 10)
    host.now -= timedelta(hours=1)

    with closing(host.beat()) as beat:
        assert 8 <= host.ticks(beat, 10) <= 11


def test_this_is_the_scheduler_that_beat_uses() -> None:
    assert tasks_app.conf.beat_scheduler == "tasks.worker.schedule:BoundedScheduler"
