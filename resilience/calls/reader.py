"""Reads calls from the store, without changing them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from resilience.calls.call import State
from resilience.errors import InvalidContact
from resilience.store.scripts import Scripts, store_errors

T = TypeVar("T")
BATCH = 200  # calls a script: about 5 ms of the server's time


class CallReader:
    """The calls in one Redis. Every method raises StoreUnavailable."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts

    def get(self, id: str) -> dict[str, str]:
        """A call's fields, empty where there is no such call."""
        with store_errors():
            call: Any = self.scripts.client.hgetall(self.scripts.key("call", id))
        return dict(call)

    def history(self, id: str) -> list[dict[str, Any]]:
        """A call's last events, oldest first; `at` is unix ms."""
        with store_errors():
            lines = self.scripts.client.lrange(self.scripts.key("history", id), 0, -1)
        return [json.loads(line) for line in lines]

    def calls(self, *, state: str | None = None, campaign: str | None = None) -> Iterator[dict[str, str]]:
        """All calls, or those of one state or campaign, a page at a time."""
        client = self.scripts.client
        with store_errors():
            # A scan may name a call more than once.
            ids = dict.fromkeys(id for id, _ in client.zscan_iter(self.scripts.key("calls"), count=BATCH))
            for id_batch in batches(ids):
                pipe = client.pipeline(transaction=False)
                for id in id_batch:
                    pipe.hgetall(self.scripts.key("call", id))
                for call in pipe.execute(raise_on_error=False):
                    if not isinstance(call, dict) or not call.keys() >= {"id", "state", "campaign"}:
                        continue  # it expired, or it is damaged
                    if state in (None, call["state"]) and campaign in (None, call["campaign"]):
                        yield call

    def stats(self) -> dict[str, int]:
        """The number of calls in each state."""
        with store_errors():
            counts = self.scripts.client.hgetall(self.scripts.key("stats"))
        return {state.value: int(counts.get(state.value, 0)) for state in State}


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Lists of at most BATCH items, in order."""
    batch: list[T] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except InvalidContact:  # raised by `items`: what came before it is handed on all the same
        if batch:
            yield batch
        raise
    if batch:
        yield batch
