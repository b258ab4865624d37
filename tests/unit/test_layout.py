"""The rules of the layout that no linter has: names that repeat their folder's, long modules and functions, imports.

Which part may import which is held by import-linter, see pyproject.toml.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

PRODUCT = ("resilience", "services", "web", "tasks")
CODE = (*PRODUCT, "local", "client", "demo", "bench", "docs")
SINGULAR = {"resilience/alerts/alert.py", "resilience/calls/call.py"}  # the one thing that the folder has many of
MODULE, FUNCTION = 250, 40  # lines
FOR_SERVICES = {"errors", "redact", "logger", "alerts.message"}  # of resilience


def files(*folders: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


@pytest.mark.parametrize("path", files(*PRODUCT), ids=str)
def test_no_function_imports_what_is_ours(path: Path) -> None:
    inside = [name for function in functions(path) for node in ast.walk(function) for name in imported(node)]

    assert [name for name in inside if name.partition(".")[0] in PRODUCT] == []


@pytest.mark.parametrize("path", files(*CODE), ids=str)
def test_no_file_repeats_the_name_of_its_folder(path: Path) -> None:
    folder = path.parent.name
    names = (folder, folder.removesuffix("s"))

    assert str(path) in SINGULAR or not (path.stem in names or path.stem.startswith(tuple(f"{n}_" for n in names)))


@pytest.mark.parametrize("path", files(*CODE), ids=str)
def test_modules_and_functions_are_short(path: Path) -> None:
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno}

    assert len((ROOT / path).read_text().splitlines()) <= MODULE
    assert {name: lines for name, lines in long.items() if lines > FUNCTION} == {}


def test_services_may_import_of_resilience_what_is_listed_and_nothing_else() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (c for c in contracts if c["name"].startswith("2."))
    forbidden = contract["forbidden_modules"]

    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files("resilience")}
    free = {name for name in modules if not any(f"{name}.".startswith(f"{other}.") for other in forbidden)}

    assert free == {"resilience", "resilience.alerts", *(f"resilience.{name}" for name in FOR_SERVICES)}
    assert not any("ignore_imports" in contract for contract in contracts)
