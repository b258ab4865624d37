"""Whole campaigns of faults, in the short form. The long form is `python -m tests.chaos --seed N`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from demo.processes import ROOT

SEED = (1, "always")
REGRESSIONS = [
    (101, "everysec"),  # what was dialed in the second that a power cut took was dialed again: eight rang twice
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("seed", "fsync"), [SEED, *REGRESSIONS])
def test_no_contact_is_lost_and_none_is_dialed_twice(seed: int, fsync: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", str(seed), "--fsync", fsync],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    print(done.stdout)
    assert done.returncode == 0, done.stderr
