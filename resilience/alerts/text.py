"""The text of an alert: what happened, where, since when, why, what follows by itself, and which command to run.

The sentences are in templates/sentences.j2 and kinds.py; the layout as plain text and as an HTML mail is next to the
former. What comes from outside becomes one line of printable characters, without secrets and phone numbers; HTML is
escaped. Call ids are shown as they are, since the commands take them. All times are UTC.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from resilience.alerts.alert import Alert
from resilience.alerts.incident import Group, Incident, Notice
from resilience.alerts.kinds import FOLDED, Counts, Kind
from resilience.alerts.message import Message
from resilience.redact import scrub

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = {"critical": "#b3261e", "warning": "#8f5b00", "resolved": "#1a7340", "info": "#0b5cad"}


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(alert: Alert, secrets: Collection[str] = (), *, unclear: bool = False) -> Message:
    """The message of an alert, without any of `secrets`. `unclear`: it may have arrived before, and says so."""
    known = tuple(secrets)
    shown = [_shown(notice, incident, alert.at, known) for notice, incident in alert.notices]
    message = _one(alert, known) if len(shown) == 1 else _several(alert, known)
    subject = shown[0]["headline"] if len(shown) == 1 else f"after quiet hours: {len(shown)} alerts"
    colour = "resolved" if message.status == "resolved" else message.severity
    page = {
        "subject": subject,
        "incidents": shown,
        "unclear": unclear,
        "at": _moment(alert.at),
        "colour": COLOURS[colour],
        "badge": colour.capitalize() if len(shown) == 1 else "After quiet hours",
    }
    text, html = (_environment().get_template(f"alert.{form}.j2").render(page).strip() for form in ("txt", "html"))
    return replace(message, subject=f"[Lineman] {subject}", text=text, html=html)


def _one(alert: Alert, secrets: tuple[str, ...]) -> Message:
    [(notice, incident)] = alert.notices
    status: Literal["firing", "resolved", "info"] = "info" if incident.kind is Kind.TEST else "firing"
    return Message(
        id=alert.id,
        key=f"{incident.kind}:{incident.service}",
        status="resolved" if notice is Notice.RESOLVED else status,
        severity=incident.kind.severity,
        kind=incident.kind.value,
        service=incident.service,
        subject="",
        text="",
        data=_data(notice, incident, secrets) | {"alerted_at": _iso(alert.at)},
    )


def _several(alert: Alert, secrets: tuple[str, ...]) -> Message:
    since = _iso(min(incident.since for _, incident in alert.notices))
    each = [_data(notice, incident, secrets) for notice, incident in alert.notices]
    return Message(
        id=alert.id,
        key="quiet_hours",
        status="info",
        severity="warning",
        kind="quiet_hours",
        service="",
        subject="",
        text="",
        data={"since": since, "alerts": each, "alerted_at": _iso(alert.at)},
    )


def _data(notice: Notice, incident: Incident, secrets: tuple[str, ...]) -> dict[str, Any]:
    """For programs. Times are ISO 8601, durations in seconds."""
    data: dict[str, Any] = {"kind": incident.kind.value, "service": incident.service, "notice": notice.value,
                            "severity": incident.kind.severity, "since": _iso(incident.since)}  # fmt: skip
    data["reason"] = _line(incident.reason, secrets)
    if not incident.kind.ends:
        ids = [_line(id) for id, _ in incident.new.examples if id]
        return data | {"count": incident.new.count, "total": incident.total, "calls": ids}
    data["times"] = incident.times
    if incident.ended:
        data |= {"ended": _iso(incident.ended), "duration_s": round(incident.ended - incident.since, 3)}
    if incident.kind is Kind.SERVICE_DOWN:
        failed = incident.calls.get(Kind.CALL_FAILED, Group())
        state = "closed" if incident.ended else "held" if incident.held else "open"
        counts = {kind: group.count for kind, group in incident.calls.items()}
        data |= {"state": state, "waiting": incident.waiting, "resumed": incident.resumed, "failed": failed.count,
                 "folded": counts, "calls": [_line(id) for id, _ in failed.examples]}  # fmt: skip
    return data


def _shown(notice: Notice, incident: Incident, at: float, secrets: tuple[str, ...]) -> dict[str, Any]:
    new = incident.new
    view: dict[str, Any] = {
        "kind": incident.kind.value,
        "service": incident.service,
        "notice": notice.value,
        "held": incident.held,
        "fires": incident.fires,
        "flaps": incident.flaps,
        "times": incident.times,
        "since": _clock(incident.since, at),
        "until": f"{datetime.fromtimestamp(incident.until, UTC):%H:%M:%S} UTC",
        "lasted": _lasted(incident.ended - incident.since),
        "failed": Kind.CALL_FAILED in incident.calls,
        "count": new.count,
        "new_since": _clock(new.since, at),
        "counted": "",
        "next_step": "",
        "run": "",
    }
    if isinstance(traits := incident.kind.traits, Counts):
        call = new.examples[0][0] if new.examples and new.count <= len(new.examples) else ""
        view |= {"counted": traits.one if new.count == 1 else traits.many, "next_step": traits.next_step,
                 "run": f"{traits.show} {shlex.quote(_line(call))}" if call else traits.run}  # fmt: skip
    sentences: Any = _environment().get_template("sentences.j2").module
    view |= {"headline": sentences.subject(view), "next": sentences.next(view), "command": sentences.command(view)}
    view["examples"] = [_example(id, reason, secrets) for id, reason in new.examples]
    return view | {"facts": list(_facts(notice, incident, secrets))}


def _facts(notice: Notice, incident: Incident, secrets: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if incident.kind is Kind.TEST:
        yield "Sent by", _line(incident.reason, secrets)
        return
    yield "Since", _moment(incident.since)
    if incident.ended:
        yield "Until", f"{_moment(incident.ended)}, {_lasted(incident.ended - incident.since)} later"
    if incident.times > 1:
        yield "Fired", f"{incident.times} times, the last time at {_moment(incident.fired)}"
    if incident.reason and incident.kind.ends:
        yield "Reason", _line(incident.reason, secrets)
    yield from _outage(notice, incident)
    if incident.total > incident.new.count:
        yield "Total", f"{incident.total}"


def _outage(notice: Notice, incident: Incident) -> Iterator[tuple[str, str]]:
    if notice is Notice.RESOLVED and incident.kind is Kind.SERVICE_DOWN:
        yield "Waiting", f"{_calls(incident.waiting)} when it closed"
    elif incident.waiting:
        yield "Waiting", _calls(incident.waiting)
    if incident.resumed:
        yield "Released", _calls(incident.resumed)
    for kind, label in FOLDED.items():
        if group := incident.calls.get(kind):
            ids = [_line(id) for id, _ in group.examples if id]
            more = ["..."] if group.count > len(ids) else []
            yield label, f"{group.count} ({', '.join(ids + more)})" if ids else str(group.count)


def _example(id: str, reason: str, secrets: tuple[str, ...]) -> str:
    return ": ".join(part for part in (_line(id), _line(reason, secrets)) if part)


def _line(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """One line of printable characters; with `secrets`, without them and without phone numbers."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    return shown if secrets is None else scrub(shown, secrets)


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _clock(at: float, now: float) -> str:
    then = datetime.fromtimestamp(at, UTC)
    same_day = then.date() == datetime.fromtimestamp(now, UTC).date()
    return f"{then:%H:%M} UTC" if same_day else f"{then:%d %b %H:%M} UTC"


def _lasted(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
