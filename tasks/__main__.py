"""The command line, for the person on call: `python -m tasks --help`.

Exit status: 0 done, 1 what was asked for did not hold, 2 wrong usage. JSON goes to stdout alone. Where Redis is out
of reach, one sentence says so within seconds. What `--json` prints is an interface; the tables are not.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NoReturn

import redis
import typer
from typer.core import TyperGroup

from resilience.calls.call import call_id
from resilience.calls.contacts import Refusal, Row, read
from resilience.calls.store import BATCH
from resilience.errors import InvalidContact, StoreUnavailable
from tasks.cli import alerts as cli_alerts
from tasks.cli import calls as cli_calls
from tasks.cli import check as cli_check
from tasks.cli import services as cli_services
from tasks.cli.output import fail, print_json, print_table, say
from tasks.runtime import runtime


class Cli(TyperGroup):
    """The commands, without a traceback for what is the fault of Redis or of a file."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StoreUnavailable as exc:
            fail(exc)
        except redis.RedisError as exc:
            fail(f"Redis refused: {exc}")
        except OSError as exc:
            if isinstance(exc, BrokenPipeError):
                raise  # the reader has seen enough: typer ends it quietly
            fail(f"cannot go on: {exc.strerror}")


app = typer.Typer(
    cls=Cli,
    help="Lineman keeps an AI call agent's lines up.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they show local variables: phone numbers and keys
)
app.add_typer(cli_calls.app, name="calls")
app.add_typer(cli_services.app, name="services")
app.add_typer(cli_alerts.app, name="alerts")
app.command()(cli_check.check)


@app.command()
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
    told = f"{count['new']} new, {count['known']} known already, {count['refused']} refused"
    say(f"enqueued {told} (campaign {campaign})")
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
    fail(f"{why}; {count['new']} calls had been written, {count['known']} were known: send the same file again, "
         "known calls are left as they are")  # fmt: skip


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how many calls stand in each state, and the services."""
    calls, services = runtime().store.stats(), cli_services.services()
    if as_json:
        print_json({"calls": calls, "services": services})
        return
    print_table(["state", "calls"], calls.items())
    say("")
    cli_services.print_services(services)


if __name__ == "__main__":
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # a name in a terminal's older encoding
    app()
