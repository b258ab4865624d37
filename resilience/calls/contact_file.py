"""Reads the rows of a CSV or JSON lines file, of any size and any content, as flat mappings.

A bad row affects no other: it becomes a refusal, and reading continues with the line after its start. So an unclosed
quote, a torn row or a line of 10 MB hides nothing that follows. Only a few times 64 kB of text are in memory at a
time. No reason contains a cell's value, so a reason may be logged.

What the rows mean is not decided here; see `contacts`.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from resilience.errors import InvalidContact

ROW_BYTES = 64 * 1024
ROW_LINES = 100
NAME_CHARS = 64
DELIMITERS = ",;\t"
# A column or key with this many digits may be a phone number in the wrong place: a list without a header.
PHONE_DIGITS = 6
SHOWN_COLUMNS, SHOWN_CHARS = 10, 30

_NOT_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TOO_LONG = f"the line is longer than {ROW_BYTES // 1024} kB"
_QUOTES = "a quoted cell is not closed, or goes on after its closing quote"

Line = tuple[int, bytes]
Raw = tuple[int, object]


@dataclass(frozen=True)
class Refusal:
    """A row that is no contact: the line on which it starts, from 1, and the reason, for a person, without a value."""

    line: int
    reason: str


def read(stream: BinaryIO, known: tuple[str, ...], needed: tuple[str, ...]) -> Iterator[Raw | Refusal]:
    """Yields (line, row) or a refusal, in order.

    `known` columns may have any case in a CSV header, and their cells hold one line each. A CSV header without the
    `needed` columns, or with an empty or doubled one, is one refusal and nothing is read. Raises only what `stream`
    raises.
    """
    lines = _lines(stream)
    for number, line in lines:
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        if text.lstrip().startswith(b"{"):
            yield from _json(chain([(number, text)], lines))
        elif text.lstrip().startswith(b"["):
            yield Refusal(number, "a JSON array cannot be read line by line: write one object a line (jq -c '.[]')")
        else:
            yield from _csv(number, text, lines, known, needed)
        return


def field_name(name: object) -> str:
    """Checks the name of a column or a key, and returns it. Raises InvalidContact."""
    if not isinstance(name, str):
        raise InvalidContact("field names: must be text")
    if not 1 <= len(name) <= NAME_CHARS or name != name.strip() or _NOT_A_NAME.search(name):
        raise InvalidContact(f"field names: must be 1 to {NAME_CHARS} characters of UTF-8 text, on one line")
    return name


def shown(name: str) -> str:
    """A field's name in a form that a message may contain."""
    if sum(char.isdigit() for char in name) >= PHONE_DIGITS:
        return "(a number)"
    return "".join(char if char.isprintable() else "?" for char in name[:SHOWN_CHARS])


def _lines(stream: BinaryIO) -> Iterator[Line]:
    """Lines with their ends (LF, CRLF or CR). A line over the bound is cut just past it."""
    number, tail = 1, b""
    while chunk := stream.read(ROW_BYTES):
        pieces = (tail + chunk).splitlines(keepends=True)
        tail = b"" if pieces[-1].endswith(b"\n") else pieces.pop()
        yield from enumerate(pieces, number)
        number += len(pieces)
        if len(tail) > ROW_BYTES:
            # The last byte stays because a CR may be half of a CRLF.
            tail = tail[:ROW_BYTES] + tail[-1:]
    if tail:
        yield number, tail


def _decoded(line: bytes) -> str:
    # Bytes that are not UTF-8 become lone surrogates, which the check of the text refuses: only this row is refused.
    return line.decode("utf-8", "surrogateescape")


def _json(lines: Iterator[Line]) -> Iterator[Raw | Refusal]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            raw = _object(line)
        except InvalidContact as exc:
            yield Refusal(number, str(exc))
        else:
            yield number, raw


