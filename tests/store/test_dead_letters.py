"""Dead letters: kept with their reason, reported once, bounded, and gone after the retention."""

from __future__ import annotations

import pytest
import redis

from resilience.store.dead_letters import DeadLetters, Letter
from resilience.store.scripts import Scripts
from tests.store.steps import T0

LETTER = Letter(
    "calls", "its body is broken JSON", '{"body": "e30="}', "tasks.calls.place_cal", "id1", "gen1@crm", "c1"
)


def letter(n: int, size: int = 10) -> Letter:
    return Letter("calls", "a reason", "x" * size, task_id=f"id{n}")


@pytest.fixture
def letters(scripts: Scripts) -> DeadLetters:
    return DeadLetters(scripts, 3600, most=5, most_bytes=1000)


def events(client: redis.Redis) -> list[dict[str, str]]:
    return [fields for _, fields in client.xrange("{lineman}:events")]


def test_a_letter_is_kept_with_all_that_its_message_says(letters: DeadLetters) -> None:
    assert letters.put(LETTER, now=T0)

    kept = dict(letters.get(LETTER.id))
    assert kept == {name: value for name, value in vars(LETTER).items() if value} | {
        "id": LETTER.id, "at": str(int(T0 * 1000)), "times": "1", "bytes": "16", "campaign": "",
    }  # fmt: skip
    assert [dict(found) for found in letters.all()] == [kept]


def test_it_is_reported_once_however_often_its_message_comes_back(letters: DeadLetters, client: redis.Redis) -> None:
    answers = [letters.put(LETTER, now=T0 + n) for n in range(3)]

    assert answers == [True, False, False]
    [event] = events(client)
    assert (event["event"], event["dead_id"], event["task_id"]) == ("message_dead", LETTER.id, "id1")
    assert event["reason"] == (
        "its body is broken JSON; contact c1; sent by gen1@crm; task tasks.calls.place_cal; task id id1"
    )
    assert letters.get(LETTER.id)["times"] == "3"


@pytest.mark.parametrize(("size", "kept"), [(10, 5), (300, 3)])
def test_what_exceeds_the_bounds_is_dropped_oldest_first_and_reported(
    letters: DeadLetters, client: redis.Redis, size: int, kept: int
) -> None:
    for n in range(7):
        letters.put(letter(n, size), now=T0 + n)

    assert [found["task_id"] for found in letters.all()] == [f"id{n}" for n in range(6, 6 - kept, -1)]
    assert letters.dropped() == 7 - kept
    assert client.hget("{lineman}:dead:sizes", "total") == str(size * kept)
    reported = [event for event in events(client) if event["event"] == "dead_letter_dropped"]
    assert sum(int(event["missed"]) for event in reported) == 7 - kept


def test_one_larger_than_all_the_room_is_kept_alone(letters: DeadLetters) -> None:
    letters.put(letter(1), now=T0)
    letters.put(letter(2, 2000), now=T0 + 1)

    assert [found["task_id"] for found in letters.all()] == ["id2"]


def test_a_letter_is_gone_after_the_retention(letters: DeadLetters, client: redis.Redis) -> None:
    letters.put(letter(1), now=T0)
    letters.put(letter(2), now=T0 + 3601)

    assert [found["task_id"] for found in letters.all()] == ["id2"]
    assert client.hget("{lineman}:dead:sizes", "total") == "10"
    assert letters.dropped() == 0


def test_a_letter_is_dropped_once(letters: DeadLetters, client: redis.Redis) -> None:
    letters.put(LETTER, now=T0)

    assert [letters.drop(LETTER.id), letters.drop(LETTER.id)] == [True, False]
    assert letters.get(LETTER.id) == {}
    assert client.hget("{lineman}:dead:sizes", "total") == "0"
