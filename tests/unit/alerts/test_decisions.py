"""Which notices an incident calls for, and when: `decide` as a table, and events with the notices they lead to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from resilience.alerts.alert import Alert
from resilience.alerts.decisions import Situation, decide, decide_alerts
from resilience.alerts.incident import Group, Incident, Notice, load
from resilience.alerts.incidents import State, apply
from resilience.alerts.kinds import Kind
from resilience.config.settings import Alerts

RULES = Alerts()
GROUP, REPEAT = RULES.group_interval, RULES.repeat_interval
NOW = 1_800_000_000.0
CHANNELS = ("email", "webhook")
SITUATION = Situation(RULES, ("elevenlabs", "crm"), CHANNELS)

Event = dict[str, str]


def event(kind: str, service: str = "elevenlabs", at: float = NOW, **fields: object) -> Event:
    texts = {key: str(value) for key, value in fields.items()}
    return {"event": kind, "service": service, "at": str(int(at * 1000)), **texts}


def opened(at: float = NOW, **fields: object) -> Event:
    return event("breaker_opened", at=at, **{"reason": "4 of 4 requests failed"} | fields)


def held(at: float = NOW, **fields: object) -> Event:
    return event("service_held", at=at, **{"reason": "the key is dead"} | fields)


def closed(at: float = NOW, **fields: object) -> Event:
    return event("breaker_closed", at=at, **fields)


def failed(id: str = "spring:1", at: float = NOW, **fields: object) -> Event:
    return event("call_failed", at=at, call_id=id, reason="bad number", **fields)


HALF_OPEN = event("breaker_half_open")
BROKEN = event("alert_channel_broken", "email", reason="535")


def down(**fields: Any) -> Incident:
    """An outage that fired a second ago."""
    return replace(Incident("elevenlabs", Kind.SERVICE_DOWN, since=NOW - 1, fired=NOW - 1, at=NOW - 1), **fields)


def calls(**fields: Any) -> Incident:
    """A call that failed a second ago."""
    group = Group(1, NOW - 1, (("spring:1", "bad number"),))
    start = Incident("elevenlabs", Kind.CALL_FAILED, since=NOW - 1, fired=NOW - 1, at=NOW - 1, new=group, total=1)
    return replace(start, **fields)


NOTIFIED = {"notified_at": NOW - 1, "notice": Notice.OPENED}
ENDED = {"ended": NOW}


@pytest.mark.parametrize(
    ("incident", "notice"),
    [
        (calls(), Notice.OPENED),
        (calls(**NOTIFIED), None),
        (calls(notified_at=NOW - GROUP, notice=Notice.OPENED), Notice.DIGEST),
        (calls(notified_at=NOW - GROUP, notice=Notice.OPENED, new=Group()), None),
        (calls(notified_at=NOW - REPEAT, notice=Notice.DIGEST, new=Group()), None),
        (down(), Notice.OPENED),
        (down(**NOTIFIED), None),
        (down(notified_at=NOW - REPEAT, notice=Notice.OPENED), Notice.REMINDER),
        (down(notified_at=NOW - REPEAT + 1, notice=Notice.REMINDER), None),
        (down(held=True), Notice.OPENED),
        (down(**NOTIFIED, cause_changed=True), Notice.OPENED),
        (down(**NOTIFIED, held=True), None),
        (down(**NOTIFIED, silenced=True), Notice.OPENED),
        (down(**ENDED), None),
        (down(**ENDED, **NOTIFIED), Notice.RESOLVED),
        (down(**ENDED, notified_at=NOW, notice=Notice.RESOLVED), None),
        (down(**ENDED, held_for_quiet_hours=True), Notice.RESOLVED),
        (down(times=2), Notice.FLAPPING),
        (down(**NOTIFIED, times=2), Notice.FLAPPING),
        (down(times=2, notified_at=NOW - 1, notice=Notice.RESOLVED), Notice.FLAPPING),
        (down(times=2, notified_at=NOW - 1, notice=Notice.FLAPPING, flaps=True), None),
        (down(times=9, notified_at=NOW - 1, notice=Notice.FLAPPING, flaps=True), None),
        (down(times=2, notified_at=NOW - 1, notice=Notice.FLAPPING, flaps=True, **ENDED), None),
        (down(times=2, notified_at=NOW - 1, notice=Notice.FLAPPING, flaps=True, ended=NOW - GROUP), Notice.RESOLVED),
        (down(times=2, notified_at=NOW - GROUP, notice=Notice.FLAPPING, flaps=True, fired=NOW - GROUP), Notice.OPENED),
        (down(times=2, notified_at=NOW - 1, notice=Notice.OPENED, flaps=True, fired=NOW - 2 * GROUP), None),
        (down(times=2, notified_at=NOW - 1, notice=Notice.OPENED, flaps=True, **ENDED), None),
        (down(times=9, notified_at=NOW - REPEAT, notice=Notice.FLAPPING, flaps=True), Notice.REMINDER),
        (down(times=9, notified_at=NOW - REPEAT, notice=Notice.FLAPPING, flaps=True, **ENDED), Notice.REMINDER),
    ],
)
def test_this_incident_calls_for_this_notice(incident: Incident, notice: Notice | None) -> None:
    assert decide(incident, NOW, RULES) == notice
    assert decide(incident, NOW, RULES, silent=True) is None


def test_a_health_check_that_fails_during_the_outage_is_part_of_it() -> None:
    sick = down(kind=Kind.HEALTH_DOWN)

    assert decide(sick, NOW, RULES, folded=True) is None
    assert decide(sick, NOW, RULES) == Notice.OPENED
    assert decide(replace(sick, **ENDED, **NOTIFIED), NOW, RULES, folded=True) == Notice.RESOLVED


def ticks(*batches: Sequence[Event], every: float = 60.0, situation: Situation = SITUATION) -> list[list[Alert]]:
    """What each batch calls for, one round after another. The incidents go through JSON, as they do in Redis."""
    state: State = {}
    sent = []
    for n, batch in enumerate(batches):
        state = {key: load(json.loads(incident.dump())) for key, incident in state.items()}
        for one in batch:
            state = apply(state, one, GROUP)
        state, alerts = decide_alerts(state, NOW + n * every, situation)
        sent.append(alerts)
    return sent


def notices(alerts: Sequence[Alert]) -> list[str]:
    return [f"{notice} {incident.kind}" for alert in alerts for notice, incident in alert.notices]


@pytest.mark.parametrize(
    ("events", "sent"),
    [
        ([opened()], ["opened service_down"]),
        ([held()], ["opened service_down"]),
        ([opened(), HALF_OPEN, opened(), HALF_OPEN, opened()], ["opened service_down"]),
        ([opened(), held()], ["opened service_down"]),
        ([opened(), HALF_OPEN, closed()], []),
        ([opened(), closed(), opened()], ["flapping service_down"]),
        ([opened(), closed(), opened(at=NOW + GROUP)], ["opened service_down"]),
        ([closed()], []),
        ([HALF_OPEN, event("call_retrying"), event("call_deferred"), event("call_released")], []),
        ([opened(), opened(service="crm")], ["opened service_down", "opened service_down"]),
        ([opened(), closed(service="crm")], ["opened service_down"]),
        ([event("health_down"), opened()], ["opened service_down"]),
        ([event("health_down")], ["opened health_down"]),
        ([event("health_down"), event("health_up")], []),
        ([event("health_down"), opened(), closed()], ["opened health_down"]),
        ([failed()], ["opened call_failed"]),
        ([failed(), failed(), failed()], ["opened call_failed"]),
        ([opened(), failed(), failed()], ["opened service_down"]),
        ([failed(), opened()], ["opened service_down"]),
        ([opened(), failed(), closed()], ["opened call_failed"]),
        ([opened(), failed(service="crm")], ["opened service_down", "opened call_failed"]),
        ([opened(), event("call_rang_twice")], ["opened service_down", "opened call_rang_twice"]),
        (
            [event("call_needs_review"), event("call_doubt_long")],
            ["opened call_needs_review", "opened call_doubt_long"],
        ),
        ([event("call_in_doubt", code="timeout")], []),
        ([event("call_in_doubt", code="unknown")], ["opened unknown_error"]),
        ([event("service_throttled", until=int(NOW * 1000) + 59_000)], []),
        ([event("service_throttled", until=int(NOW * 1000) + 60_000)], ["opened service_throttled"]),
        ([event("unknown_error", "lineman")], ["opened unknown_error"]),
        ([event("call_damaged", "")], ["opened call_damaged"]),
        ([BROKEN], ["opened channel_broken"]),
        ([BROKEN, event("alert_channel_well", "email")], []),
        ([event("dispatcher_silent", "dispatcher")], ["opened dispatcher_silent"]),
        ([{}, {"event": "call_failed"}, {"event": "call_failed", "at": "now"}, failed()], ["opened call_failed"]),
    ],
)
def test_these_events_call_for_these_notices(events: list[Event], sent: list[str]) -> None:
    [alerts] = ticks(events)

    assert notices(alerts) == sent
    assert len({alert.id for alert in alerts}) == len(alerts)


def test_an_outage_is_notified_once_and_resolved_with_what_it_cost() -> None:
    sent = ticks(
        [opened(waiting=3)],
        [HALF_OPEN, opened()],
        [failed("spring:1"), failed("spring:2"), event("call_released"), event("call_needs_review", call_id="a:3")],
        [closed(at=NOW + 90, waiting=7)],
    )

    assert [notices(alerts) for alerts in sent] == [["opened service_down"], [], [], ["resolved service_down"]]
    [(_, resolved)] = sent[3][0].notices
    assert (resolved.ended - resolved.since, resolved.waiting, resolved.resumed) == (90, 7, 1)
    assert {kind: group.count for kind, group in resolved.calls.items()} == {"call_failed": 2, "call_needs_review": 1}


def test_a_hold_during_an_outage_is_notified_since_waiting_no_longer_helps() -> None:
    sent = ticks([opened()], [held(at=NOW + 60)], [held(), opened(), held()])

    assert [notices(alerts) for alerts in sent] == [["opened service_down"], ["opened service_down"], []]
    assert sent[0][0].notices[0][1].since == sent[1][0].notices[0][1].since
    assert sent[1][0].follows == (sent[0][0].id,)


@pytest.mark.parametrize("junk", ["now", "-1", "\u00b2", "9" * 5000, ""])
def test_an_event_that_is_not_ours_stops_none_after_it(junk: str) -> None:
    strange = [opened() | {field: junk} for field in ("at", "until", "waiting")]

    [alerts] = ticks([*strange, event("events_missed", missed=junk), failed(service="crm")])

    assert "opened call_failed" in notices(alerts)


def test_each_new_cause_is_notified_at_once_and_a_known_one_flaps() -> None:
    outage, quota, key = opened, {"reason": "ElevenLabs: the quota is spent, 9 of 9"}, {"reason": "the key is dead"}
    again = {"reason": "ElevenLabs: the quota is spent, 10123 of 10000"}

    sent = ticks(
        [outage()],
        [closed(NOW + 60)],
        [held(NOW + 120, **quota)],
        [closed(NOW + 180)],
        [held(NOW + 240, **key)],
        [closed(NOW + 300)],
        [held(NOW + 360, **again)],
    )

    down, up = ["opened service_down"], ["resolved service_down"]
    assert [notices(alerts) for alerts in sent] == [down, up, down, up, down, up, ["flapping service_down"]]
    assert sent[2][0].follows == (sent[1][0].id,)


def test_a_cause_that_changes_while_the_gate_is_shut_is_notified_at_once() -> None:
    sent = ticks([opened()], [held(reason="quota")], [held(reason="key")], [held(reason="quota"), opened()])

    assert [notices(alerts) for alerts in sent] == [["opened service_down"]] * 3 + [[]]


@pytest.mark.parametrize("by_hand", [{"by": "operator ada"}, {"by": "operator"}])
def test_what_an_operator_does_is_no_flap(by_hand: dict[str, str]) -> None:
    sent = ticks(
        [held(**by_hand)],
        [closed(NOW + 60, **{"from": "held"})],
        [held(NOW + 120, **by_hand)],
        [closed(NOW + 180, **{"from": "half_open"})],
        [held(NOW + 240, by="breaker")],
        [closed(NOW + 300, **{"from": "held"})],
        [held(NOW + 360, by="breaker")],
    )

    down, up = ["opened service_down"], ["resolved service_down"]
    assert [notices(alerts) for alerts in sent] == [down, up, down, up, down, up, down]


def test_a_clock_that_is_set_back_delays_no_digest() -> None:
    hour = 3600.0
    state = apply({}, failed(at=NOW + hour), GROUP)
    state, _ = decide_alerts(state, NOW + hour, SITUATION)
    state = apply(state, failed("spring:2", at=NOW), GROUP)

    _, alerts = decide_alerts(state, NOW, SITUATION)

    assert notices(alerts) == ["digest call_failed"]


def test_events_that_nobody_read_are_counted_by_their_number() -> None:
    [[alert]] = ticks([event("events_missed", "lineman", missed=5000)])

    assert alert.notices[0][1].total == 5000


def test_the_first_failed_call_is_notified_at_once_and_the_rest_in_one_digest() -> None:
    sent = ticks([failed("a")], [failed("b")], [failed("c"), failed("d")], [failed("e"), failed("f")], [], [], [])

    assert [notices(alerts) for alerts in sent] == [["opened call_failed"], [], [], [], [], ["digest call_failed"], []]
    [(_, digest)] = sent[5][0].notices
    assert digest.new == Group(5, NOW, (("b", "bad number"), ("c", "bad number"), ("d", "bad number")))
    assert digest.total == 6


def test_a_group_that_fell_silent_starts_afresh() -> None:
    sent = ticks([failed()], *[[]] * 6, [failed()])

    assert [notices(alerts) for alerts in sent] == [["opened call_failed"], *[[]] * 6, ["opened call_failed"]]


def test_state_does_not_grow_once_all_is_quiet() -> None:
    state: State = {}
    for one in [failed(), opened(), closed(), BROKEN, event("alert_channel_well", "email"), event("health_down")]:
        state = apply(state, one, GROUP)
    state, _ = decide_alerts(state, NOW, SITUATION)
    state = apply(state, event("health_up"), GROUP)

    for n in range(3):
        state, _ = decide_alerts(state, NOW + n * GROUP, SITUATION)

    assert state == {}


def test_a_service_that_flaps_is_reported_as_flapping_once_and_then_how_it_settled() -> None:
    back_and_forth = [[closed(at=NOW + n * 60) if n % 2 else opened(at=NOW + n * 60)] for n in range(10)]

    sent = ticks(*back_and_forth, *[[]] * 6)

    seen = [notices(alerts) for alerts in sent]
    assert seen[:3] == [["opened service_down"], ["resolved service_down"], ["flapping service_down"]]
    assert seen[3:14] == [[]] * 11
    assert seen[14] == ["resolved service_down"]
    assert sent[14][0].notices[0][1].times == 5


def test_a_service_that_flapped_and_stays_down_is_down() -> None:
    sent = ticks([opened()], [closed(at=NOW + 60)], [opened(at=NOW + 120)], *[[]] * 6)

    seen = [notices(alerts) for alerts in sent]
    assert seen[2:] == [["flapping service_down"], [], [], [], [], ["opened service_down"], []]


def test_an_outage_that_was_notified_and_returns_within_one_round_flaps() -> None:
    sent = ticks([opened()], [closed(at=NOW + 50), opened(at=NOW + 55)], [closed(at=NOW + 100)], [])

    assert [notices(alerts) for alerts in sent] == [["opened service_down"], ["flapping service_down"], [], []]


def test_ten_thousand_failing_calls_are_at_most_three_messages_in_five_minutes() -> None:
    storm = [failed(f"spring:{n}", at=NOW + n / 40) for n in range(10_000)]
    batches = [[*storm[:10], opened(), *storm[10:40]], *([*storm[40 * s : 40 * s + 40]] for s in range(1, 250))]

    sent = ticks([failed("early")], *batches, every=1.0)

    for channel in CHANNELS:
        messages = [alert for alerts in sent for alert in alerts if channel in alert.channels]
        assert len(messages) <= 3
    [(_, outage)] = sent[1][0].notices
    assert outage.calls["call_failed"].count == 40


def test_a_channel_that_is_broken_is_reported_by_the_others() -> None:
    [[alert]] = ticks([BROKEN])

    assert alert.channels == ("webhook",)


def test_what_is_no_longer_configured_is_forgotten() -> None:
    sent = ticks([opened(service="llm"), event("alert_channel_broken", "fax")], [])

    assert sent == [[], []]


class TestSilence:
    def silent(self, *services: str) -> Situation:
        return replace(SITUATION, silenced=services)

    def rounds(self, *steps: tuple[Situation, Sequence[Event]], every: float = 60.0) -> list[list[str]]:
        state: State = {}
        seen = []
        for n, (situation, batch) in enumerate(steps):
            for one in batch:
                state = apply(state, one, GROUP)
            state, alerts = decide_alerts(state, NOW + n * every, situation)
            seen.append(notices(alerts))
        return seen

    def test_what_still_fires_when_it_ends_is_notified_then(self) -> None:
        silent = self.silent("elevenlabs")

        seen = self.rounds((silent, [opened()]), (silent, []), (SITUATION, []), (SITUATION, []))

        assert seen == [[], [], ["opened service_down"], []]

    def test_what_was_notified_before_is_notified_again_and_its_end_too(self) -> None:
        silent = self.silent("elevenlabs")

        still = self.rounds((SITUATION, [opened()]), (silent, []), (SITUATION, []))
        over = self.rounds((SITUATION, [opened()]), (silent, [closed(at=NOW + 60)]), (SITUATION, []))

        assert still == [["opened service_down"], [], ["opened service_down"]]
        assert over == [["opened service_down"], [], ["resolved service_down"]]

    def test_what_was_over_before_it_ended_is_not_notified(self) -> None:
        silent = self.silent("elevenlabs")

        seen = self.rounds((silent, [opened(), failed()]), (silent, [closed()]), *[(silent, [])] * 6, (SITUATION, []))

        assert seen == [[]] * 9

    def test_another_service_is_notified(self) -> None:
        assert self.rounds((self.silent("crm"), [opened()])) == [["opened service_down"]]


class TestQuietHours:
    """From 22:00 to 07:00 UTC; NOW is 08:00 UTC."""

    NIGHT = replace(SITUATION, rules=Alerts(quiet_hours={"start": "22:00", "end": "07:00"}))  # type: ignore[arg-type]
    EVENING = NOW - 9 * 3600  # 23:00

    def rounds(self, *batches: Sequence[Event], every: float = 3600.0) -> list[list[Alert]]:
        state: State = {}
        sent = []
        for n, batch in enumerate(batches):
            for one in batch:
                state = apply(state, one, GROUP)
            state, alerts = decide_alerts(state, self.EVENING + n * every, self.NIGHT)
            sent.append(alerts)
        return sent

    def test_what_is_critical_is_notified_at_once(self) -> None:
        [[alert]] = self.rounds([opened(at=self.EVENING)])

        assert notices([alert]) == ["opened service_down"]

    def test_the_rest_is_notified_as_one_when_they_end(self) -> None:
        sick = event("health_down", "crm", at=self.EVENING)
        well = event("health_up", "crm", at=self.EVENING + 3600)

        sent = self.rounds([failed(at=self.EVENING), sick], [failed(at=self.EVENING + 3600), well], *[[]] * 8)

        assert sent[:8] == [[]] * 8
        [digest] = sent[8]
        assert notices([digest]) == ["opened call_failed", "resolved health_down"]
        assert digest.notices[0][1].new.count == 2
        assert sent[9] == []

    def test_one_that_waited_alone_is_notified_as_itself(self) -> None:
        sent = self.rounds([failed(at=self.EVENING)], *[[]] * 8)

        [alert] = sent[8]
        assert notices([alert]) == ["opened call_failed"]

    def test_it_is_split_where_the_routes_part(self) -> None:
        routes = [{"channels": ["email"], "services": ["crm"]}, {"channels": ["webhook"], "services": ["elevenlabs"]}]
        rules = Alerts.model_validate({"quiet_hours": {"start": "22:00", "end": "07:00"}, "routes": routes})
        split = replace(self.NIGHT, rules=rules)
        state: State = {}
        for one in (failed(at=self.EVENING), failed(at=self.EVENING, service="crm"), event("call_needs_review")):
            state = apply(state, one, GROUP)
        state, at_night = decide_alerts(state, self.EVENING, split)

        _, morning = decide_alerts(state, NOW, split)

        assert at_night == []
        assert sorted((alert.channels, len(alert.notices)) for alert in morning) == [(("email",), 1), (("webhook",), 2)]
