"""`calls`: what became of each call, and how an operator changes it. Phone numbers are masked, ids are as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Annotated, Any

import typer

from resilience.calls.call import State
from resilience.redact import mask_phone, scrub
from tasks.cli.output import clock, fail, moment, print_json, print_table, say
from tasks.runtime import runtime

app = typer.Typer(help="Look at calls, retry and cancel them.", no_args_is_help=True)

COLUMNS = ("id", "campaign", "contact_id", "phone", "state", "attempts", "reason", "conversation_id", "outcome")
IDS = {"id", "attempt_id", "call_id", "contact_id", "campaign", "conversation_id"}
TIMES = {"created", "updated", "first_dial", "not_before", "doubt_since", "at", "next_at"}
COUNTS = {"attempts", "dials", "looks", "absent", "errors", "gen", "conversations"}
SORTED = 100_000  # calls that are held in memory to be sorted, about 100 MB; of more, each is printed as it comes
PAGE = 500  # rows a table
DONE = {
    "cancel": "cancelled; it is not dialed any more",
    "retry": "queued again; its attempts count from 1",
}
WHY_NOT = {
    State.QUEUED: "it waits for its turn",
    State.DEFERRED: "it goes on by itself when its service is well, see `python -m tasks services list`",
    State.DIALING: "it is left to its own outcome",
    State.IN_DOUBT: "it may have rung and is being looked up",
    State.PLACED: "what was placed is never dialed again",
}

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of calls: CAMPAIGN:CONTACT.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_calls(
    state: Annotated[State | None, typer.Option(help="Only the calls in this state.")] = None,
    campaign: Annotated[str | None, typer.Option(help="Only the calls of this campaign.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the calls. With --json: one JSON object a line."""
    rows = _in_order(map(_row, runtime().store.calls(state=state, campaign=campaign)))
    if as_json:
        for row in rows:
            print_json(row)
        return
    columns = [column for column in COLUMNS if column not in ("campaign", "contact_id")]  # the id holds both
    page = list(islice(rows, PAGE))
    if not page:
        say("no calls")
    while page:
        print_table(columns, ([row[column] for column in columns] for row in page))
        page = list(islice(rows, PAGE))


@app.command()
def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="A call's id: CAMPAIGN:CONTACT.")], as_json: AsJson = False
) -> None:
    """Show one call: its fields and its whole history."""
    store = runtime().store
    call = store.get(id) if id.isprintable() else {}
    if not call:
        fail(f"{id}: there is no such call")
    fields = dict.fromkeys(COLUMNS) | _typed(call)
    history = [_typed(line) for line in store.history(id)]
    if as_json:
        print_json(fields | {"history": history})
        return
    for name, value in fields.items():
        if value not in (None, {}):
            say(f"{name:<16} {json.dumps(value, ensure_ascii=False) if name == 'fields' else value}")
    say("")
    print_table(["time (UTC)", "event", "state", "attempt", "breaker", "reason", "next"], map(_cells, history))


@app.command()
def retry(ids: Ids) -> None:
    """Dial calls again that failed, were cancelled or need review; and now, those that wait for a retry."""
    _command("retry", ids)


@app.command()
def cancel(ids: Ids) -> None:
    """Cancel calls before they are dialed."""
    _command("cancel", ids)


def _command(action: str, ids: list[str]) -> None:
    refused = False
    for id in dict.fromkeys(ids):
        # No call has such an id, and what is not Unicode cannot even be asked for.
        result = runtime().store.command(id, action) if id.isprintable() else None
        if result is not None and result.answer == "done":
            again = action == "retry" and result.state == State.RETRYING
            say(f"{id}: {'dialed next, without waiting any longer' if again else DONE[action]}")
            continue
        refused = True
        if result is None or result.answer == "unknown":
            say(f"{id}: there is no such call")
        else:
            over = action == "cancel" and State(result.state).is_terminal
            why = "it is over already" if over else WHY_NOT.get(State(result.state), "")
            say(f"{id}: nothing changed, it is {result.state}: {why}")
    if refused:
        raise typer.Exit(1)


def _in_order(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    first, more = list(islice(rows, SORTED)), list(islice(rows, 1))
    return chain(first if more else sorted(first, key=lambda row: row["id"]), more, rows)


def _row(call: Mapping[str, str]) -> dict[str, Any]:
    typed = _typed(call)
    return {column: typed.get(column) for column in COLUMNS}


def _typed(texts: Mapping[str, str]) -> dict[str, Any]:
    """The store's texts as what they mean, without the empty ones and without a phone number."""
    return {name: _value(name, text) for name, text in texts.items() if text}


def _value(name: str, text: str) -> Any:
    if name == "phone":
        return mask_phone(text)
    if name == "fields":
        return {scrub(k): scrub(v) if isinstance(v, str) else v for k, v in json.loads(text).items()}
    if name in TIMES:
        return moment(text)
    if name in COUNTS:
        return int(text)
    return text if name in IDS else scrub(text)


def _cells(line: dict[str, Any]) -> list[Any]:
    conversation = line.get("conversation_id")
    why = [line.get("reason"), line.get("code"), line.get("result"), conversation and f"conversation {conversation}"]
    shown = line | {
        "at": clock(line["at"]),
        "why": ", ".join(filter(None, why)),
        "next": clock(line.get("next_at"))[11:],
    }
    return [shown.get(name) for name in ("at", "event", "state", "attempts", "breaker_state", "why", "next")]
