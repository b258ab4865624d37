"""Real workers: what other services send, what is refused, and what happens to a dial whose answer is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from demo.processes import ROOT
from resilience.calls.call import State
from tests.support import wait_until

Fleet = Any  # see conftest.py
PHONE = "+14155550111"


@pytest.mark.parametrize("options", [{"queue": "calls"}, {}], ids=["named queue", "default queue"])
def test_another_service_sends_a_contact_with_none_of_our_code(fleet: Fleet, options: dict[str, str]) -> None:
    fleet.send({"id": "1", "phone": PHONE, "name": "Ada"}, **options)

    wait_until(lambda: fleet.state("1") == State.PLACED, what="the call to be placed")

    assert fleet.rang("1") == 1


def test_a_contact_sent_three_times_is_called_once(fleet: Fleet) -> None:
    for _ in range(3):
        fleet.send({"id": "1", "phone": PHONE}, queue="calls")

    def refused() -> int:
        return sum(e["event"] == "call_duplicate" and e["call_id"] == fleet.id("1") for e in fleet.log())

    wait_until(lambda: refused() == 2, what="two refused duplicates")
    assert fleet.rang("1") == 1


@pytest.mark.parametrize("contact", [{"id": "1"}, {"id": "1", "phone": "12"}, "nonsense", None, 7, {"phone": PHONE}])
def test_a_bad_payload_is_refused_with_an_event_and_not_retried(fleet: Fleet, contact: object) -> None:
    before = len(fleet.log())

    fleet.send(contact, queue="calls")
    fleet.send({"id": "good", "phone": PHONE}, queue="calls")

    wait_until(lambda: fleet.state("good") == State.PLACED, what="the good contact to be called")
    lines = fleet.log()[before:]
    refusals = [line for line in lines if line["event"] == "contact_refused"]
    assert len(refusals) == 1
    assert refusals[0]["reason"]
    assert [call["contact_id"] for call in fleet.store.calls(campaign=fleet.campaign)] == ["good"]
    assert not any("Traceback" in str(line) for line in lines)


@pytest.mark.parametrize(
    "fault", ["accept_then_500", "accept_then_fin", "accept_then_silence", "accept_then_truncated"]
)
def test_a_dial_whose_answer_is_lost_is_looked_up_and_rings_once(fleet: Fleet, fault: str) -> None:
    fleet.fault(fault, count=1)

    fleet.send({"id": "1", "phone": PHONE}, queue="calls")

    wait_until(lambda: fleet.state("1") == State.PLACED, what="the call to be adopted")
    assert fleet.rang("1") == 1
    assert fleet.store.get(fleet.id("1"))["conversation_id"]
    assert [e["event"] for e in fleet.store.history(fleet.id("1"))].count("call_in_doubt") == 1


def test_a_dial_that_was_never_heard_is_dialed_again_after_the_look_ups(fleet: Fleet) -> None:
    fleet.fault("closed_unread", count=1)

    fleet.send({"id": "1", "phone": PHONE}, queue="calls")

    wait_until(lambda: fleet.state("1") == State.PLACED, timeout=20, what="the second dial")
    assert fleet.rang("1") == 1
    assert fleet.store.get(fleet.id("1"))["attempts"] == "2"


def test_a_dead_key_holds_the_service_and_burns_no_contact(fleet: Fleet) -> None:
    fleet.fault("invalid_api_key")

    for n in range(5):
        fleet.send({"id": f"{n}", "phone": f"+1415555012{n}"}, queue="calls")

    wait_until(lambda: fleet.gate()["state"] == "held", what="the gate to be held")
    wait_until(lambda: fleet.count(State.DEFERRED) == 5, what="five deferred calls")
    assert len(fleet.dials()) == 1
    fleet.recover()
    fleet.processes.command("services", "release", "elevenlabs")

    wait_until(lambda: fleet.count(State.PLACED) == 5, what="five placed calls")
    assert len(set(fleet.dials())) == len(fleet.dials()) == 6


def test_what_inspect_and_flower_show_of_a_contact_is_masked(fleet: Fleet) -> None:
    fleet.fault("slow", count=1, seconds=0.9)
    fleet.send({"id": "1", "phone": PHONE}, queue="calls")
    wait_until(lambda: fleet.rang("1") == 1, what="the telephone to ring")

    with Celery(broker=fleet.processes.redis.url, set_as_current=False) as app:
        active = str(app.control.inspect(timeout=0.5).active())

    assert fleet.campaign in active
    assert PHONE not in active


def test_a_killed_worker_s_call_is_taken_up_and_rings_once(fleet: Fleet) -> None:
    fleet.fault("slow", count=1, seconds=0.9)
    fleet.send({"id": "1", "phone": PHONE}, queue="calls")
    wait_until(lambda: fleet.rang("1") == 1, what="the telephone to ring")

    fleet.processes.kill("calls")
    fleet.processes.start("calls")

    wait_until(lambda: fleet.state("1") == State.PLACED, timeout=15, what="the call to be adopted")
    assert fleet.rang("1") == 1


def test_the_log_of_the_fleet_has_no_key_no_token_and_no_phone_number(fleet: Fleet) -> None:
    fleet.fault("accept_then_fin", count=1)
    fleet.send({"id": "1", "phone": PHONE, "phone2": "+14155550122"}, queue="calls")
    wait_until(lambda: fleet.state("1") == State.PLACED, what="the call to be placed")

    written = "".join(path.read_text() for path in fleet.processes.folder.rglob("*.log"))

    assert fleet.id("1") in written
    planted = [PHONE, "+14155550122", "demo-key", "demo-token", "demo-crm-key"]
    assert [secret for secret in planted if secret in written] == []


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"ELEVEN_API_KEY": ""}, "set the environment variable ELEVEN_API_KEY"),
        ({"CONFIG_FILE": "absent.yml"}, "absent.yml"),
    ],
)
def test_a_worker_that_cannot_work_says_why_and_ends(tmp_path: Path, env: dict[str, str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-Q", "calls"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
