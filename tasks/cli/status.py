"""`status`: how many calls are in each state, and the services."""

from __future__ import annotations

from typing import Annotated

import typer

from tasks.cli.output import print_json, print_table, say
from tasks.cli.services import print_services, services
from tasks.runtime import runtime


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show how many calls are in each state, and the services."""
    calls, gates = runtime().store.stats(), services()
    if as_json:
        print_json({"calls": calls, "services": gates})
        return
    print_table(["state", "calls"], calls.items())
    say("")
    print_services(gates)
