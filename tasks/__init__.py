"""Celery and the wiring. `app` is here so that `celery -A tasks` finds it."""

from tasks.celery import app

__all__ = ["app"]
