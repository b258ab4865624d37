"""No message stops a worker: each is called, refused, or kept as a dead letter. Real processes and a real Redis."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from resilience.calls.call import State
from resilience.store.dead_letters import DeadLetters
from tests.support import wait_until

Fleet = Any  # see conftest.py
CASES = int(os.environ.get("FUZZED_MESSAGES", "300"))  # `make fuzz`: 10,000
SEED = int(os.environ.get("FUZZED_SEED", "1"))


@pytest.fixture
def letters(fleet: Fleet) -> DeadLetters:
    return DeadLetters(fleet.store.scripts, 3600)


class Sender:
    """Puts envelopes into the broker's lists, as any client may."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.count = fleet, 0

    def contact(self, **fields: Any) -> dict[str, Any]:
        self.count += 1
        return {"id": f"c{self.count}", "phone": "+14155550111", **fields}

    def envelope(self, body: Any = ..., **headers: Any) -> dict[str, Any]:
        whole = [[], {"contact": self.contact(), "campaign": self.fleet.campaign}, {}] if body is ... else body
        said = {"lang": "py", "task": "tasks.calls.place_call", "id": str(uuid4()), "retries": 0, "origin": "gen1@crm"}
        return {
            "body": base64.b64encode(json.dumps(whole).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": said | headers,
            "properties": {
                "correlation_id": said["id"],
                "delivery_info": {"exchange": "calls", "routing_key": "calls"},
                "delivery_tag": str(uuid4()),
                "body_encoding": "base64",
            },
        }

    def push(self, item: Any, queue: str = "calls") -> None:
        self.fleet.redis.lpush(queue, item if isinstance(item, bytes | str) else json.dumps(item))

    def settle(self) -> None:
        """Waits until the workers have taken and acknowledged everything, and shows that they still run."""
        redis = self.fleet.redis
        busy = lambda: redis.llen("calls") + redis.llen("control") + redis.zcard("unacked_index")  # noqa: E731
        wait_until(lambda: not busy(), timeout=90, what="the queues to be empty")
        assert self.fleet.processes.dead() is None


@pytest.fixture
def sender(fleet: Fleet) -> Sender:
    return Sender(fleet)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Celery]:
    """Another team's Celery app."""
    with Celery(broker=fleet.processes.redis.url, set_as_current=False) as app:
        yield app


def reasons(letters: DeadLetters) -> list[str]:
    return [letter["reason"] for letter in letters.all()]


def test_a_refused_contact_s_alert_says_who_sent_it_and_what_shows_it(
    fleet: Fleet, sender: Sender, letters: DeadLetters
) -> None:
    contact = {"id": "bad", "phone": "12"}
    body = [[], {"contact": contact, "campaign": fleet.campaign}, {}]

    sender.push(sender.envelope(body, id="the-id", origin="gen7@crm-host"))

    [letter] = wait_until(lambda: [found for found in letters.all() if found["task_id"] == "the-id"], what="the letter")
    [event] = [event for event in reports(fleet) if event.get("task_id") == "the-id"]
    assert event["event"] == "contact_refused"
    for part in ("phone: must be", "contact bad", f"campaign {fleet.campaign}", "sent by gen7@crm-host", "the-id"):
        assert part in event["reason"]
    texts = wait_until(lambda: [t for t in alerts(fleet) if "refused" in t and "gen7@crm-host" in t], what="the alert")
    assert f"python -m tasks dead show {letter['id']}" in texts[0]
    shown = fleet.processes.command("dead", "show", letter["id"])
    assert "crm-host" in shown
    assert fleet.processes.command("dead", "drop", letter["id"])


def alerts(fleet: Fleet) -> list[str]:
    return [str(alert) for arrived in fleet.world.control("alerts").values() for alert in arrived]


