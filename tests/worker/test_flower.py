"""Flower beside the fleet: it shows the tasks, and its API enqueues a contact."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from celery import Celery

from local import child_process
from resilience.calls.call import State
from tests.support import wait_until

Fleet = Any  # see conftest.py
AUTH = ("operator", "secret")


@pytest.fixture
def flower(fleet: Fleet) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "celery", "-A", "tasks", "flower", "--address=127.0.0.1", f"--port={port}"]
    log = (fleet.processes.folder / "flower.log").open("ab")
    with (
        log,
        child_process.start(
            command,
            cwd=fleet.processes.folder,
            stdout=log,
            stderr=log,
            env=fleet.processes.env | {"FLOWER_BASIC_AUTH": ":".join(AUTH)},
        ) as process,
    ):
        url = f"http://127.0.0.1:{port}"

        def sees_the_worker() -> bool:
            try:
                return 'worker="calls@demo"' in requests.get(f"{url}/metrics", timeout=2).text
            except requests.ConnectionError:
                return False

        wait_until(sees_the_worker, timeout=30, what="Flower to see the calls worker")
        yield url
        process.terminate()


def test_what_another_team_s_client_reports_of_its_message_is_masked(fleet: Fleet, flower: str) -> None:
    with Celery(broker=fleet.processes.redis.url, set_as_current=False) as client:
        client.conf.task_send_sent_event = True
        sent = client.send_task("crm.elsewhere", kwargs={"contact": {"id": "2", "phone": "0014155550112"}}, queue="crm")

    def shown() -> Any:
        task = requests.get(f"{flower}/api/task/info/{sent.id}", auth=AUTH, timeout=10)
        return task.ok and task.json().get("kwargs") and task.json()

    task = wait_until(shown, what="Flower to show the task")
    assert "[number]" in task["kwargs"]
    assert "4155550112" not in str(task)


def test_its_api_enqueues_a_contact_and_shows_the_task_without_the_number(fleet: Fleet, flower: str) -> None:
    body = {"kwargs": {"contact": {"id": "1", "phone": "+14155550111"}, "campaign": fleet.campaign}}

    answer = requests.post(f"{flower}/api/task/send-task/tasks.calls.place_call", json=body, auth=AUTH, timeout=10)

    assert answer.ok
    wait_until(lambda: fleet.state("1") == State.PLACED, what="the call to be placed")

    def shown() -> Any:
        task = requests.get(f"{flower}/api/task/info/{answer.json()['task-id']}", auth=AUTH, timeout=10)
        return task.ok and task.json().get("state") == "SUCCESS" and task.json().get("kwargs") and task.json()

    task = wait_until(shown, what="Flower to show the task")
    assert "'phone'" in task["kwargs"]
    assert "4155550111" not in str(task)
