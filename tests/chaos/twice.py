"""The product's Celery app, with every message delivered twice: `celery -A tests.chaos.twice worker`.

Each process sends an exact copy after every message that it publishes: same id, same countdown.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from tasks.celery import app

__all__ = ["app"]


@signals.after_task_publish.connect
def _again(body: Any = None, exchange: str = "", routing_key: str = "", headers: Any = None, **_: Any) -> None:
    with app.pool.acquire(block=True) as connection, connection.Producer() as producer:
        producer.publish(
            body, exchange=exchange, routing_key=routing_key, headers=headers, serializer="json", delivery_mode=2
        )