def test_a_misspelt_task_is_requeued_under_its_name(fleet: Fleet, sender: Sender, letters: DeadLetters) -> None:
    sender.push(sender.envelope(task="tasks.calls.place_cal", id="misspelt"))
    [letter] = wait_until(
        lambda: [found for found in letters.all() if found["task_id"] == "misspelt"], what="the letter"
    )

    printed = fleet.processes.command("dead", "requeue", letter["id"], "--task", "tasks.calls.place_call")

    assert printed == f"{letter['id']}: sent to tasks.calls.place_call\n"
    wait_until(lambda: fleet.state("c1") == State.PLACED, what="the call to be placed")
    assert letters.get(letter["id"]) == {}


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_call_without_a_queue_or_with_a_priority_is_adopted_and_others_stay(
    fleet: Fleet, sender: Sender, client: Celery, protocol: int
) -> None:
    client.conf.task_protocol = protocol
    ways: list[dict[str, Any]] = [
        {},
        {"priority": 9},
        {"queue": "calls", "priority": 3},
        {"queue": "calls", "priority": 6},
    ]
    theirs = fleet.redis.llen("celery")

    for way in ways:
        kwargs = {"contact": sender.contact(), "campaign": fleet.campaign}
        client.send_task("tasks.calls.place_call", kwargs=kwargs, **way)
    client.send_task("shop.send_invoice", kwargs={"customer": "tasks.calls.place_call"})

    wait_until(lambda: fleet.count(State.PLACED) == len(ways), timeout=30, what="the calls to be placed")
    assert fleet.redis.llen("celery") == theirs + 1


def test_a_client_of_protocol_1_has_its_contact_called(fleet: Fleet, sender: Sender, client: Celery) -> None:
    client.conf.task_protocol = 1

    client.send_task(
        "tasks.calls.place_call", kwargs={"contact": sender.contact(), "campaign": fleet.campaign}, queue="calls"
    )

    wait_until(lambda: fleet.state("c1") == State.PLACED, what="the call to be placed")


HEADERS = [
    ("timelimit", 5), ("timelimit", [0.001, 0.001]), ("argsrepr", 5), ("kwargsrepr", None), ("stamped_headers", 5),
    ("stamps", 5), ("id", ["x"]), ("id", None), ("id", {}), ("retries", "x"), ("shadow", 5), ("root_id", []),
    ("group", {}), ("origin", 5), ("ignore_result", []), ("parent_id", 5), ("meth", []), ("replaced_task_nesting", []),
]  # fmt: skip


@pytest.mark.parametrize("queue", ["calls", "control"])
def test_a_header_of_another_type_costs_the_contact_nothing(fleet: Fleet, sender: Sender, queue: str) -> None:
    for name, value in HEADERS:
        sender.push(sender.envelope(**{name: value}), queue)

    sender.settle()
    wait_until(lambda: fleet.count(State.PLACED) == len(HEADERS), timeout=30, what="the calls to be placed")


BODIES = [[], {}, None, 5, "", "x", [[], {}], [5, {}, {}], [[], 5, {}], [[], {"self": 1}, {}]]
NAMES = [["x"], {}, None, 5, "tasks.calls.place_cal", ""]
TIMES = [{"eta": "x"}, {"eta": 5}, {"eta": []}, {"expires": "x"}, {"expires": "2020-01-01T00:00:00"},
         {"eta": "9999-12-31T23:59:59"}]  # fmt: skip


@pytest.mark.parametrize("queue", ["calls", "control"])
def test_what_cannot_be_read_is_kept_with_its_reason_and_reported_once(
    fleet: Fleet, sender: Sender, letters: DeadLetters, queue: str
) -> None:
    before, events = len(reasons(letters)), len(reports(fleet))
    sent = [sender.envelope(body) for body in BODIES]
    sent += [sender.envelope(task=name) for name in NAMES]
    sent += [sender.envelope(**times) for times in TIMES]
    sent += [sender.envelope() | {"content-type": kind} for kind in ("application/x-python-serialize", "text/x", 5)]
    sent += [sender.envelope() | {"body": "bm8ganNvbg=="}]

    for message in sent:
        sender.push(message, queue)
    sender.settle()

    assert len(reasons(letters)) - before == len(sent)
    assert len(reports(fleet)) - events == len(sent)
    assert all(letter["task_id"] and letter["queue"] == queue for letter in list(letters.all())[: len(sent)])


