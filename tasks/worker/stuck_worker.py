"""Ends a worker that is connected and takes no messages: its supervisor starts it again.

`inspect ping` is answered over another connection, so such a worker still answers it. What counts is the queue
itself: messages wait in it, the worker has a process to spare, and it takes none of them. A thread of the main process
checks that, and ends the worker after twice the time at which a message counts as lost. It also ends one that was
ordered to stop and goes on: Celery 5.7.0 hangs where the order comes while it reconnects to its broker.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

from celery import bootsteps
from celery.worker import state
from kombu.exceptions import OperationalError

from resilience.logger import log
from tasks.celery import app, settings
from tasks.dispatch import queue_length

CHECKS = 6  # within the time


class StuckWorker(bootsteps.StartStopStep):
    """The worker's part that runs the thread."""

    requires = frozenset({"celery.worker.components:Pool"})  # the children are forked before there is a thread

    def __init__(self, parent: Any, **_: Any) -> None:
        self._stopped = threading.Event()

    def start(self, parent: Any) -> None:
        threading.Thread(target=watch, args=(parent, self._stopped), name="stuck-worker", daemon=True).start()

    def stop(self, parent: Any) -> None:
        self._stopped.set()


app.steps["worker"].add(StuckWorker)


def watch(worker: Any, stopped: threading.Event) -> None:
    """Checks until `stopped` is set, and ends the process if it must."""
    limit = 2 * settings.calls.dispatch.republish
    taken, idle_checks, stopping = -1, 0, 0.0
    while not stopped.wait(limit / CHECKS):
        stopping = (stopping or time.monotonic()) if _is_ordered_to_stop() else 0.0
        if stopping and time.monotonic() - stopping > settings.task_time_limit:
            reason = "the worker was ordered to stop, and goes on"
            log("worker_stuck", level=logging.ERROR, reason=reason, next_action="the worker ends at once")
            os._exit(1)
        before, taken = taken, state.all_total_count[0]
        # Checks are counted, not seconds: while the process is suspended it has no chance to take anything.
        idle_checks = idle_checks + 1 if taken == before and _could_take(worker) else 0
        if idle_checks >= CHECKS:
            reason = f"messages wait, and none was taken for {limit:g} s"
            follows = "the worker ends, and its supervisor starts it again"
            log("worker_stuck", level=logging.ERROR, reason=reason, next_action=follows)
            _end(stopped, settings.task_time_limit)


def _is_ordered_to_stop() -> bool:
    return state.should_stop is not None or state.should_terminate is not None


def _could_take(worker: Any) -> bool:
    """Messages wait in a queue of its own, it has a process to spare, and it is not ordered to stop."""
    if _is_ordered_to_stop():
        return False
    spare = len(state.active_requests) < worker.pool.num_processes
    full = len(state.reserved_requests) >= worker.app.conf.worker_eta_task_limit
    try:
        # A queue that an operator has cancelled is not among them.
        return spare and not full and any(map(queue_length, worker.app.amqp.queues.consume_from))
    except OperationalError:
        return False  # the broker is away: nobody takes anything


def _end(stopped: threading.Event, longest: float) -> None:
    """Lets running tasks finish first. Not by a signal: the main process may be where it handles none."""
    deadline = time.monotonic() + longest
    while state.active_requests and time.monotonic() < deadline:
        stopped.wait(0.5)
    os._exit(1)
