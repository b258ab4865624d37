"""`services`: the gate in front of each service, and the operator's commands on it, for the whole fleet at once."""

from __future__ import annotations

import os
import re
import time
from typing import Annotated, Any

import typer

from resilience.circuit_breaker import KEPT, view
from resilience.redact import scrub
from tasks.cli.output import clock, fail, moment, plain, print_json, print_table, say
from tasks.runtime import runtime

app = typer.Typer(help="Look at the services' circuit breakers, and move them by hand.", no_args_is_help=True)

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def services() -> list[dict[str, Any]]:
    """Each enabled service's gate as it is; `retry_after` (None: until released) and `paused` in seconds."""
    rt = runtime()
    gates = view(rt.scripts, {name: breaker.policy for name, breaker in rt.breakers.items()})
    return [_described(name, gates[name]) for name in rt.breakers]


def _described(name: str, gate: dict[str, Any]) -> dict[str, Any]:
    wait = gate.get("retry_after")
    reason = gate.get("reason") or gate.get("health_reason")
    return {
        "name": name,
        "state": gate["state"],
        "retry_after": None if wait is None else wait / 1000,
        "health": gate["health"],
        "reason": reason and scrub(reason),
        "by": gate.get("by"),
        "since": moment(gate["since"]),
        "deferred": gate["deferred"],
        "paused": gate["paused"] / 1000,
    }


def print_services(rows: list[dict[str, Any]]) -> None:
    """The table of all gates."""
    print_table(
        ["service", "state", "since (UTC)", "next request", "health", "waiting", "reason"],
        ([row["name"], row["state"], clock(row["since"]), _next(row), row["health"], row["deferred"], row["reason"]]
         for row in rows),
    )  # fmt: skip


def _next(row: dict[str, Any]) -> str:
    if row["retry_after"] is None:
        return "when released"
    return f"in {row['retry_after']:.0f} s" if row["retry_after"] >= 1 else "now"


@app.command("list")
def list_services(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the services and their gates."""
    rows = services()
    if as_json:
        print_json(rows)
    else:
        print_services(rows)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smh]?)", text)
    seconds = float(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < seconds <= KEPT:
        raise typer.BadParameter("must be a time such as 90, 90s, 10m or 2h, at most 30 days (720h)")
    return seconds


Name = Annotated[str, typer.Argument(metavar="NAME", help="A service: see `services list`.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the others.")]
Wait = Annotated[float | None, typer.Option("--for", parser=_seconds, metavar="DURATION", help="90, 90s, 10m or 2h.")]


@app.command()
def hold(name: Name, reason: Reason = None, wait: Wait = None) -> None:
    """Hold a service: nothing is sent to it until it is released, or until --for is over."""
    _control("hold", name, reason, wait)


@app.command("open")
def open_gate(name: Name, reason: Reason = None, wait: Wait = None) -> None:
    """Open a circuit breaker: nothing is sent for its recovery timeout, or for --for; then a probe decides."""
    _control("open", name, reason, wait)


@app.command()
def release(name: Name) -> None:
    """Release a service that is held: the next request is a probe, and closes the circuit breaker if it is good."""
    _control("release", name)


@app.command("close")
def close_gate(name: Name) -> None:
    """Close a circuit breaker without a probe."""
    _control("close", name)


def _control(action: str, name: str, reason: str | None = None, wait: float | None = None) -> None:
    breakers = runtime().breakers
    if name not in breakers:
        raise typer.BadParameter(f"{plain(name)} is not a service in use; there are {', '.join(breakers)}")
    # Never just "breaker", whatever the user is called: a hold of the breaker's own is released by a health check.
    by = f"operator {plain(os.environ.get('USER', ''))}".strip()
    changed = breakers[name].control(action, by=by, reason=plain(scrub(reason or "")) or None, wait=wait)
    now = next(row for row in services() if row["name"] == name)
    if not changed:
        fail(f"{name} was not changed: it is {now['state']}. {_follows(now)}")
    say(f"{name} is {now['state']}. {_follows(now)}")


def _follows(now: dict[str, Any]) -> str:
    waiting = f"{now['deferred']} calls wait"
    if now["state"] == "closed":
        return f"Requests go out again; {waiting}, and are let go slowly at first."
    if now["state"] == "half_open":
        return f"The next request is a probe: a good one closes the circuit breaker; {waiting} for it."
    if now["retry_after"] is None:
        return f"Nothing is sent until `python -m tasks services release {now['name']}`; {waiting}."
    until = clock(moment((time.time() + now["retry_after"]) * 1000))
    return f"Nothing is sent until {until} UTC, when the next request is a probe; {waiting}."
