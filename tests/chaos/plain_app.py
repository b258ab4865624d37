"""A plain Celery app, as it is usually written: late acknowledgement, retries, and no store beside the broker.

It shows the losses that the product prevents. It writes each step to the file $NOTES: `word contact pid`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import redis
from celery import Celery

app = Celery("plain", broker=os.environ["REDIS_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get("CONF", "{}")),
)


def note(word: str, contact: str) -> None:
    with Path(os.environ["NOTES"]).open("a") as notes:
        notes.write(f"{word} {contact} {os.getppid()}\n")


@app.task
def dial(contact: str, seconds: float = 0.0) -> None:
    """A dial that takes `seconds`."""
    note("rang", contact)
    time.sleep(seconds)
    note("done", contact)


@app.task(bind=True)
def retried(self: Any, contact: str, flag: str) -> None:
    """A dial that fails as soon as the file `flag` exists, and asks for a retry."""
    note("tried", contact)
    while not Path(flag).exists():
        time.sleep(0.01)
    raise self.retry(countdown=1)


@app.task
def guarded(contact: str, seconds: float) -> None:
    """A dial behind a lock. A task that does not get the lock takes its message for a copy, and drops it."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        if not client.set(f"lock:{contact}", 1, nx=True, ex=60):
            note("dropped", contact)
            return
    dial(contact, seconds)
