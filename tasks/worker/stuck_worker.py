"""Ends a worker that is connected and takes nothing: its supervisor starts it again.

`inspect ping` is answered over another connection, so a worker that is deaf to its queue still says pong. What counts
is the queue itself: messages wait in it, the worker has a process to spare, and it takes none of them. A thread of the
main process looks; it ends the worker after twice the time at which a message counts as lost. It also ends one that was
told to stop and has not: Celery 5.7.0 hangs where the order comes while it reconnects to its broker.
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

LOOKS = 6  # within the time


class Deaf(bootsteps.StartStopStep):
    """The worker's part that runs the thread."""

    requires = frozenset({"celery.worker.components:Pool"})  # the children are forked before there is a thread

    def __init__(self, parent: Any, **_: Any) -> None:
        self._stopped = threading.Event()

    def start(self, parent: Any) -> None:
        threading.Thread(target=watch, args=(parent, self._stopped), name="deaf", daemon=True).start()

    def stop(self, parent: Any) -> None:
        self._stopped.set()


def watch(worker: Any, stopped: threading.Event) -> None:
    """Looks until `stopped` is set, and ends the process if it must."""
    from tasks.celery import settings  # noqa: PLC0415 it needs the app that this module is a part of

    limit = 2 * settings.calls.dispatch.republish
    taken, in_vain, stopping = -1, 0, 0.0
    while not stopped.wait(limit / LOOKS):
        ordered = state.should_stop is not None or state.should_terminate is not None
        stopping = (stopping or time.monotonic()) if ordered else 0.0
        if stopping and time.monotonic() - stopping > settings.task_time_limit:
            log("worker_stuck", level=logging.ERROR, reason="it was told to stop, and did not", next_action="it ends")
            os._exit(1)
        before, taken = taken, state.all_total_count[0]
        # Looks are counted, not seconds: while the process is suspended it has no chance to take anything.
        in_vain = in_vain + 1 if taken == before and _could_take(worker) else 0
        if in_vain >= LOOKS:
            reason = f"messages wait, and none was taken for {limit:g} s"
            follows = "the worker ends, and its supervisor starts it again"
            log("worker_deaf", level=logging.ERROR, reason=reason, next_action=follows)
            _end(stopped, settings.task_time_limit)


def _could_take(worker: Any) -> bool:
    """Messages wait in a queue of its own, it has a process to spare, and nobody has told it to stop."""
    from tasks.dispatch import queue_length  # noqa: PLC0415 likewise

    if state.should_stop is not None or state.should_terminate is not None:
        return False
    spare = len(state.active_requests) < worker.pool.num_processes
    full = len(state.reserved_requests) >= worker.app.conf.worker_eta_task_limit
    try:
        # A queue that a person has cancelled is not among them.
        return spare and not full and any(map(queue_length, worker.app.amqp.queues.consume_from))
    except OperationalError:
        return False  # the broker is away: nobody takes anything


def _end(stopped: threading.Event, longest: float) -> None:
    """Lets what runs come to its end first. Not by a signal: the main process may be where it cannot hear one."""
    deadline = time.monotonic() + longest
    while state.active_requests and time.monotonic() < deadline:
        stopped.wait(0.5)
    os._exit(1)
