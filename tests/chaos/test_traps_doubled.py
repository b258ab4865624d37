"""Traps X5 to X9 of Celery 5.7.0 on Redis, which double or delay messages: on a plain app, then on the product's fleet.

What the plain app loses is lost for good: its broker holds no message of the contact, and no worker runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from resilience.config.settings import load
from resilience.errors import ConfigError
from tests.chaos.ours import Ours
from tests.chaos.plain import Plain, blip, held
from tests.chaos.policy import LEASE_S
from tests.chaos.verdict import BOUND_S, TAKEN_UP
from tests.support import wait_until

MakePlain = Callable[..., Plain]
BOTH = ("calls-1", "calls-2")
pytestmark = pytest.mark.timeout(180)


def test_x5_plain_runs_one_task_on_two_workers_after_a_blip(plain: MakePlain) -> None:
    app = plain()
    app.start(2)
    app.start(2)
    app.send("dial", "x5", 8)
    wait_until(lambda: app.notes("rang", "x5"), what="the dial")

    blip(app.redis)

    wait_until(lambda: len(app.notes("rang", "x5")) == 2, 20, "the second dial")
    assert app.notes("done", "x5") == []


def test_x5_ours_rings_once_after_a_blip(ours: Ours) -> None:
    ours.dialing("x5")

    blip(ours.fleet.redis)

    ours.placed_once("x5")


def test_x6_plain_loses_what_it_cancels_when_the_connection_is_lost(plain: MakePlain) -> None:
    """With a result backend, worker_cancel_long_running_tasks_on_connection_loss acknowledges what it cancels."""
    app = plain(worker_cancel_long_running_tasks_on_connection_loss=True, result_backend=True)
    app.start()
    app.send("dial", "x6", 30)
    wait_until(lambda: app.notes("rang", "x6"), what="the dial")

    app.server.kill()
    app.server.start()

    wait_until(lambda: held(app.redis, "x6") == 0, 30, "the message to be forgotten")
    assert app.notes("done", "x6") == []


def test_x6_ours_finishes_or_looks_the_call_up(ours: Ours) -> None:
    ours.dialing("x6")

    ours.fleet.kill_redis(0.2)

    ours.placed_once("x6")


def test_x7_plain_loses_the_only_message_with_the_copy_that_a_lock_drops(plain: MakePlain) -> None:
    app = plain()
    workers = {worker.pid: worker for worker in (app.start(2), app.start(2))}
    app.send("guarded", "x7", 30)
    wait_until(lambda: app.notes("rang", "x7"), what="the dial")

    blip(app.redis)
    wait_until(lambda: app.notes("dropped", "x7"), 20, "the copy to be dropped")
    wait_until(lambda: held(app.redis, "x7") == 0, what="the drop to be acknowledged")
    app.kill(workers[app.notes("rang", "x7")[0]])

    assert held(app.redis, "x7") == 0
    assert app.notes("done", "x7") == []


def test_x7_ours_takes_the_call_up_again(ours: Ours) -> None:
    ours.dialing("x7")

    blip(ours.fleet.redis)
    ours.kill(*BOTH)

    ours.placed_once("x7")


def test_x8_plain_leaves_a_killed_worker_s_task_for_an_hour(plain: MakePlain) -> None:
    """The message comes back after the visibility timeout, an hour by default."""
    app = plain()
    worker = app.start()
    app.send("dial", "x8", 30)
    wait_until(lambda: app.notes("rang", "x8"), what="the dial")

    app.kill(worker)
    app.start()
    app.send("dial", "next")
    wait_until(lambda: app.notes("done", "next"), what="the next worker to take messages")

    ((_, received),) = app.redis.zrange("unacked_index", 0, -1, withscores=True)
    assert held(app.redis, "x8") == 1
    assert received + app.app.conf.broker_transport_options.get("visibility_timeout", 3600) > app.redis.time()[0] + 3500


def test_x8_ours_takes_the_call_up_within_the_lease_and_five_seconds(ours: Ours) -> None:
    ours.dialing("x8")

    ours.kill(*BOTH)

    ours.placed_once("x8")
    history = {event["event"]: event for event in ours.events("x8")}
    assert history["call_in_doubt"]["reason"] == TAKEN_UP
    took = int(history["call_in_doubt"]["at"]) - int(history["call_dialing"]["at"])
    assert took <= (LEASE_S + BOUND_S) * 1000


def test_x9_plain_runs_a_task_twice_that_outlasts_the_visibility_timeout(plain: MakePlain) -> None:
    app = plain(
        broker_transport_options={"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    )
    app.start()
    app.start()
    app.send("dial", "x9", 15)

    wait_until(lambda: len(app.notes("rang", "x9")) == 2, 30, "the second dial")

    assert app.notes("done", "x9") == []


def test_x9_ours_refuses_such_a_visibility_timeout(ours: Ours, tmp_path: Path) -> None:
    shipped = ours.fleet.config.read_text()
    config = tmp_path / "config.yml"
    config.write_text(shipped.replace("visibility_timeout: 45", "visibility_timeout: 30"))

    with pytest.raises(ConfigError, match="visibility_timeout"):
        load(str(config), {"ELEVEN_API_KEY": "key"})


def test_x9_ours_rings_once_when_the_message_comes_again_during_the_dial(ours: Ours) -> None:
    ours.dialing("x9")

    ours.send_again("x9")

    ours.placed_once("x9")
