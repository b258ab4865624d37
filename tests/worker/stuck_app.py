"""The product's Celery app, whose worker goes deaf once it is told: connected, answering pings, taking nothing.

`celery -A tests.worker.stuck_app worker`; the file named by GO_DEAF tells it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import bootsteps

from tasks.celery import app

__all__ = ["app"]


class GoDeaf(bootsteps.StartStopStep):
    """Cancels the consumer on the connection alone: Celery still believes that it consumes."""

    requires = frozenset({"celery.worker.consumer.tasks:Tasks"})

    def start(self, parent: Any) -> None:
        told = Path(os.environ["GO_DEAF"])

        def go() -> None:
            if told.exists():
                parent.task_consumer.cancel()

        parent.timer.call_repeatedly(0.1, go)


app.steps["consumer"].add(GoDeaf)
