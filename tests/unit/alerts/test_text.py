"""An alert in words: what it says in each case, and what it never shows."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from typing import Any

import pytest

from resilience.alerts.alert import Alert, a_test, load_alert
from resilience.alerts.incidents import Group, Incident, Kind, Word
from resilience.alerts.text import render

AT = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
SINCE = AT - 75
CALLS = Group(12, SINCE, (("spring:1", "bad number"), ("spring:2", "503"), ("spring:3", "")))

OUTAGE = Incident("elevenlabs", Kind.SERVICE_DOWN, since=SINCE, fired=SINCE, at=SINCE, reason="4 of 4 requests failed",
                  until=AT + 30, waiting=3, calls={Kind.CALL_FAILED: CALLS})  # fmt: skip
FAILED = Incident("elevenlabs", Kind.CALL_FAILED, since=SINCE, fired=SINCE, at=SINCE, new=CALLS, total=13)
ONE = replace(FAILED, new=Group(1, SINCE, CALLS.examples[:1]), total=1)
ENDED = replace(OUTAGE, ended=AT, waiting=7, resumed=2)


def of_kind(kind: Kind, service: str = "crm", **fields: Any) -> Incident:
    return replace(Incident(service, kind, since=SINCE, fired=SINCE, at=SINCE), **fields)


def said(word: Word, incident: Incident, at: float = AT) -> Alert:
    return Alert("id-1", at, ((word, incident),), ("email",))


@pytest.mark.parametrize(
    ("word", "incident", "subject"),
    [
        (Word.FIRST, OUTAGE, "elevenlabs down since 07:58 UTC: circuit breaker open"),
        (Word.FIRST, replace(OUTAGE, held=True), "elevenlabs held since 07:58 UTC: nothing is sent to it"),
        (Word.REPEAT, OUTAGE, "elevenlabs still down since 07:58 UTC: circuit breaker open"),
        (Word.FLAPPING, replace(OUTAGE, times=3), "elevenlabs flapping: down 3 times since 07:58 UTC"),
        (Word.REPEAT, replace(OUTAGE, times=9, flaps=True), "elevenlabs still flapping: down 9 times since 07:58 UTC"),
        (Word.RESOLVED, ENDED, "resolved: elevenlabs is well again after 75 s"),
        (Word.RESOLVED, replace(ENDED, times=3, ended=SINCE + 7320),
         "resolved: elevenlabs is well again after 2 h 2 min, down 3 times"),
        (Word.FIRST, of_kind(Kind.HEALTH_DOWN), "crm failing its health check since 07:58 UTC"),
        (Word.RESOLVED, of_kind(Kind.HEALTH_DOWN, ended=AT), "resolved: crm passes its health check again after 75 s"),
        (Word.FIRST, of_kind(Kind.CHANNEL_BROKEN, "email"), "alerts by email not arriving since 07:58 UTC"),
        (Word.RESOLVED, of_kind(Kind.CHANNEL_BROKEN, "email", ended=AT),
         "resolved: alerts by email arrive again after 75 s"),
        (Word.FIRST, of_kind(Kind.DISPATCHER_SILENT, "dispatcher"),
         "dispatcher silent since 07:58 UTC: no call is handed out"),
        (Word.FIRST, ONE, "elevenlabs: 1 call failed at 07:58 UTC"),
        (Word.MORE, FAILED, "elevenlabs: 12 more calls failed since 07:58 UTC"),
        (Word.FIRST, replace(ONE, kind=Kind.CALL_NEEDS_REVIEW), "elevenlabs: 1 call needs review at 07:58 UTC"),
        (Word.FIRST, replace(ONE, kind=Kind.CALL_RANG_TWICE), "elevenlabs: 1 call rang twice at 07:58 UTC"),
        (Word.MORE, replace(FAILED, kind=Kind.CALL_DOUBT_LONG),
         "elevenlabs: 12 more calls are in doubt for long since 07:58 UTC"),
        (Word.FIRST, replace(ONE, kind=Kind.UNKNOWN_ERROR), "elevenlabs: 1 error nobody has a name for at 07:58 UTC"),
        (Word.FIRST, replace(ONE, kind=Kind.SERVICE_THROTTLED), "elevenlabs: 1 long pause asked for at 07:58 UTC"),
    ],
)  # fmt: skip
def test_the_subject_says_what_where_and_since_when(word: Word, incident: Incident, subject: str) -> None:
    assert render(said(word, incident)).subject == f"[Lineman] {subject}"


def test_what_fires_and_what_resolves_it_share_a_key_and_a_beginning() -> None:
    down, up = render(said(Word.FIRST, OUTAGE)), render(said(Word.RESOLVED, ENDED))

    assert (down.key, down.data["since"]) == (up.key, up.data["since"])
    assert (down.status, up.status) == ("firing", "resolved")


def test_a_beginning_of_another_day_is_told_with_its_date() -> None:
    told = render(said(Word.REPEAT, OUTAGE, at=AT + 86_400))

    assert "since 15 Jan 07:58 UTC" in told.subject


@pytest.mark.parametrize(("kind", "word"), list(product(Kind, sorted(set(Word) - {Word.NOTHING}))))
def test_every_kind_has_words_for_everything_that_may_be_said_of_it(kind: Kind, word: Word) -> None:
    incident = of_kind(kind, new=CALLS, calls={Kind.CALL_FAILED: CALLS}, ended=AT if word is Word.RESOLVED else 0.0)

    message = render(said(word, incident))

    assert message.kind == kind
    assert message.severity == kind.severity
    assert message.text.count("\nRun: python -m tasks ") == 1
    assert "Next: " in message.text
    assert not {"None", "Undefined", "{{", "  "} & set(message.subject.split(" "))
    assert json.loads(json.dumps(message.data))["since"] == "2027-01-15T07:58:45Z"


def test_the_text_of_an_outage() -> None:
    assert render(said(Word.FIRST, OUTAGE)).text == (
        "Since: 2027-01-15 07:58:45 UTC\n"
        "Reason: 4 of 4 requests failed\n"
        "Waiting: 3 calls\n"
        "Failed: 12 (spring:1, spring:2, spring:3, ...)\n"
        "Next: Its calls step aside and go on by themselves. The next probe goes out at 08:00:30 UTC at the earliest, "
        "or when the health check finds elevenlabs well.\n"
        "Run: python -m tasks services list"
    )


def test_the_text_of_its_end() -> None:
    told = render(said(Word.RESOLVED, ENDED))

    assert told.text.splitlines()[:5] == [
        "Since: 2027-01-15 07:58:45 UTC",
        "Until: 2027-01-15 08:00:00 UTC, 75 s later",
        "Reason: 4 of 4 requests failed",
        "Waiting: 7 calls when it closed",
        "Resumed: 2 calls",
    ]
    assert (told.status, told.severity, told.key) == ("resolved", "critical", "service_down:elevenlabs")
    assert {k: told.data[k] for k in ("state", "duration_s", "waiting", "failed", "resumed")} == {
        "state": "closed", "duration_s": 75, "waiting": 7, "failed": 12, "resumed": 2,
    }  # fmt: skip


def test_the_text_of_a_digest_has_its_count_and_three_examples() -> None:
    lines = render(said(Word.MORE, FAILED)).text.splitlines()

    assert lines[:5] == [
        "Since: 2027-01-15 07:58:45 UTC",
        "In all: 13",
        "- spring:1: bad number",
        "- spring:2: 503",
        "- spring:3",
    ]
    assert lines[-1] == "Run: python -m tasks calls list --state failed"


def test_what_the_quiet_hours_kept_back_is_one_message() -> None:
    alert = Alert("q", AT, ((Word.FIRST, FAILED), (Word.RESOLVED, of_kind(Kind.HEALTH_DOWN, ended=AT))), ("email",))

    message = render(alert)

    assert (message.subject, message.kind, message.status) == (
        "[Lineman] after quiet hours: 2 alerts", "quiet_hours", "info",
    )  # fmt: skip
    assert message.text.startswith("elevenlabs: 12 calls failed since 07:58 UTC\n")
    assert "\n\nresolved: crm passes its health check again after 75 s\n" in message.text
    assert len(message.data["alerts"]) == 2
    assert message.html.count("crm passes its health check") == 1


def test_an_alert_that_may_have_arrived_says_so_at_its_end() -> None:
    told = render(said(Word.FIRST, OUTAGE), unclear=True)

    assert told.text.endswith("\n\n(Sent again: the first delivery's outcome is unknown.)")
    assert "Sent again" in told.html


def test_a_test_says_that_it_is_one() -> None:
    message = render(a_test("t", "email", "ada on host", AT))

    assert (message.subject, message.status) == ("[Lineman] test: alerts arrive here", "info")
    assert "Sent by: ada on host" in message.text


NASTY = 'refused +4915112345678\nkey s3cr3t-value <img src=x onerror="alert(1)"> \x1b[31m {{ 7*7 }}'


class Tags(HTMLParser):
    """The tags and the addresses of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "background")]


