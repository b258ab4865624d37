"""Reads a YAML file and the environment into plain data, and says what is wrong with it.

Every scalar stays text until its field is known, so `no`, `1:30`, `2026-01-01` and a chat id with leading zeros
keep their form. `${NAME}` is expanded after parsing: a variable's value can never become YAML.
Each value remembers the variable it came from, so that a fault can name it. No message shows a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resilience.errors import ConfigError

Key = tuple[str, ...]

_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)(?::-([^{}]*))?\}|\$\{")
_SECRET_KEYS = {"api_key", "password", "token", "secret", "routing_key", "webhook", "apprise"}
_SHOWN = {"value_error", "literal_error", "string_type"}  # the faults whose value helps
_SECRET_VARIABLE = re.compile("KEY|TOKEN|PASS|SECRET")


@dataclass(frozen=True)
class Document:
    """A file's expanded data. `sources` and `missing` map key paths to names of environment variables."""

    name: str
    data: dict[str, Any]
    sources: dict[Key, str] = field(default_factory=dict)
    missing: dict[Key, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """Mappings, sequences and text; nothing else, and no key twice."""

    yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}  # noqa: RUF012 PyYAML's own name
    yaml_constructors = {  # noqa: RUF012
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":map", ":seq", ":str"))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"a second key {key.value}", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node


def read(path: Path, environ: Mapping[str, str], defaults: Mapping[str, Any]) -> Document:
    """Reads `path`; a key it leaves out is taken from `defaults`, which may name variables too.

    Raises ConfigError when the file cannot be read as a mapping. A fault of a single value goes to `faults`.
    """
    try:
        data = _parse(path)
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: must be a mapping of sections, got {kind(data)}")
        document = Document(str(path), {})
        document.data.update(_expand(_merge(data, defaults), (), environ, document))
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply") from None
    return document


def _parse(path: Path) -> Any:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        data = yaml.load(text, _Loader)  # noqa: S506 a SafeLoader with less
    except OSError as exc:
        hint = "; set CONFIG_FILE to the file to use" if isinstance(exc, FileNotFoundError) else ""
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}{hint}") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {exc.start + 1})") from None
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}not valid YAML: {exc.problem or exc.context}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        column = exc.position - text.rfind("\n", 0, exc.position)
        raise ConfigError(f"{path}: line {line}, column {column}: not valid YAML: {exc.reason}") from None
    if data is None:
        raise ConfigError(f"{path}: is empty")
    return data


def _merge(data: Any, defaults: Any) -> Any:
    if not isinstance(data, dict) or not isinstance(defaults, dict):
        return data
    missing = {key: value for key, value in defaults.items() if key not in data}
    return missing | {key: _merge(value, defaults[key]) if key in defaults else value for key, value in data.items()}


def _expand(node: Any, at: Key, environ: Mapping[str, str], document: Document) -> Any:
    if isinstance(node, dict):
        return {key: _expand(value, (*at, key), environ, document) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, (*at, str(i)), environ, document) for i, value in enumerate(node)]

    def replace(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$$":
            return "$"
        if name is None:
            rule = "holds a ${ that is neither ${NAME} nor ${NAME:-default}; write $$ for a plain $"
            document.faults.append(f"{document.name}: {dotted(at)} {rule}")
            return ""
        if value := environ.get(name, "").strip():
            document.sources[at] = f"{document.sources[at]}, {name}" if at in document.sources else name
        elif default is None:
            document.missing[at] = name
        return value or default or ""

    return _VARIABLE.sub(replace, str(node))


def dotted(at: Key) -> str:
    """The key path as a person writes it."""
    return ".".join(part if part.isprintable() else ascii(part) for part in at)


def kind(value: object) -> str:
    """What a value is, without showing it."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value == "" else "text"


def describe(error: ValidationError, document: Document, model: type[BaseModel]) -> list[str]:
    """Every fault of the document, one a line: file, key, rule, value, variable."""
    return document.faults + [_line(fault, document, model) for fault in error.errors()]


def _line(fault: ErrorDetails, document: Document, model: type[BaseModel]) -> str:
    at = tuple(str(part) for part in fault["loc"] if part != "[key]")
    rule = _rule(fault, at, model)
    if not at:  # a rule over several sections names its key itself
        key, _, rule = rule.partition(" ")
        at = tuple(key.split("."))
    variables = ", ".join(name for key, name in document.sources.items() if key[: len(at)] == at)
    if at in document.missing:
        rule = f"needs a value: set the environment variable {document.missing[at]}"
    elif fault["loc"] and fault["loc"][-1] != "[key]" and fault["type"] in _SHOWN:
        rule += _got(at, fault["input"], variables)
    return f"{document.name}: {dotted(at)} {rule}" + (f" (from {variables})" if variables else "")


def _rule(fault: ErrorDetails, at: Key, model: type[BaseModel]) -> str:
    value, ctx = fault["input"], fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return "is missing"
        case "model_type" | "dict_type":
            return "is missing or empty" if value == "" else f"must be a mapping, got {kind(value)}"
        case "extra_forbidden":
            near = difflib.get_close_matches(at[-1], _known(at[:-1], model), 1)
            return "is not a known key" + (f"; did you mean {near[0]}?" if near else "")
        case "literal_error":
            return f"must be {ctx['expected']}"
        case "string_type":
            return "must be text"
    return str(ctx.get("error", fault["msg"]))


def _known(section: Key, model: type[BaseModel]) -> list[str]:
    for key in section:
        if key in model.model_fields:  # else it is the name of a service, whose keys are already at hand
            kinds = (model.model_fields[key].annotation, *get_args(model.model_fields[key].annotation))
            model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def _got(at: Key, value: object, variables: str) -> str:
    if isinstance(value, dict | list) or value == "":
        return f", got {kind(value)}"
    if _SECRET_KEYS & set(at) or _SECRET_VARIABLE.search(variables):
        return ""
    text = str(value)
    if at[0] in {"redis", "broker"} and at[-1] == "url":
        scheme = re.match(r"\w+://", text)  # a password may be anywhere behind it
        text = f"{scheme[0]}..." if scheme else "text without ://"
    elif at[-1].endswith("url"):
        text = re.sub(r"^(\w+://)?.*@", r"\1***@", text)
    return f", got {text if text.isprintable() else ascii(text)}"[:100]
