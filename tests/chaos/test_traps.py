"""Traps X1 to X4 of Celery 5.7.0 on Redis, which lose messages: each on a plain app, then on the product's fleet.

What the plain app loses is lost for good: its broker holds no message of the contact, and no worker runs it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.chaos.ours import Ours
from tests.chaos.plain import Plain, held, waits_for_messages
from tests.support import wait_until

MakePlain = Callable[..., Plain]
BOTH = ("calls-1", "calls-2")
pytestmark = pytest.mark.timeout(180)


def test_x1_plain_loses_a_message_that_was_popped_but_not_recorded(plain: MakePlain) -> None:
    """Redis answers the blocking pop of a suspended worker, which is killed before it records the message."""
    app = plain()
    worker = app.start()

    def popped(contact: str) -> bool:
        wait_until(lambda: waits_for_messages(app.redis), what="the worker to wait for messages")
        os.killpg(worker.pid, signal.SIGSTOP)
        app.send("dial", contact)
        if held(app.redis, contact) == 0:
            return True
        os.killpg(worker.pid, signal.SIGCONT)  # its pop had timed out just before
        wait_until(lambda: app.notes("done", contact), what="the message to be worked off")
        return False

    lost = next(name for name in (f"c{n}" for n in range(20)) if popped(name))
    app.kill(worker)

    assert held(app.redis, lost) == 0
    assert app.notes("rang", lost) == []


def test_x1_ours_sends_the_call_again(ours: Ours) -> None:
    def sprung(contact: str) -> bool:
        for name in BOTH:
            ours.fleet.members[name].signal(signal.SIGSTOP)
        lost = ours.popped(contact)
        ours.kill(*BOTH)
        ours.placed_once(contact)
        return lost

    assert any(sprung(f"x1-{n}") for n in range(8))


def test_x2_plain_loses_a_message_that_lies_in_the_socket_while_a_countdown_runs(plain: MakePlain) -> None:
    """A countdown ends during a pop: its task starts, and the popped message is not read until the task ends."""
    app = plain()
    worker = app.start()
    app.send("dial", "countdown", 60, countdown=1)
    wait_until(lambda: app.notes("rang", "countdown"), 15, "the countdown to end")
    app.send("dial", "x2")
    wait_until(lambda: held(app.redis, "x2") == 0, what="the message to be popped")

    app.kill(worker)

    assert held(app.redis, "x2") == 0
    assert app.notes("rang", "x2") == []


def test_x2_ours_sends_the_call_again(ours: Ours) -> None:
    def sprung(number: int) -> bool:
        ours.fault("unavailable")
        ours.fault("slow", 0.9)
        ours.enqueue(f"countdown-{number}")
        ours.until(lambda: ours.rang(f"countdown-{number}"), 15, "the retry to ring")
        lost = ours.popped(f"x2-{number}")
        ours.kill("calls-1")
        ours.placed_once(f"x2-{number}")
        ours.placed_once(f"countdown-{number}")
        return lost

    with ours.benched("calls-2"):
        assert any(sprung(n) for n in range(8))


def test_x3_plain_loses_a_retry_that_is_published_while_redis_is_away(plain: MakePlain) -> None:
    app = plain()
    app.start()
    flag = app.folder / "flag"
    app.send("retried", "x3", str(flag))
    wait_until(lambda: app.notes("tried", "x3"), what="the first try")

    app.server.kill()
    flag.touch()
    wait_until(lambda: "reject requeue=False" in app.log(), 30, "the publishing to be given up")
    app.server.start()

    app.send("dial", "next")
    wait_until(lambda: app.notes("done", "next"), 30, "the worker to be back")
    wait_until(lambda: held(app.redis, "x3") == 0, 30, "the message to be forgotten")
    assert len(app.notes("tried", "x3")) == 1


def test_x3_ours_takes_the_call_up_again(ours: Ours) -> None:
    ours.dialing("x3")

    ours.fleet.kill_redis(8)

    ours.placed_once("x3")


def test_x4_a_plain_worker_dies_when_redis_restarts_while_it_holds_a_message(plain: MakePlain) -> None:
    app = plain()
    worker = app.start()
    app.send("dial", "x4", countdown=60)
    wait_until(lambda: app.redis.hlen("unacked") == 1, what="the worker to hold the message")

    app.server.kill()
    app.server.start()

    wait_until(lambda: worker.poll() is not None, 30, "the worker to die")
    assert "Unrecoverable error" in app.log()


def test_x4_our_worker_lives_and_the_call_is_placed(ours: Ours) -> None:
    pids = [ours.fleet.members[name].pid for name in BOTH]
    ours.fault("unavailable", seconds=3)
    ours.enqueue("x4")
    ours.until(lambda: ours.state("x4") == "retrying", 15, "the retry to wait in a worker")

    ours.fleet.kill_redis(0.2)

    ours.placed_once("x4")
    assert [ours.fleet.members[name].pid for name in BOTH] == pids
