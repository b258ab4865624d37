"""The text of an alert: what it says in each case, and what it never shows."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from typing import Any

import pytest

from resilience.alerts.alert import Alert, a_test, load_alert
from resilience.alerts.incident import Group, Incident, Notice
from resilience.alerts.kinds import Kind
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


def alert_of(notice: Notice, incident: Incident, at: float = AT) -> Alert:
    return Alert("id-1", at, ((notice, incident),), ("email",))


@pytest.mark.parametrize(
    ("notice", "incident", "subject"),
    [
        (Notice.OPENED, OUTAGE, "elevenlabs down since 07:58 UTC: circuit breaker open"),
        (Notice.OPENED, replace(OUTAGE, held=True), "elevenlabs held since 07:58 UTC: nothing is sent to it"),
        (Notice.REMINDER, OUTAGE, "elevenlabs still down since 07:58 UTC: circuit breaker open"),
        (Notice.FLAPPING, replace(OUTAGE, times=3), "elevenlabs flapping: down 3 times since 07:58 UTC"),
        (Notice.REMINDER, replace(OUTAGE, times=9, flaps=True),
         "elevenlabs still flapping: down 9 times since 07:58 UTC"),
        (Notice.RESOLVED, ENDED, "resolved: elevenlabs is well again after 75 s"),
        (Notice.RESOLVED, replace(ENDED, times=3, ended=SINCE + 7320),
         "resolved: elevenlabs is well again after 2 h 2 min, down 3 times"),
        (Notice.OPENED, of_kind(Kind.HEALTH_DOWN), "crm failing its health check since 07:58 UTC"),
        (Notice.RESOLVED, of_kind(Kind.HEALTH_DOWN, ended=AT),
         "resolved: crm passes its health check again after 75 s"),
        (Notice.OPENED, of_kind(Kind.CHANNEL_BROKEN, "email"), "alerts by email not arriving since 07:58 UTC"),
        (Notice.RESOLVED, of_kind(Kind.CHANNEL_BROKEN, "email", ended=AT),
         "resolved: alerts by email arrive again after 75 s"),
        (Notice.OPENED, of_kind(Kind.DISPATCHER_SILENT, "dispatcher"),
         "dispatcher silent since 07:58 UTC: no call is handed out"),
        (Notice.OPENED, ONE, "elevenlabs: 1 call failed at 07:58 UTC"),
        (Notice.DIGEST, FAILED, "elevenlabs: 12 more calls failed since 07:58 UTC"),
        (Notice.OPENED, replace(ONE, kind=Kind.CALL_NEEDS_REVIEW), "elevenlabs: 1 call needs review at 07:58 UTC"),
        (Notice.OPENED, replace(ONE, kind=Kind.CALL_RANG_TWICE), "elevenlabs: 1 call rang twice at 07:58 UTC"),
        (Notice.DIGEST, replace(FAILED, kind=Kind.CALL_DOUBT_LONG),
         "elevenlabs: 12 more calls still in doubt since 07:58 UTC"),
        (Notice.OPENED, replace(ONE, kind=Kind.UNKNOWN_ERROR), "elevenlabs: 1 unclassified error at 07:58 UTC"),
        (Notice.OPENED, replace(ONE, kind=Kind.SERVICE_THROTTLED), "elevenlabs: 1 long pause requested at 07:58 UTC"),
    ],
)  # fmt: skip
def test_the_subject_says_what_where_and_since_when(notice: Notice, incident: Incident, subject: str) -> None:
    assert render(alert_of(notice, incident)).subject == f"[Lineman] {subject}"


def test_what_fires_and_what_resolves_it_share_a_key_and_a_beginning() -> None:
    down, up = render(alert_of(Notice.OPENED, OUTAGE)), render(alert_of(Notice.RESOLVED, ENDED))

    assert (down.key, down.data["since"]) == (up.key, up.data["since"])
    assert (down.status, up.status) == ("firing", "resolved")


def test_a_beginning_on_another_day_has_its_date() -> None:
    message = render(alert_of(Notice.REMINDER, OUTAGE, at=AT + 86_400))

    assert "since 15 Jan 07:58 UTC" in message.subject


@pytest.mark.parametrize(("kind", "notice"), list(product(Kind, sorted(Notice))))
def test_every_kind_has_sentences_for_every_notice(kind: Kind, notice: Notice) -> None:
    incident = of_kind(kind, new=CALLS, calls={Kind.CALL_FAILED: CALLS}, ended=AT if notice is Notice.RESOLVED else 0.0)

    message = render(alert_of(notice, incident))

    assert message.kind == kind
    assert message.severity == kind.severity
    assert message.text.count("\nRun: python -m tasks ") == 1
    assert "Next: " in message.text
    assert not {"None", "Undefined", "{{", "  "} & set(message.subject.split(" "))
    assert json.loads(json.dumps(message.data))["since"] == "2027-01-15T07:58:45Z"


def test_the_text_of_an_outage() -> None:
    assert render(alert_of(Notice.OPENED, OUTAGE)).text == (
        "Since: 2027-01-15 07:58:45 UTC\n"
        "Reason: 4 of 4 requests failed\n"
        "Waiting: 3 calls\n"
        "Failed: 12 (spring:1, spring:2, spring:3, ...)\n"
        "Next: Its calls wait, and go on by themselves. The next probe goes out when the health check finds elevenlabs "
        "well, otherwise at 08:00:30 UTC at the earliest.\n"
        "Run: python -m tasks services list"
    )


def test_the_text_of_its_end() -> None:
    message = render(alert_of(Notice.RESOLVED, ENDED))

    assert message.text.splitlines()[:5] == [
        "Since: 2027-01-15 07:58:45 UTC",
        "Until: 2027-01-15 08:00:00 UTC, 75 s later",
        "Reason: 4 of 4 requests failed",
        "Waiting: 7 calls when it closed",
        "Released: 2 calls",
    ]
    assert (message.status, message.severity, message.key) == ("resolved", "critical", "service_down:elevenlabs")
    assert {k: message.data[k] for k in ("state", "duration_s", "waiting", "failed", "resumed")} == {
        "state": "closed", "duration_s": 75, "waiting": 7, "failed": 12, "resumed": 2,
    }  # fmt: skip


def test_the_text_of_a_digest_has_its_count_and_three_examples() -> None:
    lines = render(alert_of(Notice.DIGEST, FAILED)).text.splitlines()

    assert lines[:5] == [
        "Since: 2027-01-15 07:58:45 UTC",
        "Total: 13",
        "- spring:1: bad number",
        "- spring:2: 503",
        "- spring:3",
    ]
    assert lines[-1] == "Run: python -m tasks calls list --state failed"


def test_what_waited_for_the_end_of_the_quiet_hours_is_one_message() -> None:
    alert = Alert(
        "q", AT, ((Notice.OPENED, FAILED), (Notice.RESOLVED, of_kind(Kind.HEALTH_DOWN, ended=AT))), ("email",)
    )

    message = render(alert)

    assert (message.subject, message.kind, message.status) == (
        "[Lineman] after quiet hours: 2 alerts", "quiet_hours", "info",
    )  # fmt: skip
    assert message.text.startswith("elevenlabs: 12 calls failed since 07:58 UTC\n")
    assert "\n\nresolved: crm passes its health check again after 75 s\n" in message.text
    assert len(message.data["alerts"]) == 2
    assert message.html.count("crm passes its health check") == 1


def test_an_alert_that_may_have_arrived_says_so_at_its_end() -> None:
    message = render(alert_of(Notice.OPENED, OUTAGE), unclear=True)

    assert message.text.endswith("\n\n(Sent again: the first delivery's outcome is unknown.)")
    assert "Sent again" in message.html


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
    message = render(alert_of(Notice.OPENED, incident), ["s3cr3t-value"])

    for text in (message.subject, message.text, message.html, json.dumps(message.data)):
        assert "5112345" not in text
        assert "s3cr3t" not in text
        assert "\x1b" not in text
    assert "&lt;img" in message.html
    assert "{{ 7*7 }}" in message.text
    assert "img" not in Tags(message.html).tags


def test_a_call_id_cannot_become_a_command() -> None:
    group = Group(1, SINCE, (("spring:$(reboot); x", "bad"),))

    message = render(alert_of(Notice.OPENED, replace(ONE, new=group)))

    assert message.text.endswith("Run: python -m tasks calls show 'spring:$(reboot); x'")


def test_the_mail_asks_for_nothing_from_elsewhere() -> None:
    page = Tags(render(alert_of(Notice.OPENED, OUTAGE)).html)

    assert page.addresses == []
    assert not page.tags & {"img", "script", "link", "iframe"}


def test_an_alert_is_the_same_after_its_way_through_redis() -> None:
    alert = replace(
        alert_of(Notice.OPENED, replace(OUTAGE, alerts=("a", "b"), held_for_quiet_hours=True)), follows=("a",)
    )

    assert load_alert(alert.dump()) == alert


def test_a_field_of_another_release_is_left_out() -> None:
    newer = json.loads(alert_of(Notice.OPENED, OUTAGE).dump())
    newer["notices"][0][1]["colour"] = "red"

    assert load_alert(json.dumps(newer)).notices[0][1] == OUTAGE
