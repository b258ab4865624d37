"""What a contact is, and reading lists of contacts.

`parse` checks one contact, from any source. `read` reads a list of any size and any content: each row becomes a
contact or a refusal with its line. A row with an id or a phone that was already accepted is refused, so that nobody is
called twice. No reason contains a value, so a reason may be logged.

Memory: the bounds of `contact_file`, and an exact index of the accepted ids and phones, 220 MB for a million rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

import phonenumbers

from resilience.calls import contact_file as rows
from resilience.calls.contact_file import Refusal
from resilience.errors import InvalidContact

__all__ = ["Contact", "Refusal", "Row", "Scalar", "as_dict", "parse", "read"]

Scalar = str | int | float | bool

ID_CHARS = NAME_CHARS = 200
TEXT_CHARS = 2000
CONTACT_BYTES = 16 * 1024
E164_CHARS = 16

_NEEDED = ("id", "phone")
_KNOWN = (*_NEEDED, "name")
_NOT_UNICODE = re.compile(r"[\ud800-\udfff]")
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NOT_ONE_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PHONE = re.compile(r"\+[0-9 ().\-/]{1,40}")
_NO_SUCH_PHONE = "phone: must have a country code that exists and the length of that country's numbers"


@dataclass(frozen=True, repr=False)
class Contact:
    """Who is to be called. `phone` is E.164; `fields` are the list's other columns, without None."""

    id: str
    phone: str
    name: str = ""
    fields: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    def __repr__(self) -> str:
        # Without name and fields: they are personal, and a field may hold a second phone number.
        return f"Contact(id={self.id!r}, phone={_masked(self.phone)!r})"


@dataclass(frozen=True)
class Row:
    """A contact and the line on which its row starts, from 1."""

    line: int
    contact: Contact


def parse(raw: object) -> Contact:
    """Checks one contact, given as a flat mapping: `id`, `phone`, `name`, and free fields beside them.

    Raises InvalidContact, whose message names the field and the rule, never the value.
    """
    if not isinstance(raw, Mapping):
        raise InvalidContact("contact: must be an object with an id and a phone")
    free = {rows.field_name(key): value for key, value in raw.items() if key not in _KNOWN}
    fields = {key: _scalar(key, value) for key, value in free.items() if value is not None}
    name = raw.get("name")
    contact = Contact(_id(raw.get("id")), _phone(raw.get("phone")), "" if name is None else _name(name), fields)
    if len(json.dumps(as_dict(contact), ensure_ascii=False).encode()) > CONTACT_BYTES:
        raise InvalidContact(f"contact: must be at most {CONTACT_BYTES // 1024} kB as JSON")
    return contact


def as_dict(contact: Contact) -> dict[str, Scalar]:
    """The flat mapping that `parse` reads back into the same contact."""
    return {"id": contact.id, "phone": contact.phone, "name": contact.name, **contact.fields}


def read(stream: BinaryIO) -> Iterator[Row | Refusal]:
    """Yields each row of a CSV (with a header) or JSON lines file, in order, as a contact or a refusal.

    A row with an id or a phone that was already accepted is refused. Raises only what `stream` raises.
    """
    seen: dict[str | int, int] = {}
    empty = True
    for item in rows.read(stream, _KNOWN, _NEEDED):
        empty = False
        yield item if isinstance(item, Refusal) else _accepted(*item, seen)
    if empty:
        yield Refusal(1, "no contacts")


def _accepted(line: int, raw: object, seen: dict[str | int, int]) -> Row | Refusal:
    try:
        contact = parse(raw)
    except InvalidContact as exc:
        return Refusal(line, str(exc))
    # An int takes half the memory of the text, and no id equals it.
    phone = int(contact.phone)
    if (first := seen.get(contact.id)) is not None:
        return Refusal(line, f"same id as line {first}")
    if (first := seen.get(phone)) is not None:
        return Refusal(line, f"same phone as line {first}")
    seen[contact.id] = seen[phone] = line
    return Row(line, contact)


def _masked(phone: str) -> str:
    return f"{phone[:3]}{'*' * (len(phone) - 5)}{phone[-2:]}"


def _id(value: object) -> str:
    if value is None:
        raise InvalidContact("id: is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidContact("id: must be text or a whole number")
    text = str(_in_64_bits("id", value)) if isinstance(value, int) else _fit("id", value.strip(), ID_CHARS)
    if not text:
        raise InvalidContact("id: must not be empty")
    if not text.isprintable():
        raise InvalidContact("id: must not contain control or invisible characters")
    return text


def _phone(value: object) -> str:
    if value is None:
        raise InvalidContact("phone: is missing")
    if not isinstance(value, str):
        raise InvalidContact("phone: must be text")
    text = value.strip()
    if not _PHONE.fullmatch(text):
        raise InvalidContact("phone: must be + and the country code, then digits, spaces, dashes or brackets")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise InvalidContact(_NO_SUCH_PHONE) from None
    if not phonenumbers.is_possible_number(number):
        raise InvalidContact(_NO_SUCH_PHONE)
    e164 = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    if not phonenumbers.is_valid_number(number) or len(e164) > E164_CHARS:
        raise InvalidContact("phone: must be a valid number of its country")
    return e164


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidContact("name: must be text")
    text = _fit("name", value.strip(), NAME_CHARS)
    if _NOT_ONE_LINE.search(text):
        raise InvalidContact("name: must be one line without control characters")
    return text


def _scalar(key: str, value: object) -> Scalar:
    where = f"field {rows.shown(key)}"
    if isinstance(value, str):
        if _NOT_TEXT.search(_fit(where, value, TEXT_CHARS)):
            raise InvalidContact(f"{where}: must not contain control characters")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidContact(f"{where}: must be a finite number")
    if not isinstance(value, int | float):
        raise InvalidContact(f"{where}: must be text or a number, true or false")
    return _in_64_bits(where, value) if isinstance(value, int) else value


def _fit(where: str, text: str, most: int) -> str:
    if len(text) > most:
        raise InvalidContact(f"{where}: must be at most {most} characters")
    if _NOT_UNICODE.search(text):
        raise InvalidContact(f"{where}: must be valid Unicode, saved as UTF-8")
    return text


def _in_64_bits(where: str, value: int) -> int:
    # Past 4300 digits Python refuses to write an int at all; other readers of the JSON stop far earlier.
    if not -(2**63) <= value < 2**63:
        raise InvalidContact(f"{where}: must be a number within 64 bits")
    return value
