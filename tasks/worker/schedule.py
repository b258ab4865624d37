"""Beat's schedule, which adds nothing to a queue that is not read, and goes on when its host's clock is set back.

Without a control worker two ticks a second would pile up, about 180 MB in Redis a day, and a worker that comes back
would have to work through them first. A tick that is left out does no harm: those that wait do the same.
"""

from __future__ import annotations

from typing import Any

from celery.beat import PersistentScheduler
from kombu.exceptions import OperationalError

from tasks.dispatch import queue_length

MOST = 1000  # messages in the queue of the periodic tasks, among them the deliveries of alerts


class BoundedScheduler(PersistentScheduler):
    """Leaves a tick out while its queue is full, and none out because the clock was set back.

    Celery plans by the wall clock: set back by an hour, it would send nothing for an hour, also after a restart.
    """

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        now = self.app.now()
        if any(entry.last_run_at > now for entry in self.schedule.values()):
            for entry in self.schedule.values():
                entry.last_run_at = now
            self.populate_heap()
        return super().tick(*args, **kwargs)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        if not _is_full():
            super().apply_entry(entry, producer)


def _is_full() -> bool:
    try:
        return queue_length("control") >= MOST
    except OperationalError:
        return False  # publishing reports it
