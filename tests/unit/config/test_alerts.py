"""Which channels get which alert, and when none does: the rules of `alerts` and their faults."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from resilience.config.alerts import QuietHours, channels_for
from resilience.config.settings import Alerts, load
from resilience.errors import ConfigError
from tests.support import ROOT

SHIPPED = ROOT / "config.yml"
ENABLED = ("email", "webhook", "apprise", "apprise-2")


def written(folder: Path, **alerts: Any) -> str:
    document = yaml.safe_load(SHIPPED.read_text())
    document["alerts"] |= alerts
    path = folder / "c.yml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.mark.parametrize(
    ("alerts", "faults"),
    [
        ({"quiet_hours": {"start": "9:60", "end": "7:"}}, [
            "quiet_hours.start must be a time such as 22:00, got 9:60",
            "quiet_hours.end must be a time such as 22:00, got 7:",
        ]),
        ({"quiet_hours": {"start": "22", "end": "7:00"}}, ["quiet_hours.start must be a time such as 22:00, got 22"]),
        ({"quiet_hours": {"start": "22:00"}}, ["quiet_hours.end is missing"]),
        ({"quiet_hours": {"start": "7:00", "end": "07:00"}}, ["quiet_hours.end must differ from start, got 07:00"]),
        ({"quiet_hours": "22:00-07:00"}, ["quiet_hours must be a mapping, got text"]),
        (
            {"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Mars/Base"}},
            ["quiet_hours.timezone must be a time zone such as UTC or Europe/Berlin, got Mars/Base"],
        ),
        (
            {"quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "../../etc/passwd"}},
            ["quiet_hours.timezone must be a time zone such as UTC or Europe/Berlin, got ../../etc/passwd"],
        ),
        ({"routes": "email"}, ["routes must be a list of routes, got email"]),
        ({"routes": [{"severities": ["critical"]}]}, ["routes.0.channels is missing"]),
        ({"routes": [{"channels": []}]}, ["routes.0.channels must be a list with one entry or more, got a list"]),
        (
            {"routes": [{"channels": ["email", "fax"]}]},
            ["routes.0.channels.1 is not a channel; there are email, telegram, webhook, pagerduty, apprise, got fax"],
        ),
        (
            {"routes": [{"channels": ["email"], "severities": ["high"]}]},
            ["routes.0.severities.0 must be 'critical' or 'warning', got high"],
        ),
        (
            {"routes": [{"channels": ["email"], "services": ["llm"]}]},
            ["routes.0.services.0 is not a service; there are elevenlabs, crm, got llm"],
        ),
        (
            {"routes": [{"chanels": ["email"]}]},
            ["routes.0.channels is missing", "routes.0.chanels is not a known key; did you mean channels?"],
        ),
        ({"repeat_interval": 60}, ["repeat_interval must be >= group_interval (300), got 60"]),
        ({"doubt_after": 0}, ["doubt_after must be a number of seconds > 0, got 0"]),
    ],
)  # fmt: skip
def test_a_fault_names_the_key_the_rule_and_the_value(
    tmp_path: Path, alerts: dict[str, Any], faults: list[str]
) -> None:
    path = written(tmp_path, **alerts)

    with pytest.raises(ConfigError) as caught:
        load(path, {})

    assert str(caught.value).split("\n") == [f"{path}: alerts.{fault}" for fault in faults]


@pytest.mark.parametrize("nothing", [None, "", "null"])
def test_there_need_not_be_quiet_hours(tmp_path: Path, nothing: str | None) -> None:
    assert load(written(tmp_path, quiet_hours=nothing), {}).alerts.quiet_hours is None


@pytest.mark.parametrize(
    ("start", "end", "timezone", "at", "covered"),
    [
        ("22:00", "07:00", "UTC", "2026-11-24T21:59:59", False),
        ("22:00", "07:00", "UTC", "2026-11-24T22:00:00", True),
        ("22:00", "07:00", "UTC", "2026-11-25T06:59:59", True),
        ("22:00", "07:00", "UTC", "2026-11-25T07:00:00", False),
        ("12:00", "13:00", "UTC", "2026-11-24T12:30:00", True),
        ("12:00", "13:00", "UTC", "2026-11-24T13:00:00", False),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-24T21:30:00", True),
        ("22:00", "07:00", "Europe/Berlin", "2026-07-24T20:30:00", True),
        ("22:00", "07:00", "Europe/Berlin", "2026-11-24T20:30:00", False),
    ],
)
def test_the_quiet_hours_are_those_of_their_time_zone(
    start: str, end: str, timezone: str, at: str, covered: bool
) -> None:
    hours = QuietHours(start=start, end=end, timezone=timezone)

    assert hours.cover(datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()) is covered


@pytest.mark.parametrize(
    ("routes", "severity", "service", "channels"),
    [
        ([], "warning", "crm", ENABLED),
        ([{"channels": ["email"]}], "critical", "crm", ("email",)),
        ([{"channels": ["email"], "severities": ["critical"]}], "warning", "crm", ()),
        ([{"channels": ["telegram"]}], "critical", "crm", ()),
        ([{"channels": ["webhook", "email"]}, {"channels": ["email"]}], "critical", "crm", ("email", "webhook")),
        ([{"channels": ["email"], "services": ["elevenlabs"]}], "critical", "crm", ()),
        ([{"channels": ["email"], "services": ["elevenlabs"]}], "critical", "dispatcher", ("email",)),
        ([{"channels": ["email"], "services": ["elevenlabs"]}], "warning", "webhook", ("email",)),
        ([{"channels": ["apprise"]}], "warning", "crm", ("apprise", "apprise-2")),
        ([{"channels": ["apprise-2"]}], "warning", "crm", ("apprise-2",)),
    ],
)
def test_an_alert_goes_to_the_channels_of_every_route_that_takes_it(
    routes: list[dict[str, Any]], severity: str, service: str, channels: tuple[str, ...]
) -> None:
    rules = Alerts.model_validate({"routes": routes})

    assert channels_for(severity, service, rules.routes, ENABLED) == channels


def test_the_tries_of_the_shipped_policy_take_about_an_hour() -> None:
    retry = load(str(SHIPPED), {}).alerts.retry

    delays = [
        min(retry.max_delay, retry.initial_delay * retry.backoff_factor**n) for n in range(retry.max_attempts - 1)
    ]

    assert 3600 <= sum(delays) <= 4200
