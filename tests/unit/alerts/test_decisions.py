"""What is said of an incident, and when: `decide` as a table, and events as they lead to words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from resilience.alerts.alert import Alert, Situation, go_round
from resilience.alerts.decisions import State, apply, decide
from resilience.alerts.incidents import Group, Incident, Kind, Word, load
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


TOLD = {"told": NOW - 1, "word": Word.FIRST}
ENDED = {"ended": NOW}


@pytest.mark.parametrize(
    ("incident", "word"),
    [
        (calls(), Word.FIRST),
        (calls(**TOLD), Word.NOTHING),
        (calls(told=NOW - GROUP, word=Word.FIRST), Word.MORE),
        (calls(told=NOW - GROUP, word=Word.FIRST, new=Group()), Word.NOTHING),
        (calls(told=NOW - REPEAT, word=Word.MORE, new=Group()), Word.NOTHING),
        (down(), Word.FIRST),
        (down(**TOLD), Word.NOTHING),
        (down(told=NOW - REPEAT, word=Word.FIRST), Word.REPEAT),
        (down(told=NOW - REPEAT + 1, word=Word.REPEAT), Word.NOTHING),
        (down(held=True), Word.FIRST),
        (down(**TOLD, held=True), Word.FIRST),
        (down(**TOLD, held=True, told_held=True), Word.NOTHING),
        (down(**TOLD, hushed=True), Word.FIRST),
        (down(**ENDED), Word.NOTHING),
        (down(**ENDED, **TOLD), Word.RESOLVED),
        (down(**ENDED, told=NOW, word=Word.RESOLVED), Word.NOTHING),
        (down(**ENDED, kept=True), Word.RESOLVED),
        (down(times=2), Word.FLAPPING),
        (down(**TOLD, times=2), Word.FLAPPING),
        (down(times=2, told=NOW - 1, word=Word.RESOLVED), Word.FLAPPING),
        (down(times=2, told=NOW - 1, word=Word.FLAPPING, flaps=True), Word.NOTHING),
        (down(times=9, told=NOW - 1, word=Word.FLAPPING, flaps=True), Word.NOTHING),
        (down(times=2, told=NOW - 1, word=Word.FLAPPING, flaps=True, **ENDED), Word.NOTHING),
        (down(times=2, told=NOW - 1, word=Word.FLAPPING, flaps=True, ended=NOW - GROUP), Word.RESOLVED),
        (down(times=2, told=NOW - GROUP, word=Word.FLAPPING, flaps=True, fired=NOW - GROUP), Word.FIRST),
        (down(times=2, told=NOW - 1, word=Word.FIRST, flaps=True, fired=NOW - 2 * GROUP), Word.NOTHING),
        (down(times=2, told=NOW - 1, word=Word.FIRST, flaps=True, **ENDED), Word.NOTHING),
        (down(times=9, told=NOW - REPEAT, word=Word.FLAPPING, flaps=True), Word.REPEAT),
        (down(times=9, told=NOW - REPEAT, word=Word.FLAPPING, flaps=True, **ENDED), Word.REPEAT),
    ],
)
def test_this_incident_calls_for_this_word(incident: Incident, word: Word) -> None:
    assert decide(incident, NOW, RULES) == word
    assert decide(incident, NOW, RULES, silent=True) == Word.NOTHING


def test_a_health_check_that_fails_during_the_outage_is_part_of_it() -> None:
    sick = down(kind=Kind.HEALTH_DOWN)

    assert decide(sick, NOW, RULES, folded=True) == Word.NOTHING
    assert decide(sick, NOW, RULES) == Word.FIRST
    assert decide(replace(sick, **ENDED, **TOLD), NOW, RULES, folded=True) == Word.RESOLVED


def ticks(*batches: Sequence[Event], every: float = 60.0, situation: Situation = SITUATION) -> list[list[Alert]]:
    """What each batch calls for, one round after another. The incidents go through JSON, as they do in Redis."""
    state: State = {}
    told = []
    for n, batch in enumerate(batches):
        state = {key: load(json.loads(incident.dump())) for key, incident in state.items()}
        for one in batch:
            state = apply(state, one, GROUP)
        state, alerts = go_round(state, NOW + n * every, situation)
        told.append(alerts)
    return told


def words(alerts: Sequence[Alert]) -> list[str]:
    return [f"{word} {incident.kind}" for alert in alerts for word, incident in alert.said]


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([opened()], ["first service_down"]),
        ([held()], ["first service_down"]),
        ([opened(), HALF_OPEN, opened(), HALF_OPEN, opened()], ["first service_down"]),
        ([opened(), held()], ["first service_down"]),
        ([opened(), HALF_OPEN, closed()], []),
        ([opened(), closed(), opened()], ["flapping service_down"]),
        ([opened(), closed(), opened(at=NOW + GROUP)], ["first service_down"]),
        ([closed()], []),
        ([HALF_OPEN, event("call_retrying"), event("call_deferred"), event("call_released")], []),
        ([opened(), opened(service="crm")], ["first service_down", "first service_down"]),
        ([opened(), closed(service="crm")], ["first service_down"]),
        ([event("health_down"), opened()], ["first service_down"]),
        ([event("health_down")], ["first health_down"]),
        ([event("health_down"), event("health_up")], []),
        ([event("health_down"), opened(), closed()], ["first health_down"]),
        ([failed()], ["first call_failed"]),
        ([failed(), failed(), failed()], ["first call_failed"]),
        ([opened(), failed(), failed()], ["first service_down"]),
        ([failed(), opened()], ["first service_down"]),
        ([opened(), failed(), closed()], ["first call_failed"]),
        ([opened(), failed(service="crm")], ["first service_down", "first call_failed"]),
        ([opened(), event("call_rang_twice")], ["first service_down", "first call_rang_twice"]),
        ([event("call_needs_review"), event("call_doubt_long")], ["first call_needs_review", "first call_doubt_long"]),
        ([event("call_in_doubt", code="timeout")], []),
        ([event("call_in_doubt", code="unknown")], ["first unknown_error"]),
        ([event("service_throttled", until=int(NOW * 1000) + 59_000)], []),
        ([event("service_throttled", until=int(NOW * 1000) + 60_000)], ["first service_throttled"]),
        ([BROKEN], ["first channel_broken"]),
        ([BROKEN, event("alert_channel_well", "email")], []),
        ([event("dispatcher_silent", "dispatcher")], ["first dispatcher_silent"]),
        ([{}, {"event": "call_failed"}, {"event": "call_failed", "at": "now"}, failed()], ["first call_failed"]),
    ],
)
def test_these_events_call_for_these_words(events: list[Event], told: list[str]) -> None:
    [alerts] = ticks(events)

    assert words(alerts) == told
    assert len({alert.id for alert in alerts}) == len(alerts)


def test_an_outage_is_told_once_and_resolved_with_what_it_cost() -> None:
    told = ticks(
        [opened(waiting=3)],
        [HALF_OPEN, opened()],
        [failed("spring:1"), failed("spring:2"), event("call_released"), event("call_needs_review", call_id="a:3")],
        [closed(at=NOW + 90, waiting=7)],
    )

    assert [words(alerts) for alerts in told] == [["first service_down"], [], [], ["resolved service_down"]]
    [(_, resolved)] = told[3][0].said
    assert (resolved.ended - resolved.since, resolved.waiting, resolved.resumed) == (90, 7, 1)
    assert {kind: group.count for kind, group in resolved.calls.items()} == {"call_failed": 2, "call_needs_review": 1}


def test_a_hold_during_an_outage_is_told_since_waiting_no_longer_helps() -> None:
    told = ticks([opened()], [held(at=NOW + 60)], [held(), opened(), held()])

    assert [words(alerts) for alerts in told] == [["first service_down"], ["first service_down"], []]
    assert told[0][0].said[0][1].since == told[1][0].said[0][1].since
    assert told[1][0].follows == (told[0][0].id,)


def test_the_first_failed_call_is_told_at_once_and_the_rest_in_one_digest() -> None:
    told = ticks([failed("a")], [failed("b")], [failed("c"), failed("d")], [failed("e"), failed("f")], [], [], [])

    assert [words(alerts) for alerts in told] == [["first call_failed"], [], [], [], [], ["more call_failed"], []]
    [(_, digest)] = told[5][0].said
    assert digest.new == Group(5, NOW, (("b", "bad number"), ("c", "bad number"), ("d", "bad number")))
    assert digest.total == 6


def test_a_group_that_fell_silent_starts_afresh() -> None:
    told = ticks([failed()], *[[]] * 6, [failed()])

    assert [words(alerts) for alerts in told] == [["first call_failed"], *[[]] * 6, ["first call_failed"]]


def test_state_does_not_grow_once_all_is_quiet() -> None:
    state: State = {}
    for one in [failed(), opened(), closed(), BROKEN, event("alert_channel_well", "email"), event("health_down")]:
        state = apply(state, one, GROUP)
    state, _ = go_round(state, NOW, SITUATION)
    state = apply(state, event("health_up"), GROUP)

    for n in range(3):
        state, _ = go_round(state, NOW + n * GROUP, SITUATION)

    assert state == {}


def test_a_service_that_flaps_is_said_to_flap_once_and_then_only_how_it_settled() -> None:
    back_and_forth = [[closed(at=NOW + n * 60) if n % 2 else opened(at=NOW + n * 60)] for n in range(10)]

    told = ticks(*back_and_forth, *[[]] * 6)

    said = [words(alerts) for alerts in told]
    assert said[:3] == [["first service_down"], ["resolved service_down"], ["flapping service_down"]]
    assert said[3:14] == [[]] * 11
    assert said[14] == ["resolved service_down"]
    assert told[14][0].said[0][1].times == 5


def test_a_service_that_flapped_and_stays_down_is_down() -> None:
    told = ticks([opened()], [closed(at=NOW + 60)], [opened(at=NOW + 120)], *[[]] * 6)

    said = [words(alerts) for alerts in told]
    assert said[2:] == [["flapping service_down"], [], [], [], [], ["first service_down"], []]


def test_an_outage_that_was_told_and_returns_within_one_round_flaps() -> None:
    told = ticks([opened()], [closed(at=NOW + 50), opened(at=NOW + 55)], [closed(at=NOW + 100)], [])

    assert [words(alerts) for alerts in told] == [["first service_down"], ["flapping service_down"], [], []]


def test_ten_thousand_failing_calls_are_at_most_three_messages_in_five_minutes() -> None:
    storm = [failed(f"spring:{n}", at=NOW + n / 40) for n in range(10_000)]
    batches = [[*storm[:10], opened(), *storm[10:40]], *([*storm[40 * s : 40 * s + 40]] for s in range(1, 250))]

    told = ticks([failed("early")], *batches, every=1.0)

    for channel in CHANNELS:
        messages = [alert for alerts in told for alert in alerts if channel in alert.channels]
        assert len(messages) <= 3
    [(_, outage)] = told[1][0].said
    assert outage.calls["call_failed"].count == 40


def test_a_channel_that_is_broken_is_told_by_the_others() -> None:
    [[alert]] = ticks([BROKEN])

    assert alert.channels == ("webhook",)


def test_what_is_no_longer_configured_is_forgotten() -> None:
    told = ticks([opened(service="llm"), event("alert_channel_broken", "fax")], [])

    assert told == [[], []]


class TestSilence:
    def silent(self, *services: str) -> Situation:
        return replace(SITUATION, silenced=services)

    def rounds(self, *steps: tuple[Situation, Sequence[Event]], every: float = 60.0) -> list[list[str]]:
        state: State = {}
        said = []
        for n, (situation, batch) in enumerate(steps):
            for one in batch:
                state = apply(state, one, GROUP)
            state, alerts = go_round(state, NOW + n * every, situation)
            said.append(words(alerts))
        return said

    def test_what_still_fires_when_it_ends_is_told_then(self) -> None:
        silent = self.silent("elevenlabs")

        said = self.rounds((silent, [opened()]), (silent, []), (SITUATION, []), (SITUATION, []))

        assert said == [[], [], ["first service_down"], []]

    def test_what_was_told_before_is_told_again_and_its_end_too(self) -> None:
        silent = self.silent("elevenlabs")

        still = self.rounds((SITUATION, [opened()]), (silent, []), (SITUATION, []))
        over = self.rounds((SITUATION, [opened()]), (silent, [closed(at=NOW + 60)]), (SITUATION, []))

        assert still == [["first service_down"], [], ["first service_down"]]
        assert over == [["first service_down"], [], ["resolved service_down"]]

    def test_what_was_over_before_it_ended_is_not_told(self) -> None:
        silent = self.silent("elevenlabs")

        said = self.rounds((silent, [opened(), failed()]), (silent, [closed()]), *[(silent, [])] * 6, (SITUATION, []))

        assert said == [[]] * 9

    def test_another_service_is_told(self) -> None:
        assert self.rounds((self.silent("crm"), [opened()])) == [["first service_down"]]


class TestQuietHours:
    """From 22:00 to 07:00 UTC; NOW is 08:00 UTC."""

    NIGHT = replace(SITUATION, rules=Alerts(quiet_hours={"start": "22:00", "end": "07:00"}))  # type: ignore[arg-type]
    EVENING = NOW - 9 * 3600  # 23:00

    def rounds(self, *batches: Sequence[Event], every: float = 3600.0) -> list[list[Alert]]:
        state: State = {}
        told = []
        for n, batch in enumerate(batches):
            for one in batch:
                state = apply(state, one, GROUP)
            state, alerts = go_round(state, self.EVENING + n * every, self.NIGHT)
            told.append(alerts)
        return told

    def test_what_is_critical_is_told_at_once(self) -> None:
        [[alert]] = self.rounds([opened(at=self.EVENING)])

        assert words([alert]) == ["first service_down"]

    def test_the_rest_is_told_as_one_when_they_end(self) -> None:
        sick = event("health_down", "crm", at=self.EVENING)
        well = event("health_up", "crm", at=self.EVENING + 3600)

        told = self.rounds([failed(at=self.EVENING), sick], [failed(at=self.EVENING + 3600), well], *[[]] * 8)

        assert told[:8] == [[]] * 8
        [digest] = told[8]
        assert words([digest]) == ["first call_failed", "resolved health_down"]
        assert digest.said[0][1].new.count == 2
        assert told[9] == []

    def test_one_that_waited_alone_is_told_as_itself(self) -> None:
        told = self.rounds([failed(at=self.EVENING)], *[[]] * 8)

        [alert] = told[8]
        assert words([alert]) == ["first call_failed"]

    def test_it_is_split_where_the_routes_part(self) -> None:
        routes = [{"channels": ["email"], "services": ["crm"]}, {"channels": ["webhook"], "services": ["elevenlabs"]}]
        rules = Alerts.model_validate({"quiet_hours": {"start": "22:00", "end": "07:00"}, "routes": routes})
        split = replace(self.NIGHT, rules=rules)
        state: State = {}
        for one in (failed(at=self.EVENING), failed(at=self.EVENING, service="crm"), event("call_needs_review")):
            state = apply(state, one, GROUP)
        state, at_night = go_round(state, self.EVENING, split)

        _, morning = go_round(state, NOW, split)

        assert at_night == []
        assert sorted((alert.channels, len(alert.said)) for alert in morning) == [(("email",), 1), (("webhook",), 2)]
