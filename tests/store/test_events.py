"""The event stream: each event has a name of the list and a number, and a reader learns what it missed."""

from __future__ import annotations

import re

import redis

from resilience.store.events import Event, Events
from resilience.store.scripts import FOLDER, Scripts
from tests.store.steps import T0


def append(events: Events, *reasons: str) -> None:
    for reason in reasons:
        events.append(Event.UNKNOWN_ERROR, now=T0, service="lineman", reason=reason)


def read(events: Events, cursor: str, count: int = 100) -> tuple[list[str], str, int]:
    page = events.after(cursor, count)
    return [event["reason"] for event in page.events], page.cursor, page.missed


def test_each_page_begins_where_the_last_one_ended(scripts: Scripts) -> None:
    events = Events(scripts)
    append(events, *"abc")

    first, cursor, _ = read(events, "", 2)
    second, cursor, _ = read(events, cursor, 2)
    append(events, "d")

    assert (first, second, read(events, cursor)[0]) == (["a", "b"], ["c"], ["d"])
    assert read(events, read(events, cursor)[1]) == ([], read(events, cursor)[1], 0)


def test_a_reader_that_fell_behind_the_cap_learns_how_many_it_missed(client: redis.Redis, scripts: Scripts) -> None:
    events = Events(scripts)
    append(events, *"abc")
    _, cursor, missed = read(events, "", 2)
    append(events, *"defgh")
    assert (read(events, cursor)[2], missed) == (0, 0)

    client.xtrim(events.key, maxlen=2, approximate=False)

    seen, cursor, missed = read(events, cursor)
    assert (seen, missed) == (["g", "h"], 4)
    append(events, "i")
    assert read(events, cursor)[2] == 0


def test_a_new_reader_has_missed_nothing(client: redis.Redis, scripts: Scripts) -> None:
    events = Events(scripts)
    append(events, *"abc")
    client.xtrim(events.key, maxlen=1, approximate=False)

    assert read(events, "")[::2] == (["c"], 0)


def test_an_entry_without_a_number_hides_no_gap_and_makes_none(client: redis.Redis, scripts: Scripts) -> None:
    events = Events(scripts)
    append(events, "a")
    client.xadd(events.key, {"event": "unknown_error", "reason": "of an older version"})
    _, cursor, _ = read(events, "")
    append(events, *"bcd")
    assert read(events, cursor)[2] == 0

    client.xtrim(events.key, maxlen=1, approximate=False)

    assert read(events, cursor)[::2] == (["d"], 2)


def test_the_scripts_write_no_event_that_is_not_in_the_list() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.lua"))
    prefixes = "call|breaker|service|health|alert|dispatcher|contact(?!_id)|events|store"
    found = set(re.findall(rf"'((?:{prefixes})_[a-z_]+)'", text))

    assert found <= set(Event)
    assert {Event.CALL_DIALING, Event.CALL_RANG_TWICE, Event.BREAKER_OPENED, Event.ALERT_CHANNEL_WELL} <= found
