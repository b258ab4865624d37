"""The command line with all its commands, for the operator on call: `python -m tasks --help`.

Exit status: 0 done, 1 what was asked for did not hold, 2 wrong usage. JSON goes to stdout alone. Where Redis is out
of reach, one sentence says so within seconds. What `--json` prints is an interface; the tables are not.
"""

from __future__ import annotations

from typing import Any

import redis
import typer
from typer.core import TyperGroup

from resilience.errors import StoreUnavailable
from tasks.cli import alerts, calls, check, dead, enqueue, services, status
from tasks.cli.output import fail


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
app.command()(enqueue.enqueue)
app.command()(status.status)
app.command()(check.check)
app.add_typer(calls.app, name="calls")
app.add_typer(services.app, name="services")
app.add_typer(dead.app, name="dead")
app.add_typer(alerts.app, name="alerts")
