"""RabbitMQ as the broker, by BROKER_URL alone; the store stays in Redis."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
from celery import Celery

from demo.processes import Processes
from resilience.calls.call import State
from resilience.calls.store import CallStore
from resilience.config.settings import load
from resilience.store.connection import connect
from resilience.store.scripts import Scripts
from tests.chaos.proxy import Proxy
from tests.support import wait_until
from tests.worker.conftest import write_config
from tests.worker.rabbitmq import BINARY, RabbitMQ

pytestmark = pytest.mark.skipif(
    not BINARY.exists(), reason="RabbitMQ is not installed here: apt-get install rabbitmq-server"
)
PHONE = "+14155550111"


class Fleet:
    """The demo's processes, with a proxy between them and RabbitMQ."""

    def __init__(self, processes: Processes, store: CallStore, broker: Proxy) -> None:
        self.processes, self.store, self.broker = processes, store, broker

    def send(self, contact: str, **options: Any) -> None:
        """As another service does it, with none of our code."""
        kwargs = {"contact": {"id": contact, "phone": PHONE}, "campaign": "own"}
        with Celery(broker=self.processes.env["BROKER_URL"], set_as_current=False) as app:
            app.send_task("tasks.calls.place_call", kwargs=kwargs, **options)

    def fault(self, kind: str, seconds: float = 0.0) -> None:
        shown = {"service": "elevenlabs", "endpoint": "dial", "kind": kind, "count": 1, "seconds": seconds}
        requests.post(f"{self.processes.url}/_control/fault", json=shown, timeout=5).raise_for_status()

    def rang(self, contact: str) -> int:
        answer = requests.get(f"{self.processes.url}/_control/rang", timeout=5).json()
        return sum(row["call_id"] == f"own:{contact}" for row in answer["rang"])

    def placed(self, contact: str) -> bool:
        return self.store.get(f"own:{contact}").get("state") == State.PLACED

    def events(self, contact: str) -> list[str]:
        lines = (self.processes.folder / "logs" / "app.log").read_text().splitlines()
        return [line["event"] for line in map(json.loads, lines) if line.get("call_id") == f"own:{contact}"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    processes = Processes(folder, write_config(folder / "config.yml"))
    with RabbitMQ(folder / "rabbitmq") as server, Proxy(server.port) as proxy:
        processes.env["BROKER_URL"] = server.url(proxy.port)
        with processes, closing(connect(processes.redis.url, connect_timeout=1, timeout=2)) as client:
            store = CallStore(Scripts(client), load(str(folder / "config.yml"), processes.env))
            yield Fleet(processes, store, proxy)


def test_a_list_is_called_and_nothing_of_celery_s_is_in_redis(fleet: Fleet) -> None:
    rows = "".join(f"list-{n},+1415555{n:04d}\n" for n in range(20))

    fleet.processes.command("enqueue", "-", "--campaign", "own", given=f"id,phone\n{rows}")

    wait_until(lambda: all(fleet.placed(f"list-{n}") for n in range(20)), timeout=40, what="twenty placed calls")
    assert [fleet.rang(f"list-{n}") for n in range(20)] == [1] * 20
    assert not [key for key in fleet.store.scripts.client.scan_iter() if not key.startswith("{lineman}")]
    assert "broker      answers" in fleet.processes.command("check")


def test_a_queue_that_nobody_has_declared_is_empty(fleet: Fleet) -> None:
    asked = "from tasks.dispatch import queue_length; print(queue_length('nobody-s'), queue_length('calls'))"

    done = subprocess.run(
        [sys.executable, "-c", asked], env=fleet.processes.env, capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout == "0 0\n"


def test_a_wrong_password_is_reported_by_check_without_showing_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fleet.processes.env["BROKER_URL"].replace("guest:guest", "guest:s3cret")
    monkeypatch.setitem(fleet.processes.env, "BROKER_URL", url)

    shown = fleet.processes.command("check", fine=(1,))

    assert "FAIL  broker      cannot be used" in shown
    assert "s3cret" not in shown


def test_another_service_sends_a_contact(fleet: Fleet) -> None:
    fleet.send("sent", queue="calls")

    wait_until(lambda: fleet.placed("sent"), what="the call to be placed")
    assert fleet.rang("sent") == 1


def test_a_retry_waits_for_its_countdown(fleet: Fleet) -> None:
    fleet.fault("unavailable")

    fleet.send("again", queue="calls")

    wait_until(lambda: fleet.placed("again"), what="the second attempt")
    assert fleet.rang("again") == 1
    assert [event for event in fleet.events("again") if event != "call_early"] == ["call_retrying", "call_placed"]


def test_a_message_that_comes_again_after_a_cut_connection_dials_nobody_twice(fleet: Fleet) -> None:
    fleet.fault("slow", seconds=0.9)
    fleet.send("cut", queue="calls")
    wait_until(lambda: fleet.rang("cut") == 1, what="the telephone to ring")

    fleet.broker.cut("now")

    wait_until(lambda: "call_duplicate" in fleet.events("cut"), timeout=20, what="the message to come again")
    wait_until(lambda: fleet.placed("cut"), what="the call to be placed")
    assert fleet.rang("cut") == 1
    fleet.processes.command("enqueue", "-", "--campaign", "own", given=f"id,phone\nnext,{PHONE}\n")
    wait_until(lambda: fleet.placed("next"), what="the dispatcher to hand the next call out")
    assert fleet.processes.dead() is None
