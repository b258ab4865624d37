"""A Redis set under Sentinel: a failover in mid-campaign loses no contact and dials none twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from demo.processes import CELERY, Processes
from resilience.calls.call import State
from resilience.calls.contacts import Contact
from resilience.calls.store import CallStore
from resilience.config.settings import Settings, load
from resilience.errors import StoreUnavailable
from resilience.store.connection import connect, where
from resilience.store.scripts import Scripts
from tests.support import wait_until
from tests.worker.sentinel_set import ASKING, PASSWORD, SentinelSet

CONTACTS = [Contact(f"{n}", f"+1415555{n:04d}", "", {}) for n in range(100, 160)]


class Fleet(Processes):
    """The demo's processes on a set, with four calls at a time."""

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(folder, config)
        self.redis = SentinelSet(folder / "redis")  # type: ignore[assignment]

    def start(self, name: str) -> None:
        wider = ("-c", "4") if name == "calls" else ()
        self._run(name, ["-m", "celery", "-A", "tasks", *CELERY[name], *wider])

    def control(self, name: str, **body: Any) -> Any:
        url = f"{self.url}/_control/{name}"
        return (requests.post(url, json=body, timeout=5) if body else requests.get(url, timeout=5)).json()

    def rang(self) -> Counter[str]:
        return Counter(row["call_id"] for row in self.control("rang")["rang"])


@pytest.fixture
def redis_set(tmp_path: Path) -> Iterator[SentinelSet]:
    servers = SentinelSet(tmp_path / "set")
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def settings(tenth: Callable[..., Path]) -> Settings:
    return load(str(tenth()), {"ELEVEN_API_KEY": "k"})


def states(store: CallStore) -> Counter[str]:
    """How many calls are in each state, nothing while no primary answers."""
    try:
        return Counter({state: n for state, n in store.stats().items() if n})
    except StoreUnavailable:
        return Counter()


def test_a_failover_in_mid_campaign_loses_no_contact_and_rings_nobody_twice(
    tmp_path: Path, tenth: Callable[..., Path], settings: Settings
) -> None:
    with Fleet(tmp_path, tenth()) as fleet, connect(fleet.redis.url, connect_timeout=1, timeout=2) as client:
        store = CallStore(Scripts(client), settings)
        fleet.control("fault", service="elevenlabs", endpoint="dial", kind="slow", seconds=0.3)
        store.enqueue(CONTACTS, "own")
        assert client.wait(1, 5000) == 1
        wait_until(lambda: fleet.rang().total() >= 12, timeout=30, what="the campaign to be under way")

        # What rings from here on is not known to the new primary: the store goes back in time.
        fleet.redis.cut_replication()
        before = fleet.rang().total()
        wait_until(lambda: fleet.rang().total() >= before + 6, what="calls that only the old primary knows")
        fleet.redis.kill(fleet.redis.nodes[0])

        wait_until(lambda: states(store) == {State.PLACED: len(CONTACTS)}, timeout=60, what="every call to be placed")
        assert fleet.rang() == {f"own:{contact.id}": 1 for contact in CONTACTS}
        assert fleet.dead() is None
        assert f"127.0.0.1:{fleet.redis.nodes[1]}" in fleet.command("check")
        written = "".join(path.read_text() for path in fleet.folder.glob("*.log"))
        assert not [secret for secret in (PASSWORD, ASKING) if secret in written]


def test_a_connection_to_a_demoted_primary_is_left_with_the_next_command(
    redis_set: SentinelSet, settings: Settings
) -> None:
    with connect(redis_set.url, connect_timeout=1, timeout=2) as client:
        store = CallStore(Scripts(client), settings)
        store.enqueue(CONTACTS[:1], "own")
        client.wait(1, 5000)

        redis_set.swap_by_hand()

        assert store.enqueue(CONTACTS[:2], "own") == (1, 1)
        assert where(client).startswith(f"127.0.0.1:{redis_set.nodes[1]},")


def test_sentinels_that_do_not_answer_are_reported_within_seconds(redis_set: SentinelSet, settings: Settings) -> None:
    with connect(redis_set.url, connect_timeout=0.2, timeout=0.2) as client:
        store = CallStore(Scripts(client), settings)
        store.enqueue(CONTACTS[:1], "own")
        started = time.monotonic()

        redis_set.suspend()
        with pytest.raises(StoreUnavailable) as shown:
            store.enqueue(CONTACTS[:2], "own")

        assert time.monotonic() - started < 3
        assert PASSWORD not in str(shown.value)
