"""`dead`: what an operator does about messages that cannot be a call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from resilience.config.settings import load
from resilience.store.dead_letters import Letter
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.cli.app import app
from tasks.message import compose
from tests.store.steps import T0
from tests.support import ROOT

PHONE = "+4915112345678"
CONTACT = {"id": "c1", "phone": PHONE, "name": "Ada"}

Run = Callable[..., Result]


@pytest.fixture
def rt(real_redis: redis.Redis) -> Iterator[runtime.Runtime]:
    built = runtime.build(load(str(ROOT / "config.yml"), {"ELEVEN_API_KEY": "key"}), Scripts(real_redis))
    runtime.install(built)
    yield built
    runtime.install(None)


@pytest.fixture
def run(rt: runtime.Runtime) -> Run:
    """Runs a command in this process."""
    assert runtime.runtime() is rt

    def invoke(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    return invoke


def letter(task_id: str = "id1", args: Any = (), body: Any = None, **kwargs: Any) -> Letter:
    return compose("there is no such task", queue="calls", task="tasks.calls.place_cal", task_id=task_id,
                   origin="gen1@crm", args=args, kwargs=kwargs, body=body)  # fmt: skip


def keep(rt: runtime.Runtime, dead: Letter) -> str:
    rt.dead_letters.put(dead, now=T0)
    return dead.id


def test_the_list_says_what_why_and_who(rt: runtime.Runtime, run: Run) -> None:
    id = keep(rt, letter(contact=CONTACT, campaign="spring"))

    [row] = map(json.loads, run("dead", "list", "--json").stdout.splitlines())

    assert row == {
        "id": id, "at": "2027-01-15T08:00:00.000Z", "queue": "calls", "task": "tasks.calls.place_cal",
        "reason": "there is no such task", "contact_id": "c1", "campaign": "spring", "task_id": "id1",
        "origin": "gen1@crm", "times": 1, "bytes": row["bytes"],
    }  # fmt: skip
    assert id in run("dead", "list").stdout


def test_an_empty_list_says_so(run: Run) -> None:
    assert run("dead", "list").stdout == "no dead letters\n"
    assert run("dead", "list", "--json").stdout == ""


@pytest.mark.parametrize("phone", [PHONE, "004915112345678", "0151 1234 5678"])
def test_no_command_shows_a_number(rt: runtime.Runtime, run: Run, phone: str) -> None:
    id = keep(rt, letter(contact={**CONTACT, "phone": phone}))
    other = keep(rt, letter("id2", body=f'broken JSON: "{phone}'.encode()))

    shown = [run("dead", "show", each, *options).stdout for each in (id, other) for options in ([], ["--json"])]
    shown += [run("dead", "list").stdout, run("dead", "list", "--json").stdout]

    assert "Ada" in shown[0]
    assert "broken JSON" in shown[2]
    assert not any("12345678" in text or "1234 5678" in text for text in shown)


def test_a_letter_that_is_requeued_is_a_call(rt: runtime.Runtime, run: Run) -> None:
    id = keep(rt, letter(contact=CONTACT, campaign="spring", colour="red"))
    other = keep(rt, letter("id2", args=[{**CONTACT, "id": "c2"}, "spring"]))

    result = run("dead", "requeue", "--all")

    assert f"{id}: is the call spring:c1; left out: colour" in result.stdout
    assert f"{other}: is the call spring:c2" in result.stdout
    assert {rt.store.get(f"spring:{contact}")["state"] for contact in ("c1", "c2")} == {"queued"}
    assert list(rt.dead_letters.all()) == []


def test_a_letter_without_a_contact_is_kept(rt: runtime.Runtime, run: Run) -> None:
    ids = [keep(rt, letter("id1", contact={**CONTACT, "phone": "12"})), keep(rt, letter("id2", body=b"broken"))]
    ids += [keep(rt, letter("id3", call_id="spring:1"))]

    result = run("dead", "requeue", *ids, status=1)

    assert result.stdout.count("nothing changed") == 3
    assert "12" not in result.stdout.replace(ids[0], "")
    assert len(list(rt.dead_letters.all())) == 3


def test_a_letter_is_sent_to_no_task_but_ours(rt: runtime.Runtime, run: Run) -> None:
    id = keep(rt, letter(call_id="spring:1"))

    run("dead", "requeue", id, "--task", "shop.send_invoice", status=2)

    assert rt.dead_letters.get(id)


def test_letters_are_dropped_by_their_ids_or_all(rt: runtime.Runtime, run: Run) -> None:
    ids = [keep(rt, letter(f"id{n}")) for n in range(3)]

    assert run("dead", "drop", ids[0]).stdout == f"{ids[0]}: removed\n"
    assert "no such" in run("dead", "drop", ids[0], status=1).stdout
    run("dead", "drop", "--all")

    assert list(rt.dead_letters.all()) == []


@pytest.mark.parametrize("command", ["requeue", "drop"])
def test_neither_ids_nor_all_is_wrong_usage(run: Run, command: str) -> None:
    run("dead", command, status=2)
    run("dead", command, "x", "--all", status=2)


def test_an_unknown_letter_is_an_error(run: Run) -> None:
    assert "no such dead letter" in run("dead", "show", "x", status=1).output
    run("dead", "requeue", "x", status=1)
