"""Whom to tell what, and when: `decide` as a table of events and the alerts that they call for."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from resilience.alerts import Alert, decide

INTERVAL = 300.0
NOW = 1_800_000_000.0
_ids = count(1)

Event = tuple[str, dict[str, str]]
State = dict[str, dict[str, Any]]


def event(kind: str, service: str = "elevenlabs", at: float = NOW, **fields: object) -> Event:
    texts = {key: str(value) for key, value in fields.items()}
    return f"{next(_ids)}-0", {"event": kind, "service": service, "at": str(int(at * 1000)), **texts}


def opened(**fields: object) -> Event:
    return event("breaker_opened", **{"reason": "4 of 4 requests failed", "until": int(NOW * 1000) + 30_000} | fields)


def held(**fields: object) -> Event:
    return event("service_held", **{"reason": "the key is dead"} | fields)


def failed(id: str = "spring:1", **fields: object) -> Event:
    return event("call_failed", call_id=id, reason="bad number", **fields)


CLOSED, HALF_OPEN = event("breaker_closed"), event("breaker_half_open")
BROKEN = event("alert_channel_broken", "", channel="email", reason="535")


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([opened()], ["service_down"]),
        ([held()], ["service_down"]),
        ([opened(), HALF_OPEN, opened(), HALF_OPEN, opened()], ["service_down"]),
        ([opened(), held()], ["service_down"]),
        ([opened(), HALF_OPEN, CLOSED], ["service_down", "resolved"]),
        ([opened(), CLOSED, opened()], ["service_down", "resolved", "service_down"]),
        ([CLOSED], []),
        ([HALF_OPEN, event("health_down"), event("call_retrying"), event("call_deferred")], []),
        ([opened(), opened(service="crm")], ["service_down", "service_down"]),
        ([opened(), event("breaker_closed", "crm")], ["service_down"]),
        ([failed()], ["call_failed"]),
        ([failed(), failed(), failed()], ["call_failed"]),
        ([opened(), failed(), failed()], ["service_down"]),
        ([opened(), failed(service="crm")], ["service_down", "call_failed"]),
        ([event("call_needs_review"), event("call_rang_twice")], ["call_needs_review", "call_rang_twice"]),
        ([event("call_in_doubt", code="timeout")], []),
        ([event("call_in_doubt", code="unknown")], ["unknown_error"]),
        ([event("service_throttled", until=int(NOW * 1000) + 59_000)], []),
        ([event("service_throttled", until=int(NOW * 1000) + 60_000)], ["service_throttled"]),
        ([BROKEN], ["alert_channel_broken"]),
    ],
)
def test_these_events_call_for_these_alerts(events: list[Event], told: list[str]) -> None:
    alerts = decide({}, events, NOW, INTERVAL)

    assert [alert.kind for alert in alerts] == told
    assert len({alert.id for alert in alerts}) == len(alerts)


def ticks(*batches: list[Event], every: float = 60.0) -> list[list[Alert]]:
    """What each batch calls for, one tick after another. The state goes through JSON, as it does in Redis."""
    state: State = {}
    told = []
    for n, batch in enumerate(batches):
        state = json.loads(json.dumps(state))
        told.append(decide(state, batch, NOW + n * every, INTERVAL))
    return told


def test_an_outage_is_told_once_and_resolved_with_what_it_cost() -> None:
    told = ticks(
        [opened(waiting=3)],
        [HALF_OPEN, opened()],
        [failed("spring:1"), failed("spring:2")],
        [event("breaker_closed", at=NOW + 90, waiting=7)],
    )

    [down], again, folded, [resolved] = told
    assert (again, folded) == ([], [])
    assert down.subject == "elevenlabs is down: circuit breaker open"
    assert "4 of 4 requests failed" in down.text
    assert "3 wait now" in down.text
    assert resolved.subject == "resolved: elevenlabs is well again"
    assert "after 0:01:30" in resolved.text
    assert resolved.data["failed"] == 2
    assert resolved.data["waiting"] == 7
    assert resolved.data["duration_s"] == 90


def test_a_hold_during_an_outage_is_told_since_waiting_no_longer_helps() -> None:
    [first], [second], third = ticks([opened()], [held(at=NOW + 60)], [held(), opened()])

    assert (first.data["state"], second.data["state"]) == ("open", "held")
    assert second.data["since"] == first.data["since"]
    assert "the key is dead" in second.text
    assert third == []


def test_the_first_failed_call_is_told_at_once_and_the_rest_in_one_digest() -> None:
    told = ticks([failed("a")], [failed("b")], [failed("c"), failed("d")], [failed("e")], [], [], [])

    assert [[alert.data["count"] for alert in alerts] for alerts in told] == [[1], [], [], [], [], [4], []]
    assert "- b: bad number\n- c: bad number\n- d: bad number\n" in told[5][0].text


def test_a_group_that_fell_silent_starts_afresh() -> None:
    told = ticks([failed()], *[[]] * 6, [failed()])

    assert [len(alerts) for alerts in told] == [1, 0, 0, 0, 0, 0, 0, 1]


def test_state_does_not_grow_once_all_is_quiet() -> None:
    state: State = {}
    decide(state, [failed(), opened(), CLOSED, BROKEN], NOW, INTERVAL)

    decide(state, [], NOW + INTERVAL, INTERVAL)

    assert state == {}


def test_a_channel_that_is_broken_is_told_by_the_others() -> None:
    [alert] = decide({}, [BROKEN], NOW, INTERVAL)

    assert alert.not_to == "email"
    assert "email: 535" in alert.text


def test_no_event_decides_twice_where_nothing_happened() -> None:
    assert ticks([opened()], [], [], [], [], [], []) [1:] == [[]] * 6
