"""The ways to run it agree with each other: Procfile, docker-compose.yml, .env.example, config.yml and Makefile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from honcho.environ import parse, parse_procfile

import celeryconfig
from tests.support import ROOT, wait_until

KEEP = ROOT / "deploy" / "keep"


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture
def procfile() -> dict[str, str]:
    return parse_procfile((ROOT / "Procfile").read_text()).processes


def template() -> set[str]:
    return set(re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_compose_runs_the_procfiles_processes_and_restarts_them_itself(
    compose: dict[str, Any], procfile: dict[str, str]
) -> None:
    services = {name: service for name, service in compose["services"].items() if name != "redis"}

    # A container's loopback is its own; the host's is what Compose publishes Flower on.
    flower = procfile["flower"].replace("127.0.0.1 --port=${FLOWER_PORT:-5555}", "0.0.0.0 --port=5555")
    expected = {name: command.removeprefix("deploy/keep ") for name, command in (procfile | {"flower": flower}).items()}

    assert {name: service["command"] for name, service in services.items()} == expected
    assert {service["restart"] for service in compose["services"].values()} == {"unless-stopped"}


def test_the_procfile_restarts_every_process(procfile: dict[str, str]) -> None:
    assert set(procfile) == {"calls", "control", "beat", "flower"}
    assert all(command.startswith("deploy/keep celery -A tasks ") for command in procfile.values())


def test_flower_is_published_on_loopback_only_and_asks_for_a_password(compose: dict[str, Any]) -> None:
    flower = compose["services"]["flower"]

    assert flower["ports"] == ["127.0.0.1:${FLOWER_PORT:-5555}:5555"]
    assert flower["environment"]["FLOWER_BASIC_AUTH"].startswith("${FLOWER_BASIC_AUTH:?")


def test_composes_redis_keeps_every_write_and_evicts_nothing(compose: dict[str, Any]) -> None:
    server = compose["services"]["redis"]

    assert '--save "" --appendonly yes' in server["command"]
    assert "--maxmemory-policy noeviction" in server["command"]
    assert "redis:/data" in server["volumes"]
    assert "ports" not in server


def test_a_worker_gets_longer_to_stop_than_its_soft_shutdown(compose: dict[str, Any]) -> None:
    calls = compose["services"]["calls"]

    assert calls["environment"]["REMAP_SIGTERM"] == "SIGQUIT"
    assert float(calls["stop_grace_period"].removesuffix("s")) >= celeryconfig.worker_soft_shutdown_timeout + 10


def test_every_variable_of_the_policy_is_in_the_template_and_reaches_the_containers(compose: dict[str, Any]) -> None:
    policy = re.sub("#.*", "", (ROOT / "config.yml").read_text())
    named = set(re.findall(r"\$\{([A-Z_]+)", policy))
    passed = set(compose["services"]["calls"]["environment"])

    assert named <= template()
    assert named <= passed
    # Compose mounts config.yml itself, and reads the next two before it starts anything.
    assert template() - passed == {"CONFIG_FILE", "FLOWER_PORT"}


def test_the_template_sets_nothing_as_it_stands() -> None:
    assert parse((ROOT / ".env.example").read_text()) == {}


def test_make_alone_lists_every_target() -> None:
    out = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert re.findall(r"^make (\w+)", out, re.MULTILINE) == [
        "help",
        "install",
        "demo",
        "test",
        "simulate",
        "chaos",
        "fuzz",
        "lint",
        "run",
    ]


def test_a_process_that_ends_is_started_again_until_its_group_is_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()

    keep = subprocess.Popen(
        [KEEP, "sh", "-c", f"echo run >> {log}; [ $(wc -l < {log}) -eq 1 ] || exec sleep 60"],
        env={**os.environ, "KEEP_STEADY": "0"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    with keep:
        wait_until(lambda: log.read_text() == "run\nrun\n", what="the second run")
        os.killpg(keep.pid, signal.SIGTERM)
        _, out = keep.communicate(timeout=10)

    assert keep.returncode == 143
    assert "ended with status 0 and is started again in 1 s" in out


def test_a_process_that_never_came_up_is_given_up_with_its_status() -> None:
    done = subprocess.run([KEEP, "sh", "-c", "exit 3"], capture_output=True, check=False, timeout=10)

    assert done.returncode == 3
