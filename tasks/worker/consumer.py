"""Celery's consumer, which no message can stop: what cannot be read becomes a dead letter.

Every message of every queue comes through here before Celery's own code. It is read and checked, and goes on as a
message that we have written ourselves. A dead letter's message is acknowledged once the letter is in the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.worker import consumer

from resilience.logger import log
from resilience.store.dead_letters import Letter
from tasks.calls import place_call
from tasks.celery import STORE_RETRY, app, settings
from tasks.message import TaskMessage, Unreadable, letter, read
from tasks.runtime import runtime
from tasks.worker import envelope

envelope.install()

MOMENT = 10.0  # seconds that a call's message may wait in a worker; a longer wait is kept in the store
LONGEST_WAIT = 30 * 86400.0  # seconds; a sender's clock that is further ahead is wrong


class Consumer(consumer.Consumer):
    """Checks each message, and hands it on."""

    def create_task_handler(self, **options: Any) -> Callable[[Any], None]:
        hand_on = super().create_task_handler(**options)
        of_connection = (*self.connection_errors, *self.connection.channel_errors)

        def on_task_received(message: Any) -> None:
            try:
                _rewrite(message, checked(read(message), datetime.now(UTC)))
            except Unreadable as exc:
                return self._bury(message, str(exc))
            except Exception as exc:  # noqa: BLE001 a stranger's message may fail in any way
                return self._bury(message, f"it cannot be read ({type(exc).__name__})")
            try:
                hand_on(message)
            except of_connection:
                raise  # the connection's fault: Celery connects again, and the message comes back
            except Exception as exc:  # noqa: BLE001 likewise
                self._bury(message, f"the worker cannot take it ({type(exc).__name__})")
            return None

        return on_task_received

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Of kombu: a body that it could not decompress."""
        self._bury(message, f"it cannot be decoded ({type(exc).__name__})")

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Of Celery, as the next two: none of them comes about, since each message is checked."""
        self._bury(message, "it is no task")

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._bury(message, "there is no such task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._bury(message, "it is no valid task")

    def _bury(self, message: Any, reason: str) -> None:
        try:
            self._keep(message, letter(message, reason))
        except Exception as exc:  # noqa: BLE001 whatever it is, the message stays with the broker
            follows = f"it is tried again in {STORE_RETRY:g} s"
            log("dead_letter_not_kept", level=logging.ERROR, reason=str(exc), next_action=follows)
            self.timer.call_after(STORE_RETRY, self._bury, (message, reason))

    def _keep(self, message: Any, dead: Letter) -> None:
        runtime().dead_letters.put(dead)
        log(
            "message_dead",
            level=logging.ERROR,
            reason=dead.reason,
            task_id=dead.task_id or None,
            task=dead.task or None,
            origin=dead.origin or None,
            next_action=f"python -m tasks dead show {dead.id}",
        )
        if not message.acknowledged:
            message.ack_log_error(logging.getLogger(__name__), self.connection_errors)


def checked(said: TaskMessage, now: datetime) -> TaskMessage:
    """The task as it may be run. Raises Unreadable where it may not."""
    task = app.tasks.get(said.task)
    if task is None:
        raise Unreadable("there is no such task")
    try:
        task.__header__(*said.args, **said.kwargs)
    except TypeError:
        raise Unreadable("its arguments are not the task's") from None
    if said.task == place_call.name and said.expires:
        if said.expires <= now:
            raise Unreadable("it had expired before a worker took it")
        said = replace(said, expires=None)
    wait = (said.eta - now).total_seconds() if said.eta else 0.0
    return replace(said, eta=None) if wait <= 0 else _waiting(said, now, wait)


def _waiting(said: TaskMessage, now: datetime, wait: float) -> TaskMessage:
    """A task that is to run `wait` seconds from now."""
    longest = max(MOMENT, settings.longest_countdown)
    if said.task != place_call.name or said.retries:
        # No task or retry of ours waits for longer: the other host's clock is ahead.
        return replace(said, eta=now + timedelta(seconds=min(wait, longest)))
    if said.kwargs.get("contact") is None and not said.args:  # in the store already, which knows when it is due
        return said if wait <= longest else replace(said, eta=None)
    if wait <= MOMENT:
        return said
    if wait > LONGEST_WAIT:
        raise Unreadable(f"eta: must be at most {LONGEST_WAIT / 86400:g} days ahead")
    return replace(said, eta=None, not_before=(now + timedelta(seconds=wait)).timestamp())


def _rewrite(message: Any, said: TaskMessage) -> None:
    """Makes it a message of Celery's protocol 2 that we have written. What the broker keeps stays as it is."""
    redelivered = message.delivery_info.get("redelivered") if isinstance(message.delivery_info, dict) else None
    message.delivery_info = (message.delivery_info or {}) | {"redelivered": bool(redelivered)}
    message.headers, message.body = said.headers(), said.body()
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.properties = {"correlation_id": said.id}
