"""A fleet of real processes (redis, stand-in, two workers, beat) at a tenth of the shipped times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.processes import ROOT, Processes
from demo.timeline import Timeline
from demo.world import World
from resilience.config.settings import load

TENTH = {
    "services": {
        "elevenlabs": {
            "timeout": {"connect": 0.3, "read": 1.0},
            "retry": {"initial_delay": 0.5, "backoff_factor": 2, "max_attempts": 4, "max_delay": 6, "jitter": 0.02},
            "circuit_breaker": {"failure_threshold": 4, "failure_rate": 0.5, "window": 6, "recovery_timeout": 3},
            "health": {"path": "/v1/user/subscription", "interval": 1.5, "rise": 2, "fall": 4, "hold": 30},
            "release": {"rate": 10, "max_rate": 50},
        },
        "crm": {
            "retry": {"initial_delay": 0.5, "backoff_factor": 2, "max_attempts": 5, "max_delay": 6, "jitter": 0.1},
        },
    },
    "calls": {
        "lease_margin": 1.0,
        "dispatch": {"interval": 0.1, "feed": 100, "republish": 3},
        "look_up": {"delay": 0.3, "interval": 0.3, "polls": 3, "give_up": 5},
    },
    "alerts": {"interval": 0.1, "group_interval": 30},
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in it."""
    deep = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | over | deep


def write_config(path: Path, **changes: Any) -> Path:
    """Writes the shipped config.yml at a tenth of its times, with further changes, and returns its path."""
    shipped = yaml.safe_load((ROOT / "config.yml").read_text())
    path.write_text(yaml.safe_dump(merged(merged(shipped, TENTH), changes)))
    return path


class Fleet:
    """What a test does with a fleet, and what it sees of its own campaign."""

    def __init__(self, world: World, campaign: str) -> None:
        self.world, self.campaign = world, campaign
        self.processes, self.store, self.gate = world.processes, world.store, world.gate
        self.redis = world.redis

    def id(self, contact: str) -> str:
        return f"{self.campaign}:{contact}"

    def send(self, contact: object, **options: object) -> None:
        """Sends a contact as another service does."""
        self.processes.send_task("tasks.calls.place_call", {"contact": contact, "campaign": self.campaign}, **options)

    def fault(self, kind: str, **options: object) -> None:
        """Breaks the dial endpoint."""
        self.world.control("fault", service="elevenlabs", endpoint="dial", kind=kind, **options)

    def recover(self) -> None:
        self.world.control("recover", service="elevenlabs")

    def state(self, contact: str) -> str:
        return self.store.get(self.id(contact)).get("state", "")

    def count(self, state: str) -> int:
        return sum(call["campaign"] == self.campaign for call in self.store.calls(state=state))

    def rang(self, contact: str) -> int:
        return sum(r["call_id"] == self.id(contact) for r in self.world.control("rang")["rang"])

    def dials(self) -> list[str]:
        return [r["attempt_id"] for r in self.world.dials() if r["call_id"].startswith(f"{self.campaign}:")]

    def log(self) -> list[dict[str, Any]]:
        return self.world.log()


@pytest.fixture
def tenth(tmp_path: Path) -> Callable[..., Path]:
    """Writes a config.yml of this test's own."""
    return lambda **changes: write_config(tmp_path / "config.yml", **changes)


@contextmanager
def running(folder: Path, **changes: Any) -> Iterator[World]:
    """A running fleet, and what the demo sees of it: its store, its gate, its log and the stand-in's."""
    config = write_config(folder / "config.yml", **changes)
    settings = load(str(config))
    with Processes(folder, config) as processes:
        world = World(processes, settings, Timeline(settings.services["elevenlabs"].retry.max_attempts - 1))
        with closing(world):
            world.start()
            yield world


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One fleet for the tests of a module that leave it well."""
    with running(tmp_path_factory.mktemp("fleet")) as world:
        yield world


@pytest.fixture
def fleet(shared: World, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The module's fleet, with a campaign of this test's own."""
    own = Fleet(shared, f"t{abs(hash(request.node.nodeid)) % 10**8}")
    yield own
    shared.control("recover", service="elevenlabs")
    shared.processes.command("services", "close", "elevenlabs", fine=(0, 1))


@pytest.fixture
def own_fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet for a test that breaks it; its parameter changes the config."""
    with running(tmp_path, **getattr(request, "param", {})) as world:
        yield Fleet(world, "own")
