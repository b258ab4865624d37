"""Celery and the wiring. `app` is here so that `celery -A tasks` finds it.

kombu is patched here as well: each process that imports anything of this package sends or receives by it.
"""

from tasks.celery import app
from tasks.worker import kombu_fixes

__all__ = ["app"]

kombu_fixes.install()
