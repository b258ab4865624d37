"""All messages that people can see in one file, messages.txt, for a reviewer to read at once.

They are collected from the source: what is logged, raised, printed, and the command line's help. `UPDATE=1` in the
environment rewrites the file.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from resilience.store.events import Event
from tests.support import ROOT

FILE = ROOT / "tests/unit/messages.txt"
HEAD = """The messages, as the source has them; {name} is a value. A line that begins with "log" is an event of the log.
The alerts as they are sent are in tests/unit/alerts/texts.txt.
"""
FOLDERS = ("resilience", "services", "web", "tasks", "local", "client", "demo")
TEXT = re.compile(r"[A-Za-z}][a-z'}]*[,:;.]? [A-Za-z`{(-]")  # two words
LOGGED = ("reason", "next_action")  # the fields of an event that are sentences
Text = ast.Constant | ast.JoinedStr


def shown(node: ast.AST) -> str:
    """A text with its placeholders, or the name of a value."""
    text = "..."
    match node:
        case ast.Constant():
            text = str(node.value)
        case ast.JoinedStr():
            text = "".join(map(shown, node.values))
        case ast.FormattedValue():
            text = f"{{{'' if isinstance(node.value, Text) else shown(node.value)}}}"
        case ast.Name():
            text = node.id
        case ast.Attribute():
            text = node.attr
        case ast.Subscript() if isinstance(node.slice, ast.Constant):
            text = str(node.slice.value)
        case ast.Call():
            text = shown(node.args[0] if node.args and not has_text(node.args[0]) else node.func)
    return text


def has_text(node: ast.AST) -> bool:
    return any(isinstance(inner, ast.Constant) and isinstance(inner.value, str) for inner in ast.walk(node))


def is_command(node: ast.AST) -> bool:
    """Its docstring is its help: it is decorated as a command."""
    return any("command(" in ast.unparse(each) for each in getattr(node, "decorator_list", ()))


def of_log(call: ast.Call) -> Iterator[str]:
    """The event with its sentences, and the texts of what is neither."""
    event = call.args[0]
    names = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
    sentences = [k for k in call.keywords if k.arg in LOGGED and isinstance(k.value, Text)]
    yield "; ".join([f"log {' or '.join(map(shown, names))}", *(f"{k.arg}: {shown(k.value)}" for k in sentences)])
    for keyword in call.keywords:
        if keyword not in sentences:
            yield from texts(keyword.value)


def of_text(node: Text) -> Iterator[str]:
    """The text, and those inside its placeholders."""
    if isinstance(node, ast.JoinedStr) or isinstance(node.value, str):
        yield from [shown(node)] if TEXT.search(shown(node)) else []
    for part in node.values if isinstance(node, ast.JoinedStr) else []:
        yield from texts(part.value) if isinstance(part, ast.FormattedValue) else []


def texts(node: ast.AST) -> Iterator[str]:
    """The texts below a node, in the order of the source."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "log":
        yield from of_log(node)
    elif isinstance(node, Text):
        yield from of_text(node)
    else:
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        docstring = node.body[0] if documented and ast.get_docstring(node) else None
        if is_command(node):
            yield ast.get_docstring(node) or ""
        for child in ast.iter_child_nodes(node):
            yield from texts(child) if child is not docstring else []


def of_lua(source: str) -> Iterator[str]:
    for text in re.findall(r"'([^'\n]*)'", re.sub(r"--.*", "", source)):
        if TEXT.search(text) or text in set(Event):
            yield text


def of_file(path: Path) -> list[str]:
    source = path.read_text()
    found = texts(ast.parse(source)) if path.suffix == ".py" else of_lua(source)
    commands = re.findall(r"app\.command\(\)\((\w+)\.\1\)", source)  # those that a module of their own has
    helps = [getattr(import_module(f"tasks.cli.{name}"), name).__doc__ for name in commands]
    return [" ".join(text.split()) for text in dict.fromkeys([*found, *helps])]


def collected() -> str:
    """The whole file: the messages by file, each once, in the order of the source."""
    paths = [path for folder in FOLDERS for end in ("py", "lua") for path in sorted((ROOT / folder).rglob(f"*.{end}"))]
    found = {path.relative_to(ROOT): of_file(path) for path in paths}
    return "\n".join([HEAD, *("\n".join([f"== {path}", *lines, ""]) for path, lines in found.items() if lines)])


def test_the_messages_are_those_of_the_file() -> None:
    messages = collected()
    if os.environ.get("UPDATE"):
        FILE.write_text(messages)

    assert messages == FILE.read_text(), "read what changed, then run this test with UPDATE=1 in the environment"