def reports(fleet: Fleet) -> list[dict[str, str]]:
    events = fleet.redis.xrange("{lineman}:events")
    return [fields for _, fields in events if fields["event"] in ("message_dead", "contact_refused")]


ENVELOPES: list[Any] = [
    b"", b"no json", b"\xff\xfe", b"5", b"null", b"[]", b'"x"', b"{}", b"[" * 100_000, b'{"body": "W10="}',
    b'{"__type__": "uuid", "__value__": 5}',
]  # fmt: skip


def test_what_is_no_envelope_is_kept_as_it_is(sender: Sender, letters: DeadLetters) -> None:
    before = len(reasons(letters))
    items = [*ENVELOPES, *(sender.envelope() | odd for odd in ({"headers": 5}, {"body": 5}, {"body": "%"}))]

    for item in items:
        sender.push(item)
    sender.settle()

    assert len(reasons(letters)) - before == len(items)
    kept = [json.loads(letter["message"])["body"] for letter in letters.all()]
    assert base64.b64encode(b"no json").decode() in kept


def test_an_envelope_without_a_way_back_is_called_all_the_same(fleet: Fleet, sender: Sender) -> None:
    odd: list[Any] = [
        {"delivery_tag": 5},
        {"delivery_tag": None},
        {"delivery_info": 5},
        {"delivery_info": {}},
        {"priority": "x"},
    ]
    for change in odd:
        message = sender.envelope()
        message["properties"] |= change
        sender.push(message)
    sender.push(sender.envelope() | {"headers": None, "properties": None, "body": "e30="})  # dead, without a header
    sender.settle()

    wait_until(lambda: fleet.count(State.PLACED) == len(odd), timeout=30, what="the calls to be placed")


def test_a_thousand_messages_of_tomorrow_wait_in_the_store(fleet: Fleet, sender: Sender, client: Celery) -> None:
    for _ in range(1001):
        client.send_task(
            "tasks.calls.place_call",
            kwargs={"contact": sender.contact(), "campaign": fleet.campaign},
            queue="calls",
            countdown=86400,
        )
    fleet.send({"id": "now", "phone": "+14155550111"}, queue="calls")

    wait_until(lambda: fleet.state("now") == State.PLACED, timeout=90, what="the call behind them to be placed")
    sender.settle()
    assert fleet.count(State.QUEUED) == 1001
    call = fleet.store.get(fleet.id("c1"))
    assert 86_000 < int(call["not_before"]) / 1000 - int(call["created"]) / 1000 <= 86_400


def test_a_countdown_of_seconds_is_kept_by_the_store_and_dialed_when_it_is_over(fleet: Fleet) -> None:
    fleet.send({"id": "soon", "phone": "+14155550111"}, queue="calls", countdown=12)

    wait_until(lambda: fleet.state("soon") == State.QUEUED, what="the store to have the call")
    wait_until(lambda: fleet.state("soon") == State.PLACED, timeout=30, what="the call to be placed")


def test_no_event_and_no_answer_of_a_worker_has_a_number(fleet: Fleet, sender: Sender, client: Celery) -> None:
    """Protocol 1 and 2, with and without the +, while a message waits, is reserved, runs, is refused, is dead."""
    numbers = ["+14155550111", "0014155550112", "14155550113", "0301234567"]
    events = fleet.redis.pubsub()
    events.psubscribe("/0.celeryev*")
    fleet.fault("slow", seconds=0.7)
    seen: list[Any] = []
    for n, phone in enumerate(numbers * 2):
        client.conf.task_protocol = 1 + n % 2
        for name, wait in (("place_call", None), ("place_call", 8), ("place_cal", None)):
            kwargs = {"contact": {"id": f"n{n}{wait}", "phone": phone}, "campaign": fleet.campaign}
            client.send_task(f"tasks.calls.{name}", kwargs=kwargs, queue="calls", countdown=wait)

    def states() -> set[str]:
        look = client.control.inspect(destination=["calls@demo"], timeout=1)
        answers = {name: getattr(look, name)() for name in ("active", "reserved", "scheduled")}
        seen.append(answers)
        return {name for found in seen for name, answer in found.items() if any((answer or {}).values())}

    wait_until(lambda: states() >= {"active", "reserved", "scheduled"}, timeout=30, what="a message in each state")
    sender.settle()

    fleet.redis.publish("/0.celeryev/end", "end")
    seen += iter(lambda: (events.get_message(timeout=5) or {})["data"], "end")
    bodies = [base64.b64decode(json.loads(data)["body"]).decode() for data in seen if isinstance(data, str)]
    assert any("task-received" in body for body in bodies)
    text = json.dumps(seen, default=str) + "".join(bodies)
    assert not [number for number in numbers if number.lstrip("+0") in text]


