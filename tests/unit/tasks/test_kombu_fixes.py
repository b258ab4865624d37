"""Whatever imports anything of `tasks`, to send or to receive, has kombu patched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

SHOW = "from kombu import Connection; print(Connection._do_close_transport.__module__)"


@pytest.mark.parametrize("module", ["tasks", "tasks.celery", "tasks.producer", "tasks.cli.app"])
def test_kombu_is_patched_in_each_process_of_ours(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; {SHOW}"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stdout.strip() == "tasks.worker.kombu_fixes", done.stderr
