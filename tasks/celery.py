"""The Celery app, and what every task has in common.

`celery -A tasks worker -Q calls` (or control), `celery -A tasks beat`, `celery -A tasks flower`. A process whose
config.yml cannot be used stops here, with every fault listed; a worker also stops where a key is missing or Redis
would lose calls.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from celery import Celery, Task, signals
from celery.events import EventReceiver
from celery.exceptions import Reject
from celery.worker.request import Request

from resilience import logger
from resilience.config.settings import Retry, Settings, load
from resilience.errors import ConfigError, StoreUnavailable, TransientError
from resilience.redact import scrub
from resilience.retry import next_delay
from resilience.store.connection import connect, where
from resilience.store.requirements import examine

# The store and the policy decide when a retry is the last one; Celery's own bound is for workers that die.
UNBOUNDED = 1_000_000
STORE_RETRY = 5.0  # seconds until a task that could not reach Redis comes back


class MaskingCelery(Celery):
    """Sends tasks whose shown form (the sent event, Flower) has no phone number."""

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        options.setdefault("argsrepr", scrub(repr(args or ())))
        options.setdefault("kwargsrepr", scrub(repr(kwargs or {})))
        return super().send_task(name, args, kwargs, **options)


class MaskedEvents:
    """What Flower hears, without phone numbers: another team's client may report in full what it sends.

    Flower makes Celery's own receiver, whatever the app says, so this is in the place of its method.
    """

    original = EventReceiver.event_from_message

    @staticmethod
    def read(receiver: Any, body: dict[str, Any], *args: Any, **options: Any) -> Any:
        """An event's type and fields."""
        texts = {name: body[name] for name in ("args", "kwargs", "result", "exception", "traceback") if body.get(name)}
        bare = any("'phone'" in str(text) for text in texts.values())
        body |= {name: scrub(str(text), numbers=bare) for name, text in texts.items()}
        return MaskedEvents.original(receiver, body, *args, **options)


EventReceiver.event_from_message = MaskedEvents.read


class MaskedRequest(Request):
    """A request whose shown form (events, `inspect`, Flower) has no phone number."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr: str = scrub(self._argsrepr)
        self._kwargsrepr: str = scrub(self._kwargsrepr)

    def info(self, safe: bool = False) -> Any:
        return super().info(safe=True)


class ResilientTask(Task):
    """Retries TransientError by Celery's autoretry, after a delay that comes from retry.py.

    Celery's own backoff has a fixed base of 2 and a jitter that may give 0 s.
    """

    Request = MaskedRequest
    autoretry_for = (TransientError,)
    default_retry_delay = STORE_RETRY
    policy: Retry | None = None

    def retry(self, args: Any = None, kwargs: Any = None, exc: Exception | None = None, **options: Any) -> Any:
        wait = getattr(exc, "retry_after", None)
        if self.policy is not None:
            delay = next_delay(self.policy, self.request.retries + 1, wait)
            if delay is None and exc is not None:
                raise exc
        else:
            delay = STORE_RETRY if wait is None else wait
        options |= {"countdown": delay, "max_retries": UNBOUNDED}
        try:
            return super().retry(args, kwargs, exc, **options)
        except Reject as reject:
            # The retry could not be published. Requeued, the message stays with the broker and comes back.
            raise Reject(reject.reason, requeue=True) from reject


def _settings() -> Settings:
    try:
        return load()
    except ConfigError as exc:
        raise SystemExit(f"config.yml cannot be used:\n{exc}") from None


settings = _settings()
MODULES = [
    *(f"tasks.{name}" for name in ("alerts", "calls", "crm", "dispatch", "health")),
    *(f"tasks.worker.{name}" for name in ("stuck_worker", "watchdog")),  # each adds its step to the worker
]
app = MaskingCelery("tasks", task_cls=ResilientTask, include=MODULES)
app.config_from_object("celeryconfig")


@signals.setup_logging.connect
def _log_as_json(**_: Any) -> None:
    logger.setup(settings.logging, secrets=settings.secrets, process="celery", console=True)
    # Each message received and each task succeeded: four lines a second, and nothing that our own events do not say.
    for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat"):
        logging.getLogger(name).setLevel(logging.WARNING)


@signals.celeryd_init.connect
def _refuse_to_start(**_: Any) -> None:
    """Ends a worker that lacks a key, or whose Redis would lose calls. For a Redis out of reach the worker waits."""
    r = settings.redis
    faults = list(settings.missing)
    with suppress(StoreUnavailable), connect(r.url, connect_timeout=r.connect_timeout, timeout=r.timeout) as client:
        found = examine(client, r.persistence)
        faults += [f"Redis at {where(client)}: {what} {text}" for mark, what, text in found if mark == "FAIL"]
    if faults:
        raise SystemExit("the worker does not start:\n" + "\n".join(faults))
