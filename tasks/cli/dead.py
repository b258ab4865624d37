"""`dead`: the messages that reached us and cannot be a call. Phone numbers are masked."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from kombu.exceptions import OperationalError

from resilience.calls.call import call_id
from resilience.calls.contacts import parse
from resilience.errors import InvalidContact
from resilience.redact import scrub
from tasks.celery import app as celery
from tasks.cli.output import clock, fail, moment, plain, print_json, print_table, say
from tasks.runtime import runtime

app = typer.Typer(help="Look at messages that cannot be a call, send them again, remove them.", no_args_is_help=True)

FIELDS = ("id", "at", "queue", "task", "reason", "contact_id", "campaign", "task_id", "origin", "times", "bytes")
COUNTS = {"times", "bytes"}
TAKEN = {"contact", "campaign", "call_id"}

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of dead letters: see `dead list`.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_letters(as_json: AsJson = False) -> None:
    """List the dead letters, newest first. With --json: one JSON object a line."""
    letters = runtime().dead_letters
    rows = map(_row, letters.all())
    if as_json:
        for row in rows:
            print_json(row)
        return
    page = list(rows)
    if page:
        print_table(
            ["id", "time (UTC)", "queue", "task", "contact", "campaign", "reason"],
            ([row["id"], clock(row["at"]), row["queue"], row["task"], row["contact_id"], row["campaign"], row["reason"]]
             for row in page),
        )  # fmt: skip
    else:
        say("no dead letters")
    if dropped := letters.dropped():
        say(f"{dropped} older ones were dropped for lack of room")


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id: see `dead list`.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why it is dead, who sent it, and what its message says."""
    letter = runtime().dead_letters.get(id) if id.isprintable() else {}
    if not letter:
        fail(f"{id}: there is no such dead letter")
    fields = _row(letter) | {"message": _message(letter)}
    if as_json:
        print_json(fields)
        return
    for name, value in fields.items():
        if value is not None and name != "message":
            say(f"{name:<16} {value}")
    say("")
    for name, text in (fields["message"] or {"": "It was too large to be kept."}).items():
        say(f"{name:<16} {text}")


@app.command()
def requeue(
    ids: Ids = None,
    every: All = False,
    task: Annotated[str | None, typer.Option(help="Send it to this task of ours instead of making it a call.")] = None,
) -> None:
    """Make a call of each letter whose contact can be read, and remove the letter."""
    if task is not None:
        celery.loader.import_default_modules()
        if task not in celery.tasks:
            raise typer.BadParameter(f"{plain(task)} is no task of ours", param_hint="--task")
    refused = False
    for id in _chosen(ids, every):
        letter = runtime().dead_letters.get(id) if id.isprintable() else {}
        try:
            done = _sent(letter, task) if task else _called(letter)
        except (InvalidContact, OperationalError) as exc:
            refused = True
            say(f"{id}: nothing changed: {scrub(str(exc))}")
        else:
            runtime().dead_letters.drop(id)
            say(f"{id}: {done}")
    if refused:
        raise typer.Exit(1)


@app.command()
def drop(ids: Ids = None, every: All = False) -> None:
    """Remove dead letters: what they say is not called."""
    unknown = False
    for id in _chosen(ids, every):
        dropped = id.isprintable() and runtime().dead_letters.drop(id)
        unknown = unknown or not dropped
        say(f"{id}: {'removed' if dropped else 'there is no such dead letter'}")
    if unknown:
        raise typer.Exit(1)


def _chosen(ids: list[str] | None, every: bool) -> list[str]:
    if bool(ids) == every:
        raise typer.BadParameter("name the letters by their ids, or give --all")
    return list(dict.fromkeys(ids or [])) or [letter["id"] for letter in runtime().dead_letters.all()]


def _called(letter: Mapping[str, str]) -> str:
    """Writes the letter's contact to the store. Raises InvalidContact."""
    args, kwargs = _arguments(letter)
    contact = kwargs.get("contact") if kwargs.get("contact") is not None else next(iter(args), None)
    if contact is None:
        raise InvalidContact("it names no contact")
    campaign = kwargs.get("campaign") or (args[1] if len(args) > 1 else "default")
    who = parse(contact)
    id = call_id(campaign, who.id)
    new, _ = runtime().store.enqueue([who], campaign)
    without = ", ".join(sorted(set(kwargs) - TAKEN))
    done = f"is the call {id}" if new else f"is the call {id}, which was known already"
    return plain(f"{done}; left out: {without}" if without else done)


def _sent(letter: Mapping[str, str], task: str) -> str:
    """Sends the letter's arguments to a task. Raises InvalidContact where there are none, OperationalError."""
    args, kwargs = _arguments(letter)
    celery.send_task(task, args, kwargs)
    return f"sent to {task}"


def _arguments(letter: Mapping[str, str]) -> tuple[list[Any], dict[str, Any]]:
    if not letter:
        raise InvalidContact("there is no such dead letter")
    message = json.loads(letter.get("message") or "{}")
    args, kwargs = message.get("args"), message.get("kwargs")
    if not isinstance(args, list) or not isinstance(kwargs, dict) or not (args or kwargs):
        raise InvalidContact("its arguments cannot be read")
    return args, kwargs


def _row(letter: Mapping[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = {name: int(text) if name in COUNTS else text for name, text in letter.items() if text}
    return {name: typed.get(name) for name in FIELDS} | {"at": moment(letter.get("at"))}


def _message(letter: Mapping[str, str]) -> dict[str, str]:
    """The parts of the message as text that may be shown; the bytes of its body only where nothing of it was read."""
    parts = json.loads(letter.get("message") or "{}")
    body = base64.b64decode(parts.pop("body", "")).decode(errors="replace")
    whole = parts | ({} if parts.get("args") or parts.get("kwargs") else {"body": body})
    return {name: scrub(json.dumps(value, ensure_ascii=False), numbers=True) for name, value in whole.items() if value}
