"""The incidents as values: what an earlier release stored is understood, and nothing in their modules acts."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from resilience.alerts.alert import load_alert
from resilience.alerts.decisions import Situation, decide, decide_alerts
from resilience.alerts.incident import Notice, load
from resilience.alerts.incidents import apply
from resilience.config.settings import Alerts
from tests.support import ROOT

NOW = 1_800_000_000.0
RULES = Alerts()
# As the first release wrote it into {lineman}:alerts:state.
FORMER = {
    "service": "elevenlabs", "kind": "service_down", "since": NOW - 60, "fired": NOW - 60, "at": NOW - 60,
    "reason": "the key is dead", "held": True, "told": NOW - 60, "word": "first", "told_held": True, "flaps": True,
    "hushed": True, "kept": True, "said": 2, "alerts": ["a", "b"], "colour": "red",
}  # fmt: skip


def test_an_incident_of_the_first_release_has_todays_fields() -> None:
    incident = load(FORMER)

    assert (incident.notified_at, incident.notice, incident.notice_count) == (NOW - 60, "opened", 2)
    assert (incident.silenced, incident.held_for_quiet_hours, incident.flaps) == (True, True, True)
    assert load(json.loads(incident.dump())) == incident


@pytest.mark.parametrize(("former", "present"), [("more", "digest"), ("repeat", "reminder"), ("resolved", "resolved")])
def test_a_notice_of_the_first_release_has_todays_name(former: str, present: str) -> None:
    assert load(FORMER | {"word": former}).notice == present


def test_what_the_first_release_notified_is_not_notified_anew() -> None:
    quiet = {name: value for name, value in FORMER.items() if name not in ("hushed", "kept", "flaps")}
    incident = load(quiet)
    probed = {"event": "service_held", "service": "elevenlabs", "at": str(int(NOW * 1000)), "reason": "the key is dead"}

    state = apply({"service_down:elevenlabs": incident}, probed, RULES.group_interval)
    _, alerts = decide_alerts(state, NOW, Situation(RULES, ("elevenlabs",), ("email",)))

    assert decide(incident, NOW, RULES) is None
    assert alerts == []


def test_an_alert_of_the_first_release_is_delivered() -> None:
    stored = {"id": "a", "at": NOW, "said": [["repeat", FORMER]], "channels": ["email"], "follows": []}

    [(notice, incident)] = load_alert(json.dumps(stored)).notices

    assert (notice, incident.service) == (Notice.REMINDER, "elevenlabs")


@pytest.mark.parametrize("module", ["kinds", "incident", "incidents", "decisions", "alert", "message"])
def test_what_decides_has_no_clock_no_store_and_no_log(module: str) -> None:
    tree = ast.parse((ROOT / f"resilience/alerts/{module}.py").read_text())
    plain = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    imported = {*plain, *(str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))}

    ours = {name for name in imported if name.startswith("resilience")}
    pure = {"__future__", "collections", "collections.abc", "dataclasses", "enum", "json", "re", "typing"}
    assert imported - ours <= pure
    assert {name.split(".")[1] for name in ours} <= {"alerts", "config"}
    assert not ours & {f"resilience.alerts.{name}" for name in ("collector", "outbox", "delivery", "text")}


@pytest.mark.parametrize("module", sorted((ROOT / "resilience/alerts").glob("*.py")), ids=lambda path: path.stem)
def test_no_module_reads_the_clock_of_its_host(module: Path) -> None:
    """Alerts go by the server's clock: what two hosts measure by their own cannot be compared."""
    text = module.read_text()

    assert not re.search(r"\btime\.time\b|import time\b|from time import|\.(now|utcnow|today)\(", text)
