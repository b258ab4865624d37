"""`enqueue`: writes the contacts of a file or of stdin to the store, in batches."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO, NoReturn

import typer

from resilience.calls.call import call_id
from resilience.calls.contacts import Refusal, Row, read
from resilience.calls.store import BATCH
from resilience.errors import InvalidContact, StoreUnavailable
from tasks.cli.output import fail, say
from tasks.runtime import runtime


def enqueue(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="CSV with a header, or JSON lines; - for stdin.")],
    campaign: Annotated[str, typer.Option(help="Contacts are called once in each campaign.")] = "default",
) -> None:
    """Have the contacts of a list called. Sending a list again is harmless."""
    try:
        call_id(campaign, "")
    except InvalidContact as exc:
        raise typer.BadParameter(str(exc)) from None
    count: Counter[str] = Counter()
    with _opened(file) as stream:
        items = read(stream)
        try:
            while batch := list(islice(items, BATCH)):
                _enqueue(batch, campaign, count)
        except StoreUnavailable as exc:
            _stopped(str(exc), count)
        except OSError as exc:
            _stopped(f"{file} cannot be read any further ({exc.strerror})", count)
    numbers = f"{count['new']} new, {count['known']} known already, {count['refused']} refused"
    say(f"enqueued {numbers} (campaign {campaign})")
    if count["refused"]:
        raise typer.Exit(1)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-" and sys.stdin is not None:
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as exc:
        raise typer.BadParameter(f"{file} cannot be read: {exc.strerror}") from None


def _enqueue(batch: list[Row | Refusal], campaign: str, count: Counter[str]) -> None:
    for item in batch:
        if isinstance(item, Refusal):
            count["refused"] += 1
            with suppress(BrokenPipeError):  # whoever has read enough refusals still wants the other rows
                say(f"line {item.line}: {item.reason}", err=True)
    new, known = runtime().store.enqueue([item.contact for item in batch if isinstance(item, Row)], campaign)
    count.update(new=new, known=known)


def _stopped(why: str, count: Counter[str]) -> NoReturn:
    written = f"{count['new']} calls had been written, {count['known']} were known"
    fail(f"{why}; {written}: send the same file again, known calls are left as they are")