def _object(line: bytes) -> object:
    if len(line) > ROW_BYTES:
        raise InvalidContact(_TOO_LONG)
    try:
        return json.loads(_decoded(line.rstrip()), object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as exc:
        raise InvalidContact(f"not valid JSON at column {exc.colno}: {exc.msg}") from None
    except (ValueError, RecursionError):
        raise InvalidContact("not valid JSON: a number is too long, or it is nested too deep") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise InvalidContact("not valid JSON: an object has the same key twice")
    return unique


def _no_constant(constant: str) -> object:
    raise InvalidContact(f"not valid JSON: {constant} is not a number")


def _csv(
    number: int, header: bytes, lines: Iterator[Line], known: tuple[str, ...], needed: tuple[str, ...]
) -> Iterator[Raw | Refusal]:
    try:
        delimiter, columns = _header(header, known, needed)
    except InvalidContact as exc:
        yield Refusal(number, str(exc))
        return
    ahead: deque[Line] = deque()
    while line := _next(ahead, lines):
        taken = [line]
        try:
            row = _record(_texts(taken, ahead, lines), delimiter, columns, known)
        except InvalidContact as exc:
            ahead.extendleft(reversed(taken[1:]))
            yield Refusal(line[0], str(exc))
        else:
            if row:
                yield line[0], row


def _next(ahead: deque[Line], lines: Iterator[Line]) -> Line | None:
    return ahead.popleft() if ahead else next(lines, None)


def _texts(taken: list[Line], ahead: deque[Line], lines: Iterator[Line]) -> Iterator[str]:
    """The row's first line, then the lines that a quoted cell spans, up to the bounds; all are added to `taken`."""
    size = len(taken[0][1])
    if size > ROW_BYTES:
        raise InvalidContact(_TOO_LONG)
    yield _decoded(taken[0][1])
    while len(taken) < ROW_LINES and (line := _next(ahead, lines)):
        taken.append(line)
        size += len(line[1])
        if size > ROW_BYTES:
            return
        yield _decoded(line[1])


def _record(texts: Iterator[str], delimiter: str, columns: list[str], known: tuple[str, ...]) -> dict[str, str]:
    """One row by column; empty where all its cells are blank."""
    try:
        cells = next(csv.reader(texts, delimiter=delimiter, strict=True))
    except csv.Error:
        raise InvalidContact(_QUOTES) from None
    if not any(cell.strip() for cell in cells):
        return {}
    if len(cells) != len(columns):
        fault = "unknown column" if len(cells) > len(columns) else "missing cells"
        raise InvalidContact(f"{fault}: the header has {len(columns)} columns, this row {len(cells)}")
    row = dict(zip(columns, cells, strict=True))
    # Two stray quotes can make one well-formed cell of all the rows between them; these columns reveal it.
    for name in known:
        if len(row.get(name, "").strip().splitlines()) > 1:
            raise InvalidContact(f"{name}: must be one line; is a quote missing?")
    return row


def _header(line: bytes, known: tuple[str, ...], needed: tuple[str, ...]) -> tuple[str, list[str]]:
    """The delimiter and the columns' names."""
    if len(line) > ROW_BYTES:
        raise InvalidContact(_TOO_LONG)
    tables = {mark: _columns(_decoded(line), mark, known) for mark in DELIMITERS}
    mark = max(tables, key=lambda mark: (set(needed) <= set(tables[mark]), len(tables[mark])))
    columns = tables[mark]
    if not set(needed) <= set(columns):
        found = ", ".join(shown(name) for name in columns[:SHOWN_COLUMNS])
        raise InvalidContact(f"the first line must name the columns {' and '.join(needed)}; it names: {found}")
    for place, name in enumerate(columns, 1):
        if not name:
            raise InvalidContact(f"column {place} has no name in the first line")
        field_name(name)
    [(name, times)] = Counter(columns).most_common(1)
    if times > 1:
        raise InvalidContact(f"the first line names the column {shown(name)} twice")
    return mark, columns


def _columns(text: str, delimiter: str, known: tuple[str, ...]) -> list[str]:
    # Not strict: with a delimiter that is not the file's, quotes seem wrong.
    names = [name.strip() for name in next(csv.reader([text], delimiter=delimiter))]
    return [name.lower() if name.lower() in known else name for name in names]
