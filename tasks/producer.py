"""Enqueue contacts from Python: written to the store in batches, and fed to Celery by the dispatcher.

A list that was half written can be sent again: a call that is known already is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from resilience.calls.contacts import Contact, parse
from tasks.runtime import runtime


def enqueue(contacts: Iterable[Contact | Mapping[str, Any]], campaign: str = "default") -> tuple[int, int]:
    """Enqueues contacts. Returns how many calls are new, and how many were known already.

    Raises InvalidContact for the first contact that cannot be called (those before it are enqueued), and
    StoreUnavailable within seconds when Redis is out of reach.
    """
    return runtime().store.enqueue((c if isinstance(c, Contact) else parse(c) for c in contacts), campaign)
