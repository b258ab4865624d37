"""A worker that is suspended past its lease, before or after its dial, and then continues."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.chaos.ours import Ours
from tests.chaos.policy import LEASE_S
from tests.chaos.verdict import TAKEN_UP

BOTH = ("calls-1", "calls-2")
pytestmark = pytest.mark.timeout(180)


def suspend(ours: Ours, when: Callable[[], object]) -> None:
    """Suspends both workers as soon as `when` returns true."""
    ours.until(when, 15, "the moment to suspend the workers")
    for name in BOTH:
        ours.fleet.members[name].signal(signal.SIGSTOP)


def go_on(ours: Ours, contact: str) -> None:
    """Continues both workers when the lease is over and the call is in doubt."""
    ours.until(lambda: ours.state(contact) == "in_doubt", LEASE_S + 10, "the lease to end")
    for name in BOTH:
        ours.fleet.members[name].signal(signal.SIGCONT)


def reports(ours: Ours, contact: str) -> list[str]:
    """The reasons in the stale reports of the contact's call."""
    return [
        line.get("reason", "")
        for line in ours.fleet.log()
        if line["event"] == "report_stale" and line["call_id"] == f"trap:{contact}"
    ]


def test_suspended_before_the_dial_a_worker_does_not_dial_after_its_lease(ours: Ours) -> None:
    """Between claim and dial there are only milliseconds, so this is tried until the signal comes there."""

    def sprung(contact: str) -> bool:
        ours.enqueue(contact)
        suspend(ours, lambda: ours.state(contact) not in ("queued", ""))
        early = ours.state(contact) == "dialing" and not ours.rang(contact)
        if early:
            go_on(ours, contact)
        for name in BOTH:
            ours.fleet.members[name].signal(signal.SIGCONT)
        ours.placed_once(contact)
        return early and "the lease no longer covered the dial" in reports(ours, contact)

    deadline = time.monotonic() + 120
    names = (f"before-{n}" for n in range(1000))
    assert any(sprung(name) for name in names if time.monotonic() < deadline)


def test_suspended_after_the_dial_a_worker_reports_too_late_and_changes_nothing(ours: Ours) -> None:
    ours.fault("slow", 0.9)
    ours.enqueue("after")
    suspend(ours, lambda: ours.rang("after"))

    go_on(ours, "after")

    ours.placed_once("after")
    ours.until(lambda: reports(ours, "after"), 10, "the late report")
    assert [event["reason"] for event in ours.events("after") if event["event"] == "call_in_doubt"] == [TAKEN_UP]
