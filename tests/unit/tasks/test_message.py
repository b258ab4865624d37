"""When a task may run: what its message asks for, by clocks that differ."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tasks.celery import settings
from tasks.message import TaskMessage, Unreadable
from tasks.worker.consumer import MOMENT, checked

NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
CONTACT = {"contact": {"id": "1", "phone": "+14155550111"}}


def message(wait: float | None, task: str = "tasks.calls.place_call", **changes: Any) -> TaskMessage:
    eta = None if wait is None else NOW + timedelta(seconds=wait)
    return TaskMessage(**({"task": task, "id": "x", "kwargs": CONTACT, "eta": eta} | changes))


@pytest.mark.parametrize(
    ("wait", "eta", "not_before"),
    [(None, None, None), (-3600, None, None), (0, None, None), (5, 5, None), (MOMENT, MOMENT, None),
     (MOMENT + 1, None, MOMENT + 1), (86400, None, 86400)],
)  # fmt: skip
def test_a_contact_waits_a_moment_in_the_worker_and_longer_in_the_store(
    wait: float | None, eta: float | None, not_before: float | None
) -> None:
    said = checked(message(wait), NOW)

    assert (said.eta and (said.eta - NOW).total_seconds()) == eta
    assert (said.not_before and said.not_before - NOW.timestamp()) == not_before


def test_a_contact_of_a_clock_that_is_a_year_ahead_is_refused_in_the_open() -> None:
    with pytest.raises(Unreadable, match="eta: must be at most 30 days ahead"):
        checked(message(366 * 86400), NOW)


def test_a_wake_up_that_is_to_wait_for_long_goes_to_the_store_at_once_which_knows_when() -> None:
    said = checked(message(3600, kwargs={"call_id": "spring:1"}), NOW)

    assert (said.eta, said.not_before) == (None, None)


@pytest.mark.parametrize(
    "changes", [{"retries": 1}, {"task": "tasks.calls.look_up", "kwargs": {"call_id": "spring:1"}}]
)
def test_a_clock_that_is_an_hour_ahead_holds_no_task_or_retry_of_ours_for_longer_than_the_longest_wait(
    changes: dict[str, Any],
) -> None:
    said = checked(message(3600, **changes), NOW)

    assert said.eta == NOW + timedelta(seconds=max(MOMENT, settings.longest_countdown))


def test_a_contact_that_has_expired_is_refused_and_a_tick_is_left_to_celery() -> None:
    gone = NOW - timedelta(seconds=1)

    with pytest.raises(Unreadable, match="expired"):
        checked(message(None, expires=gone), NOW)
    assert (
        checked(message(None, task="tasks.calls.look_up", kwargs={"call_id": "spring:1"}, expires=gone), NOW).expires
        == gone
    )


def test_a_contact_that_has_not_expired_is_called_although_it_waits_for_a_process() -> None:
    assert checked(message(None, expires=NOW + timedelta(seconds=1)), NOW).expires is None


@pytest.mark.parametrize("phone", ["+14155550111", "0014155550111", "415 555 0111"])
@pytest.mark.parametrize("positional", [True, False])
def test_what_flower_shows_has_no_number(phone: str, positional: bool) -> None:
    contact = {"id": "1", "phone": phone}
    said = message(None, args=[contact] if positional else [], kwargs={} if positional else {"contact": contact})

    shown = json.dumps(said.headers())

    assert "5550111" not in shown
    assert "555 0111" not in shown
    assert phone in said.body().decode()


def test_the_id_of_a_call_stays_readable_in_flower() -> None:
    assert "spring:4155550111" in message(None, kwargs={"call_id": "spring:4155550111"}).headers()["kwargsrepr"]
