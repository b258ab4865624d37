"""The demo at a tenth of its times: its verdict, its exit status, and what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.processes import ROOT, Processes
from tests.support import wait_until

Config = Callable[..., Path]


def demo(config: Path, temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", "--config", str(config)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


def processes_in(temporary: Path) -> list[str]:
    """The command lines of those that still run in the demo's folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(temporary) in str((process / "cwd").readlink()):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def left_behind(temporary: Path) -> list[str]:
    """Processes and files."""
    return [*processes_in(temporary), *map(str, temporary.iterdir())]


def shape(text: str) -> set[str]:
    """The lines without their numbers and spaces: what stays the same from run to run."""
    return {" ".join(re.sub(r"\d+(\.\d+)?", "N", line).split()) for line in text.splitlines() if line.strip()}


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    folder.mkdir()
    return folder


def test_every_step_is_observed_and_its_page_shows_it(tenth: Config, temporary: Path) -> None:
    with demo(tenth(), temporary) as process:
        printed, errors = process.communicate(timeout=100)

    assert (process.returncode, errors) == (0, "")
    assert "11 placed, 1 failed, 0 lost, 0 dialed twice" in printed
    assert left_behind(temporary) == []
    shown = re.search(r"\$ make demo\n(.*?)```", (ROOT / "docs/demo.md").read_text(), re.DOTALL)
    assert shown
    assert shape(shown[1]) == shape(printed)


def test_the_step_that_failed_is_named(tenth: Config, temporary: Path) -> None:
    config = tenth(services={"elevenlabs": {"circuit_breaker": {"failure_threshold": 50}}})

    with demo(config, temporary) as process:
        _, errors = process.communicate(timeout=100)

    assert process.returncode == 1
    assert errors == "FAILED: the breaker is open after the fourth failure; it is closed\n"
    assert left_behind(temporary) == []


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_when_it_is_stopped(tenth: Config, temporary: Path, signum: int, status: int) -> None:
    with demo(tenth(), temporary) as process:
        assert process.stdout
        wait_until(lambda: "dials" in process.stdout.readline(), timeout=60, what="the first dial")
        process.send_signal(signum)
        process.communicate(timeout=60)

    assert process.returncode == status
    assert left_behind(temporary) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_nothing_is_left_when_it_is_killed(tenth: Config, temporary: Path) -> None:
    with demo(tenth(), temporary) as process:
        assert process.stdout
        wait_until(lambda: "dials" in process.stdout.readline(), timeout=60, what="the first dial")
        process.kill()
        process.communicate(timeout=60)

    wait_until(lambda: processes_in(temporary) == [], timeout=20, what="every process to end")


def test_a_config_that_cannot_be_used_is_reported_in_a_sentence(tmp_path: Path, temporary: Path) -> None:
    config = tmp_path / "bad.yml"
    config.write_text("services: {elevenlabs: {retry: {max_attempts: 0}}}")

    with demo(config, temporary) as process:
        _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "max_attempts must be" in errors
    assert "Traceback" not in errors


def test_the_demo_pages_nobody_and_writes_to_no_redis_of_the_caller_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = re.findall(r"^([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    for name in names:
        monkeypatch.setenv(name, "the caller's own")

    env = Processes(tmp_path, ROOT / "config.yml").env

    assert [name for name in names if env.get(name) == "the caller's own"] == []
