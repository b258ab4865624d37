"""What the command line prints: lines and tables for people, JSON for programs.

Texts from outside (reasons, names, arguments) may hold anything: whatever could steer a terminal is taken out here,
and rich is kept from reading them as its markup. JSON escapes it instead, and so stays exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from resilience.redact import scrub

UNFOLDED = 100_000  # columns where the output is no terminal: what goes to a file or a pipe is one line a row
WHOLE = {
    "time (UTC)",
    "since (UTC)",
    "event",
    "state",
    "phone",
}  # columns of short words, which folding makes unreadable


def plain(text: object) -> str:
    """One line without control and invisible characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in str(text))


def say(text: object, *, err: bool = False) -> None:
    """Prints one line."""
    typer.echo(plain(text), err=err)


def fail(text: object) -> NoReturn:
    """Ends with one line on stderr and exit status 1: what was asked for did not hold."""
    say(scrub(str(text)), err=True)
    raise typer.Exit(1)


def print_json(value: object) -> None:
    """Prints one line of JSON, all in ASCII."""
    typer.echo(json.dumps(value))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table; None is an empty cell. A terminal's narrow cells are folded, never cut."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in WHOLE)
    for row in rows:
        table.add_row(*("" if cell is None else plain(cell) for cell in row))
    console.print(table)


def moment(at_ms: Any) -> str | None:
    """Unix ms as ISO 8601 in UTC; None where there is none."""
    if not int(at_ms or 0):
        return None
    return datetime.fromtimestamp(int(at_ms) / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: str | None) -> str:
    """What `moment` gives, for people: `2026-11-24 07:25:09`."""
    return (at or "")[:19].replace("T", " ")
