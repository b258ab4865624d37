"""All alert texts in one file, texts.txt, for a reviewer to read at once. `UPDATE=1` in the environment rewrites it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from resilience.alerts.alert import Alert
from resilience.alerts.incident import Group, Incident, Notice
from resilience.alerts.kinds import Kind
from resilience.alerts.text import render
from tests.support import ROOT

FILE = ROOT / "tests/unit/alerts/texts.txt"
AT = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC
SINCE = AT - 75
SERVICES = {
    Kind.CHANNEL_BROKEN: "telegram",
    Kind.DISPATCHER_SILENT: "dispatcher",
    Kind.STORE_AWAY: "redis",
    Kind.STORE_FULL: "redis",
    Kind.STORE_MEMORY_LOST: "redis",
    Kind.EVENTS_MISSED: "lineman",
    Kind.MESSAGE_DEAD: "lineman",
    Kind.DEAD_LETTER_DROPPED: "lineman",
    Kind.UNKNOWN_ERROR: "lineman",
    Kind.TEST: "",
}
CALLS = Group(12, SINCE, (("spring:1", "a reason"), ("spring:2", "another"), ("spring:3", "")))
LETTERS = Group(12, SINCE, (("1f00c0ffee42", "a reason; contact 17; sent by gen1@crm"), ("1f00c0ffee43", "another")))
NO_CALL = {
    Kind.DEAD_LETTER_DROPPED,
    Kind.UNKNOWN_ERROR,
    Kind.EVENTS_MISSED,
    Kind.STORE_FULL,
    Kind.STORE_MEMORY_LOST,
    Kind.SERVICE_THROTTLED,
}


def of_kind(kind: Kind) -> Iterator[tuple[Notice, Incident]]:
    start = Incident(SERVICES.get(kind, "elevenlabs"), kind, since=SINCE, fired=SINCE, at=SINCE, reason="a reason")
    if not kind.ends:
        ids = Group(12, SINCE, (("", "a reason"),)) if kind in NO_CALL else CALLS
        ids = LETTERS if kind in (Kind.CONTACT_REFUSED, Kind.MESSAGE_DEAD) else ids
        yield Notice.OPENED, replace(start, new=replace(ids, count=1, examples=ids.examples[:1]), total=1)
        yield Notice.DIGEST, replace(start, new=ids, total=13)
        return
    if kind is Kind.SERVICE_DOWN:
        start = replace(start, until=AT + 30, waiting=3)
        yield Notice.OPENED, replace(start, held=True)
        yield Notice.REMINDER, replace(start, held=True)
    yield Notice.OPENED, start
    if kind is not Kind.TEST:
        yield Notice.REMINDER, start
        yield Notice.FLAPPING, replace(start, times=3)
        yield Notice.RESOLVED, replace(start, ended=AT)
    if kind is Kind.SERVICE_DOWN:
        yield Notice.RESOLVED, replace(start, ended=AT, resumed=2, calls={Kind.CALL_FAILED: CALLS})


def test_the_texts_are_those_of_the_file() -> None:
    shown = []
    for kind in Kind:
        for notice, incident in of_kind(kind):
            message = render(Alert("id", AT, ((notice, incident),), ("email",)))
            shown.append(f"== {kind} {notice}\n{message.subject}\n{message.text}\n")
    texts = "\n".join(shown)
    if os.environ.get("UPDATE"):
        FILE.write_text(texts)

    assert texts == FILE.read_text()
