"""The product's Celery app, whose worker gets stuck on order: connected, answering pings, taking nothing.

`celery -A tests.worker.stuck_app worker`; it is ordered by a file at the path in GET_STUCK.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import bootsteps

from tasks.celery import app

__all__ = ["app"]


class GetStuck(bootsteps.StartStopStep):
    """Cancels the consumer on the connection alone: Celery still believes that it consumes."""

    requires = frozenset({"celery.worker.consumer.tasks:Tasks"})

    def start(self, parent: Any) -> None:
        order = Path(os.environ["GET_STUCK"])

        def check() -> None:
            if order.exists():
                parent.task_consumer.cancel()

        parent.timer.call_repeatedly(0.1, check)


app.steps["consumer"].add(GetStuck)
