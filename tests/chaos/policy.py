"""The shipped config.yml with short times: a lease of 2.3 s, and look-ups over 3.5 s."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from demo.processes import ROOT

RETRY = {"initial_delay": 0.5, "backoff_factor": 2, "max_attempts": 4, "max_delay": 6, "jitter": 0.1}
DIALER: dict[str, Any] = {
    "timeout": {"connect": 0.3, "read": 1.0},
    "retry": RETRY,
    "circuit_breaker": {
        "failure_threshold": 6,
        "failure_rate": 0.6,
        "window": 3,
        "recovery_timeout": 0.5,
        "max_recovery_timeout": 1,
    },
    "health": {"path": "/v1/user/subscription", "interval": 1.5, "rise": 2, "fall": 4, "hold": 5},
    "release": {"rate": 10, "max_rate": 50},
}
LOOK_UP = {"delay": 0.5, "interval": 1.5, "polls": 3, "give_up": 9}
MARGIN_S = 1.0
LEASE_S: float = sum(DIALER["timeout"].values()) + MARGIN_S
SMALL: dict[str, Any] = {
    "broker": {"visibility_timeout": 45},
    "services": {"elevenlabs": DIALER, "crm": {"timeout": DIALER["timeout"], "retry": RETRY}},
    "calls": {
        "lease_margin": MARGIN_S,
        "dispatch": {"interval": 0.2, "feed": 50, "republish": 3},
        "look_up": LOOK_UP,
    },
    "alerts": {"interval": 1, "group_interval": 30, "retry": RETRY},
}


def write(path: Path) -> Path:
    """Writes that config.yml to `path`, and returns `path`."""
    path.write_text(yaml.safe_dump(_merged(yaml.safe_load((ROOT / "config.yml").read_text()), SMALL)))
    return path


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the leaves of `over` in it."""
    deep = {k: _merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | over | deep
