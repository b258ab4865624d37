"""`alerts`: test the channels, list what fires and where it was sent, silence a service."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Annotated, Any
from uuid import uuid4

import typer

from resilience.alerts.alert import a_test
from resilience.alerts.decisions import OWN
from resilience.alerts.incident import Incident, Notice
from resilience.alerts.outbox import Track
from resilience.redact import scrub
from tasks.cli.output import clock, fail, moment, plain, print_json, print_table, say
from tasks.cli.services import Wait
from tasks.runtime import Runtime, runtime

app = typer.Typer(help="Test the channels, list what fires, silence a service.", no_args_is_help=True)

VARIABLES = {
    "email": "SMTP_HOST",
    "telegram": "TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID",
    "webhook": "WEBHOOK_URL",
    "pagerduty": "PAGERDUTY_ROUTING_KEY",
    "apprise": "APPRISE_URLS",
}


def hint(channel: str | None = None) -> str:
    """The environment variables that switch a channel on."""
    wanted = [f"{variables} for {name}" for name, variables in VARIABLES.items() if channel in (None, name)]
    return f"set {', or '.join(wanted)}"


@app.command("test")
def try_channels(
    channel: Annotated[str | None, typer.Argument(help=f"One of {', '.join(VARIABLES)}; all where left out.")] = None,
) -> None:
    """Send a test message by each channel that is configured, and print its answer. Needs no worker."""
    rt = runtime()
    if channel not in (None, *VARIABLES, *rt.channels):
        raise typer.BadParameter(f"{plain(channel)} is not a channel; there are {', '.join(VARIABLES)}")
    wanted = [name for name in rt.channels if channel in (None, name, name.partition("-")[0])]
    if not wanted:
        fail(f"{channel or 'no channel'} is {'not ' if channel else ''}configured: {hint(channel)}")
    failed = False
    for name in wanted:
        answer = _try(rt, name)
        failed |= answer != "sent"
        say(f"{name}: {'accepted the test message' if answer == 'sent' else scrub(answer)}")
    if failed:
        raise typer.Exit(1)


def _try(rt: Runtime, channel: str) -> str:
    sender = f"{os.environ.get('USER') or 'operator'} on {socket.gethostname()}, by `python -m tasks alerts test`"
    now, id = rt.outbox.clock(), f"test-{uuid4().hex}"
    # Not due for the workers while this process may be sending it.
    rt.outbox.put_alone(a_test(id, channel, sender, now), due=now + rt.sender.lease)
    return rt.sender.deliver(id, channel, once=True)


@app.command("list")
def list_alerts(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what fires, since when, what was sent when and where, and the silences."""
    rt = runtime()
    silences = rt.collector.silences()
    rows = [_described(rt, incident, silences) for incident in rt.collector.incidents() if _shown(incident)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("nothing fires")
    else:
        print_table(
            ["service", "kind", "severity", "since (UTC)", "state", "reason"],
            ([row["service"], row["kind"], row["severity"], clock(row["since"]), row["state"], row["reason"]]
             for row in rows),
        )  # fmt: skip
        sent = [cells for row in rows for cells in _sent(row)]
        if sent:
            say("")
            print_table(["time (UTC)", "service", "kind", "notice", "channel", "outcome", "reason"], sent)
    for service, (by, left) in silences.items():
        say(f"{service} is silenced for another {left:.0f} s, by {plain(by)}")


def _shown(incident: Incident) -> bool:
    return incident.notice != Notice.RESOLVED or incident.fires


def _described(rt: Runtime, incident: Incident, silences: dict[str, tuple[str, float]]) -> dict[str, Any]:
    found = [rt.outbox.tracks(id) for id in incident.alerts]
    silent = silences.get(incident.service)
    return {
        "service": incident.service,
        "kind": incident.kind.value,
        "severity": incident.kind.severity,
        "state": _state(incident),
        "since": moment(incident.since * 1000),
        "reason": scrub(incident.reason),
        "count": incident.times if incident.kind.ends else incident.total,
        "silenced_for": round(silent[1]) if silent else None,
        "sent": [
            {
                "id": alert.id,
                "notice": alert.notices[0][0].value,
                "at": moment(alert.at * 1000),
                "channels": {name: _outcome(tracks.get(name, Track())) for name in alert.channels},
            }
            for alert, tracks in filter(None, found)
        ],
    }


def _state(incident: Incident) -> str:
    if incident.held_for_quiet_hours:
        return "waits for the end of the quiet hours"
    if incident.flaps:
        return "flapping"
    if not incident.kind.ends:
        return "counted"
    return "firing" if incident.fires else "over"


def _outcome(track: Track) -> dict[str, Any]:
    outcome = track.outcome or ("sending" if track.owner else "to be retried" if track.attempts else "waiting")
    return {
        "outcome": outcome,
        "at": moment(track.at * 1000),
        "attempts": track.attempts,
        "reason": scrub(track.reason) or None,
    }


def _sent(row: dict[str, Any]) -> Iterator[list[Any]]:
    for alert in row["sent"]:
        for channel, track in alert["channels"].items():
            at = clock(track["at"] or alert["at"])
            yield [at, row["service"], row["kind"], alert["notice"], channel, track["outcome"], track["reason"]]


@app.command()
def silence(
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help=f"A service, a channel, {', '.join(OWN[:-1])} or {OWN[-1]}.")
    ],
    wait: Wait = None,
    off: Annotated[bool, typer.Option("--off", help="End the silence.")] = False,
) -> None:
    """Send no alert about a service for a while. What still fires when the silence ends is notified then."""
    rt = runtime()
    names = [*rt.breakers, *rt.channels, *OWN]
    if service not in names:
        raise typer.BadParameter(f"{plain(service)} cannot be silenced; there are {', '.join(names)}")
    if (wait is None) != off:
        raise typer.BadParameter("give --for DURATION, or --off, and not both")
    by = f"operator {plain(os.environ.get('USER', ''))}".strip()
    rt.collector.silence(service, wait or 0, by=by)
    if off:
        say(f"{service} is not silenced; what fires now is notified within seconds.")
    else:
        until = clock(moment((rt.outbox.clock() + (wait or 0)) * 1000))
        say(f"{service} is silenced until {until} UTC. End it with `python -m tasks alerts silence {service} --off`.")
