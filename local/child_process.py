"""A child process that does not outlive its parent, not even one that was killed with SIGKILL.

On Linux the kernel sees to it; elsewhere the child is ended only by a parent that gets to say goodbye. The child leads
a session of its own: Ctrl-C in the terminal reaches the parent alone, which then ends its children in its own order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1


def start(command: Sequence[str | os.PathLike[str]], **options: Any) -> subprocess.Popen[bytes]:
    """Starts it with `subprocess.Popen` and its options.

    Linux ends the child with the thread that started it: call this from one that lives as long as the child may.
    """
    options |= {"start_new_session": True, "preexec_fn": _die_with_parent()}
    return subprocess.Popen(command, **options)


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl  # looked up here: after the fork, little is safe

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            os._exit(1)

    return arm
