"""The Redis of the tests, real and fake, and the summary by tier (unit, store, services, worker)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest
import redis

from local.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One real server for the whole run."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def real_redis(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the real server, which is empty at first."""
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def fake_redis() -> Iterator[fakeredis.FakeRedis]:
    """A client of a server of its own, inside this process."""
    with fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True) as client:
        yield client


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what came of each tier, which is the first folder below tests/, and how long it took."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            if not isinstance(report, pytest.TestReport | pytest.CollectReport):
                continue
            folders = Path(report.nodeid.partition("::")[0]).parts[1:-1]
            tier = folders[0] if folders else "other"
            seconds[tier] += getattr(report, "duration", 0)
            counts[tier][outcome] += 1
    if not counts:
        return
    terminalreporter.section("by tier")
    terminalreporter.line(f"{'tier':10}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for tier, count in sorted(counts.items()):
        failed = count["failed"] + count["error"]
        terminalreporter.line(f"{tier:10}{count['passed']:8}{failed:8}{count['skipped']:8}{seconds[tier]:9.1f}")
