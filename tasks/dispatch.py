"""The dispatcher: a periodic task that publishes what is due. The store decides; a lost message comes due again."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from kombu.exceptions import OperationalError

from resilience.logger import log
from resilience.store.scripts import ms
from tasks import crm
from tasks.calls import look_up, place_call
from tasks.celery import app
from tasks.runtime import runtime

# The task that empties each outbox.
TASKS: Mapping[str, Any] = {"crm": crm.write}
STRAYS = 1000  # messages of a list of strangers' that a tick looks at: a few ms of the server's time
AGAIN = 600.0  # seconds until a member of an outbox is published again: longer than its task's own retries


def _in_base64(text: str) -> list[str]:
    """What `text` looks like within a text in base64, by its place in there."""
    return [b64encode(b" " * n + text.encode()).decode()[-(-n * 8 // 6) : (n + len(text)) * 8 // 6] for n in range(3)]


STRAY_LISTS: Mapping[str, Any] = {
    "lists": ["celery", *(f"celery\x06\x16{n}" for n in range(1, 10))],
    "own": [f"calls\x06\x16{n}" for n in range(1, 10)],
    "to": "calls",
    "task": place_call.name,
    "encoded": [part for key in ('"task": ', '"task":') for part in _in_base64(f'{key}"{place_call.name}"')],
}


def queue_length(queue: str) -> int:
    """Messages that wait in one of the broker's queues. Raises OperationalError where the broker is out of reach."""

    def ask() -> int:
        connection.ensure_connection(max_retries=1)  # the pool gives out again, closed, what an error closed
        with connection.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:
                return 0  # on Redis an empty queue does not exist, on RabbitMQ one that was never declared

    with app.pool.acquire(block=True) as connection:
        return int(connection.ensure(connection, ask, max_retries=1)())


@app.task(ignore_result=True)
def dispatch() -> dict[str, int]:
    """One tick. Two beats or two dispatchers are harmless: a second tick within half an interval does nothing."""
    rt = runtime()
    rules = rt.settings.calls.dispatch
    if not rt.scripts.take_slot("dispatch", rules.interval / 2):
        return {}
    if app.conf.broker_url == rt.settings.redis.url:
        # Contacts from an app that names no queue, or a priority, are in a list that none of our workers reads.
        rt.scripts.run("adopt_strays", {**STRAY_LISTS, "most": STRAYS, "kept": ms(AGAIN)})
    placed = looked_up = 0
    more = True
    try:
        while more:
            work = rt.store.dispatch(rules.feed - queue_length("calls"))
            for id in work.place:
                place_call.apply_async(kwargs={"call_id": id})
            for id in work.look_up:
                look_up.apply_async(args=(id,))
            placed, looked_up, more = placed + len(work.place), looked_up + len(work.look_up), work.more
        for name, outbox in rt.outboxes.items():
            for member in outbox.take_due(again=AGAIN):
                TASKS[name].apply_async(args=(member,))
    except OperationalError as exc:
        log(
            "publish_failed",
            level=logging.ERROR,
            service="broker",
            reason=type(exc).__name__,
            next_action="the dispatcher publishes again",
        )
    return {"placed": placed, "looked_up": looked_up}
