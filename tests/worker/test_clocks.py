"""A control host whose clock is an hour ahead of beat's works like any other.

What happened: periodic tasks carried an `expires` of 30 s, by beat's clock. The control worker compared it with its own
and dropped each of them: nothing was dispatched, no health check, no alert. What holds now: no `expires` is shorter
than an hour, and a stale tick does nothing, since a tick takes its slot in Redis first.
"""

from __future__ import annotations

from typing import Any

import pytest

from resilience.calls.call import State
from resilience.calls.contacts import Contact
from tests.support import FAKETIME, needs_faketime, wait_until

Fleet = Any  # see conftest.py
CONTACTS = [Contact(f"{n}", f"+1415555{n:04d}", "", {}) for n in range(100, 120)]


@needs_faketime
@pytest.mark.parametrize("hours", ["+1", "+12", "-1"])
def test_a_control_host_hours_off_dispatches_all_the_same(
    own_fleet: Fleet, monkeypatch: pytest.MonkeyPatch, hours: str
) -> None:
    fleet = own_fleet
    fleet.processes.kill("control")
    for name, value in {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME": f"{hours}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }.items():
        monkeypatch.setitem(fleet.processes.env, name, value)
    fleet.processes.start("control")

    fleet.store.enqueue(CONTACTS, "own")

    wait_until(lambda: fleet.count(State.PLACED) == len(CONTACTS), timeout=40, what="every call to be placed")
    wait_until(lambda: fleet.gate()["health"] == "up", timeout=20, what="the health check")
