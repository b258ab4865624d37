"""Every suite of the store runs unchanged on fakeredis and on a real server, and leaves no key behind for ever."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.config.settings import Settings
from resilience.store.scripts import Scripts
from tests.store.steps import make_settings
from tests.support import leaked_keys


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest) -> redis.Redis:
    return request.getfixturevalue(f"{request.param}_redis")


@pytest.fixture
def scripts(client: redis.Redis) -> Scripts:
    return Scripts(client)


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture
def store(scripts: Scripts, settings: Settings) -> CallStore:
    """The calls of a store that is known to be new."""
    store = CallStore(scripts, settings)
    store.remember(False)
    return store


@pytest.fixture
def gate(scripts: Scripts, settings: Settings) -> CircuitBreaker:
    """The gate of the service that every call goes through."""
    return CircuitBreaker(scripts, DIALER, policy_of(settings.services[DIALER]))


@pytest.fixture(autouse=True)
def no_key_stays_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves a key without an expiry once all its calls are over."""
    names = {"client", "fake_redis", "real_redis"} & set(request.fixturenames)
    clients = [request.getfixturevalue(name) for name in sorted(names)[:1]]
    yield
    for client in clients:
        assert leaked_keys(client) == []