SEEN_BY_CELERY = ("timelimit", "stamped_headers", "stamps", "eta", "expires", "group", "shadow", "compression", "chord",
                  "argsrepr", "kwargsrepr", "root_id", "ignore_result", "callbacks", "redelivered")  # fmt: skip


class Mutations:
    """Messages with one to three faults: a value of another type, a field too many or too few, broken bytes."""

    def __init__(self, seed: int) -> None:
        self.random, self.count = random.Random(seed), 0

    def odd(self) -> Any:
        """Never the same number or text again: a contact of the same id would be one call."""
        self.count += 1
        odd = [
            None,
            10**9 + self.count,
            -1.5,
            True,
            "",
            f"x{self.count}",
            [],
            ["x"],
            {},
            {"x": 5},
            "\ud800",
            "\x00",
            2**70,
        ]
        return self.random.choice([*odd, [[[]]], {"__type__": "uuid", "__value__": 5}, float("nan")])

    def message(self, sender: Sender) -> bytes:
        message = sender.envelope()
        whole: Any = {**message, "body": json.loads(base64.b64decode(message["body"]))}
        whole["body"][1]["contact"]["id"] = str(uuid4())
        for _ in range(self.random.randint(1, 3)):
            self.change(whole)
        if not isinstance(whole.get("body"), str) and self.random.random() < 0.95:
            whole["body"] = base64.b64encode(json.dumps(whole.get("body")).encode()).decode()
        raw = bytearray(json.dumps(whole).encode())
        if self.random.random() < 0.15:
            for _ in range(self.random.randint(1, 3)):
                raw[self.random.randrange(len(raw))] = self.random.randrange(256)
        return bytes(raw[: self.random.randrange(len(raw))] if self.random.random() < 0.03 else raw)

    def change(self, whole: Any) -> None:
        places = list(self.places(whole))
        parent, key = self.random.choice(places)
        match self.random.choice(["replace", "replace", "remove", "add"]):
            case "replace":
                parent[key] = self.odd()
            case "remove":
                del parent[key]
            case "add" if isinstance(whole.get("headers"), dict):
                whole["headers"][self.random.choice(SEEN_BY_CELERY)] = self.odd()

    def places(self, value: Any) -> Iterator[tuple[Any, Any]]:
        items = (
            list(value.items())
            if isinstance(value, dict)
            else list(enumerate(value))
            if isinstance(value, list)
            else []
        )
        for key, inner in items:
            yield value, key
            yield from self.places(inner)


@pytest.mark.timeout(120 + CASES)
def test_every_mutated_message_is_called_refused_or_dead(
    fleet: Fleet, sender: Sender, letters: DeadLetters, capsys: pytest.CaptureFixture[str]
) -> None:
    mutations = Mutations(SEED)
    calls, dead = total(fleet), sum(int(letter["times"]) for letter in letters.all())

    for _ in range(CASES):
        sender.push(mutations.message(sender))
    wait_until(lambda: fleet.redis.llen("calls") < 50, timeout=60 + CASES, what="the worker to get through them")
    sender.settle()

    called, buried = total(fleet) - calls, sum(int(letter["times"]) for letter in letters.all()) - dead
    with capsys.disabled():
        print(f"\n{CASES} mutated messages: {called} calls, {buried} dead letters")
    assert called + buried == CASES
    assert called > CASES // 10
    assert buried > CASES // 10


def total(fleet: Fleet) -> int:
    return sum(1 for _ in fleet.store.calls())