@pytest.mark.parametrize(
    "incident", [replace(OUTAGE, reason=NASTY), replace(ONE, new=Group(1, SINCE, (("a:1", NASTY),)))]
)
def test_a_vendors_text_shows_no_number_and_no_secret_and_is_no_markup(incident: Incident) -> None:
    told = render(said(Word.FIRST, incident), ["s3cr3t-value"])

    for text in (told.subject, told.text, told.html, json.dumps(told.data)):
        assert "5112345" not in text
        assert "s3cr3t" not in text
        assert "\x1b" not in text
    assert "&lt;img" in told.html
    assert "{{ 7*7 }}" in told.text
    assert "img" not in Tags(told.html).tags


def test_a_call_id_cannot_become_a_command() -> None:
    group = Group(1, SINCE, (("spring:$(reboot); x", "bad"),))

    told = render(said(Word.FIRST, replace(ONE, new=group)))

    assert told.text.endswith("Run: python -m tasks calls show 'spring:$(reboot); x'")


def test_the_mail_asks_for_nothing_from_elsewhere() -> None:
    page = Tags(render(said(Word.FIRST, OUTAGE)).html)

    assert page.addresses == []
    assert not page.tags & {"img", "script", "link", "iframe"}


def test_an_alert_is_the_same_after_its_way_through_redis() -> None:
    alert = replace(said(Word.FIRST, replace(OUTAGE, alerts=("a", "b"), kept=True)), follows=("a",))

    assert load_alert(alert.dump()) == alert


def test_a_field_of_another_release_is_left_out() -> None:
    newer = json.loads(said(Word.FIRST, OUTAGE).dump())
    newer["said"][0][1]["colour"] = "red"

    assert load_alert(json.dumps(newer)).said[0][1] == OUTAGE
