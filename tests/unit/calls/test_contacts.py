"""What counts as a contact, and what a list of any content gives."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilience.calls.contact_file import ROW_BYTES, ROW_LINES
from resilience.calls.contacts import Contact, Refusal, Row, as_dict, parse, read
from resilience.errors import InvalidContact

MOBILE = "+4915112345678"
HEADER = b"id,phone,name\n"


def fictional(count: int) -> list[str]:
    """US numbers kept for fiction, which the numbering plan accepts: 555-0100 to 555-0199 in any area code."""
    return [f"+1{area}555{line:04d}" for area in (202, 212, 415) for line in range(100, 200)][:count]


PHONES = fictional(300)


class Dribble:
    """A stream that gives what it has in pieces of `size` bytes, as a pipe may."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def read(self, _most: int) -> bytes:
        return next(self._chunks, b"")


def stream(chunks: Iterable[bytes]) -> BinaryIO:
    return cast(BinaryIO, Dribble(chunks))


def listed(text: bytes | str) -> list[Row | Refusal]:
    return list(read(io.BytesIO(text if isinstance(text, bytes) else text.encode())))


def ids(items: Iterable[Row | Refusal]) -> list[str]:
    return [item.contact.id for item in items if isinstance(item, Row)]


def refusals(items: Iterable[Row | Refusal]) -> list[tuple[int, str]]:
    return [(item.line, item.reason) for item in items if isinstance(item, Refusal)]


def reason(raw: object) -> str:
    with pytest.raises(InvalidContact) as caught:
        parse(raw)
    return str(caught.value)


def test_a_contact_keeps_its_free_fields_and_drops_those_without_a_value() -> None:
    raw = {"id": " 17 ", "phone": MOBILE, "name": " Anna ", "city": "Köln", "age": 41, "score": 0.5, "vip": True}

    contact = parse({**raw, "note": None})

    assert contact == Contact("17", MOBILE, "Anna", {"city": "Köln", "age": 41, "score": 0.5, "vip": True})
    assert parse(as_dict(contact)) == contact


def test_a_whole_number_is_an_id_and_the_name_may_be_left_out() -> None:
    assert parse({"id": 17, "phone": MOBILE, "name": None}) == Contact("17", MOBILE)


def test_the_shown_form_of_a_contact_hides_phone_name_and_fields() -> None:
    contact = parse({"id": "17", "phone": MOBILE, "name": "Anna", "second": "+4915187654321"})

    assert repr(contact) == "Contact(id='17', phone='+49*********78')"


@pytest.mark.parametrize(
    "written",
    ["+49 151 12345678", "+49-151-12345678", "+49 (0)151 12345678", "+49 (151) 1234.5678", " +49151/12345678 "],
)
def test_a_phone_may_be_written_as_people_write_it(written: str) -> None:
    assert parse({"id": "1", "phone": written}).phone == MOBILE


@pytest.mark.parametrize(
    ("phone", "rule"),
    [
        (None, "phone: is missing"),
        (4915112345678, "phone: must be text"),
        ("", "phone: must be + and"),
        ("0151 12345678", "phone: must be + and"),
        ("0049 151 12345678", "phone: must be + and"),
        ("tel:+4915112345678", "phone: must be + and"),
        ("+4915112345678;ext=5", "phone: must be + and"),
        ("+1415555CALL", "phone: must be + and"),
        ("+٤٩15112345678", "phone: must be + and"),
        ("+49" + "1" * 300, "phone: must be + and"),
        ("+999 151 12345678", "phone: must have a country code that exists"),
        ("+49 1", "phone: must have a country code that exists"),
        ("+1 555 555 0100", "phone: must be a valid number of its country"),
        ("+44 7700 900123", "phone: must be a valid number of its country"),
    ],
)
def test_a_phone_that_cannot_be_dialed_is_refused_with_the_rule(phone: object, rule: str) -> None:
    assert reason({"id": "1", "phone": phone}).startswith(rule)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"id": None}, "id: is missing"),
        ({"id": True}, "id: must be text or a whole number"),
        ({"id": 1.5}, "id: must be text or a whole number"),
        ({"id": 10**5000}, "id: must be a number within 64 bits"),
        ({"id": "  "}, "id: must not be empty"),
        ({"id": "x" * 201}, "id: must be at most 200 characters"),
        ({"id": "a\0b"}, "id: must not contain control or invisible characters"),
        ({"id": "a\u200bb"}, "id: must not contain control or invisible characters"),
        ({"id": "a\ud800"}, "id: must be valid Unicode, saved as UTF-8"),
        ({"name": 5}, "name: must be text"),
        ({"name": "x" * 201}, "name: must be at most 200 characters"),
        ({"name": "Anna\r\nBcc: all"}, "name: must be one line without control characters"),
        ({"city": ["Köln"]}, "field city: must be text or a number, true or false"),
        ({"city": {"de": "Köln"}}, "field city: must be text or a number, true or false"),
        ({"score": float("nan")}, "field score: must be a finite number"),
        ({"score": float("inf")}, "field score: must be a finite number"),
        ({"score": 2**63}, "field score: must be a number within 64 bits"),
        ({"note": "x" * 2001}, "field note: must be at most 2000 characters"),
        ({"note": "a\0"}, "field note: must not contain control characters"),
        ({"note": "\udc80"}, "field note: must be valid Unicode, saved as UTF-8"),
        ({MOBILE: []}, "field (a number): must be text or a number, true or false"),
        ({"": "x"}, "field names: must be 1 to 64 characters of UTF-8 text, on one line"),
        ({"x" * 65: "x"}, "field names: must be 1 to 64 characters of UTF-8 text, on one line"),
        ({"a\nb": None}, "field names: must be 1 to 64 characters of UTF-8 text, on one line"),
        ({5: None}, "field names: must be text"),
        ({f"note{n}": "ü" * 1000 for n in range(9)}, "contact: must be at most 16 kB as JSON"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused_by_its_name(change: dict[object, object], rule: str) -> None:
    assert reason({"id": "1", "phone": MOBILE, **change}) == rule


@pytest.mark.parametrize("raw", [None, 5, "17", ["17", MOBILE]])
def test_what_is_no_object_is_no_contact(raw: object) -> None:
    assert reason(raw) == "contact: must be an object with an id and a phone"


def test_the_numbers_kept_for_fiction_are_valid() -> None:
    assert [parse({"id": 1, "phone": phone}).phone for phone in PHONES] == PHONES


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_read_with_any_usual_delimiter_and_line_end(mark: str, end: str) -> None:
    lines = ["\ufeff ID , Phone,NAME,City", "", f"1,{MOBILE},Anna,Köln", " ", ",,,", f"2,{PHONES[0]},,"]
    text = end.join(line.replace(",", mark) for line in lines)

    assert listed(text) == [
        Row(3, Contact("1", MOBILE, "Anna", {"City": "Köln"})),
        Row(6, Contact("2", PHONES[0], "", {"City": ""})),
    ]


def test_the_delimiter_is_the_one_that_makes_the_columns_appear() -> None:
    items = listed(f'"id";"phone";"a,b,c"\n"1";"{MOBILE}";"x;y"\n')

    assert items == [Row(2, Contact("1", MOBILE, "", {"a,b,c": "x;y"}))]


def test_a_quoted_cell_may_hold_line_ends_and_counts_from_its_first_line() -> None:
    items = listed(f'id,phone,note\n1,{MOBILE},"one\r\ntwo ""2""\n\nfour"\n2,{PHONES[0]},x\n')

    assert items == [
        Row(2, Contact("1", MOBILE, "", {"note": 'one\r\ntwo "2"\n\nfour'})),
        Row(6, Contact("2", PHONES[0], "", {"note": "x"})),
    ]


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ("id,tel", "the first line must name the columns id and phone; it names: id, tel"),
        (f"17,{MOBILE},Anna", "the first line must name the columns id and phone; it names: 17, (a number), Anna"),
        ("a\x1b[31m|b", "the first line must name the columns id and phone; it names: a?[31m|b"),
        ("id,phone,", "column 3 has no name in the first line"),
        ("id,phone,Phone", "the first line names the column phone twice"),
        ("id,phone,city,city", "the first line names the column city twice"),
        ("id,phone," + "x" * 65, "field names: must be 1 to 64 characters of UTF-8 text, on one line"),
        (b"id,phone,\xff", "field names: must be 1 to 64 characters of UTF-8 text, on one line"),
        ("id,phone," + "x," * ROW_BYTES, "the line is longer than 64 kB"),
        ("id".encode("utf-16-le"), "the first line must name the columns id and phone; it names: i?d?"),
        ('[{"id": 1}]', "a JSON array cannot be read line by line: write one object a line (jq -c '.[]')"),
    ],
)
def test_a_list_with_an_unusable_first_line_is_one_refusal(header: str | bytes, rule: str) -> None:
    first = header if isinstance(header, bytes) else header.encode()

    assert listed(first + f"\n1,{MOBILE},x\n".encode()) == [Refusal(1, rule)]


@pytest.mark.parametrize("text", [b"", b"\xef\xbb\xbf", b" \r\n\n", HEADER, HEADER + b"\n,,\n"])
def test_a_list_of_nobody_is_told_so(text: bytes) -> None:
    assert listed(text) == [Refusal(1, "no contacts")]


CSV_FAULTS = [
    (b"1,", "missing cells: the header has 3 columns, this row 2"),
    (b"1,2,3,4", "unknown column: the header has 3 columns, this row 4"),
    (b"," + MOBILE.encode() + b",x", "id: must not be empty"),
    (b"1\0," + MOBILE.encode() + b",x", "id: must not contain control or invisible characters"),
    (b"1," + MOBILE.encode() + b",\xff", "name: must be valid Unicode, saved as UTF-8"),
    (b'1,2,"oops', "a quoted cell is not closed, or goes on after its closing quote"),
    (b'1,2,"oops"x', "a quoted cell is not closed, or goes on after its closing quote"),
    (b"1," + b"2" * 3 * ROW_BYTES + b",x", "the line is longer than 64 kB"),
    (b'1,"' + b"2" * 3 * ROW_BYTES, "the line is longer than 64 kB"),
]


@pytest.mark.parametrize(("fault", "rule"), CSV_FAULTS)
def test_a_bad_csv_row_costs_no_other(fault: bytes, rule: str) -> None:
    good = [f'{n},{PHONES[n]},"Anna"\n'.encode() for n in range(4)]

    items = listed(HEADER + good[0] + good[1] + fault + b"\r\n" + good[2] + good[3])

    assert refusals(items) == [(4, rule)]
    assert ids(items) == ["0", "1", "2", "3"]


def test_a_quote_never_closed_hides_nothing_however_long_the_list() -> None:
    rows = [f"{n},{PHONES[n]},Anna {'x' * 90}\n" for n in range(len(PHONES))]

    items = listed(HEADER.decode() + '"oops\n' + "".join(rows) + '9,9,"end')

    assert len(PHONES) > ROW_LINES
    assert ids(items) == [str(n) for n in range(len(PHONES))]
    assert [line for line, _ in refusals(items)] == [2, len(PHONES) + 3]


def test_two_stray_quotes_hide_no_row_between_them() -> None:
    items = listed(HEADER.decode() + f'1,{PHONES[1]},"Anna\n2,{PHONES[2]},Bob\n3,{PHONES[3]},Carl"\n')

    assert refusals(items) == [(2, "name: must be one line; is a quote missing?")]
    assert ids(items) == ["2", "3"]


JSON_FAULTS = [
    (b'{"id": 1', "not valid JSON at column 9: "),
    (b'{"id": 1} {"id": 2}', "not valid JSON at column 11: Extra data"),
    (b'{"id": 1, "id": 2}', "not valid JSON: an object has the same key twice"),
    (b'{"id": NaN}', "not valid JSON: NaN is not a number"),
    (b'{"id": ' + b"1" * 5000 + b"}", "not valid JSON: a number is too long, or it is nested too deep"),
    (b'{"id": ' + b"[" * 60_000, "not valid JSON: a number is too long, or it is nested too deep"),
    (b'{"id": 1, "phone": "%s", "x": 1e999}' % MOBILE.encode(), "field x: must be a finite number"),
    (b'{"id": 1, "phone": "%s", "x": "\xff"}' % MOBILE.encode(), "field x: must be valid Unicode, saved as UTF-8"),
    (b'{"id": "\\ud800", "phone": "%s"}' % MOBILE.encode(), "id: must be valid Unicode, saved as UTF-8"),
    (b'{"id": "\0"}', "not valid JSON at column 9: Invalid control character at"),
    (b"\xff", "not valid JSON at column 1: Expecting value"),
    (b"[1]", "contact: must be an object with an id and a phone"),
    (b"{" + b" " * 3 * ROW_BYTES, "the line is longer than 64 kB"),
]


@pytest.mark.parametrize(("fault", "rule"), JSON_FAULTS)
def test_a_bad_json_line_costs_no_other(fault: bytes, rule: str) -> None:
    good = [json.dumps({"id": n, "phone": PHONES[n], "vip": True}).encode() + b"\n" for n in range(3)]

    items = listed(b"\n" + good[0] + fault + b"\r\n\r\n" + good[1] + good[2])

    [(line, given)] = refusals(items)
    assert (line, given[: len(rule)]) == (3, rule)
    assert ids(items) == ["0", "1", "2"]


def test_a_first_line_of_json_that_is_too_long_costs_no_other() -> None:
    items = listed(b"{" + b" " * 3 * ROW_BYTES + b'\n{"id": 1, "phone": "%s"}' % MOBILE.encode())

    assert items == [Refusal(1, "the line is longer than 64 kB"), Row(2, Contact("1", MOBILE))]


def test_nobody_is_listed_twice_by_id_or_by_phone() -> None:
    rows = [f"7,{MOBILE}", f"7,{PHONES[0]}", "8,+49 151 12345678", f"8,{PHONES[0]}", f"{MOBILE},{PHONES[1]}"]

    items = listed("id,phone\n" + "\n".join(rows))

    assert refusals(items) == [(3, "same id as line 2"), (4, "same phone as line 2")]
    assert ids(items) == ["7", "8", MOBILE]


def test_a_field_or_a_line_of_many_megabytes_is_never_held() -> None:
    def endless(start: bytes) -> Iterator[bytes]:
        yield HEADER + start
        yield from (b"x" * ROW_BYTES for _ in range(320))
        yield f"\n2,{MOBILE},Anna\n".encode()

    for start in (b"1,", b'1,2,"'):
        tracemalloc.start()
        items = list(read(stream(endless(start))))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert items == [Refusal(2, "the line is longer than 64 kB"), Row(3, Contact("2", MOBILE, "Anna"))]
        assert peak < 10 * ROW_BYTES


ROWS = [b"1,%s,x\n" % PHONES[1].encode(), b'{"id": 2, "phone": "%s"}\n' % PHONES[2].encode(), b"x" * (ROW_BYTES + 1)]
WORDS = [HEADER, b"id;phone\n", b"id", b"phone", b"1", b"NaN", b"\\ud800", MOBILE.encode(), PHONES[0].encode()]
MARKS = [b"\xef\xbb\xbf", b"\xff", b"\0", b" ", b"\t", b"\n", b"\r", b"\r\n", *(bytes([mark]) for mark in b'{}[]",;:')]
hostile = st.lists(st.sampled_from(ROWS + WORDS + MARKS) | st.binary(max_size=8), max_size=40).map(b"".join)


@settings(max_examples=200, deadline=None, database=None)
@given(text=hostile, start=st.sampled_from([b"", HEADER, b'{"id": 1}\n']))
def test_any_bytes_give_only_valid_contacts_and_refusals(text: bytes, start: bytes) -> None:
    items = listed(start + text)

    lines = [item.line for item in items]
    assert lines == sorted(set(lines))
    for item in items:
        if isinstance(item, Row):
            assert parse(as_dict(item.contact)) == item.contact
            assert re.fullmatch(r"\+[1-9][0-9]{1,14}", item.contact.phone)
            json.dumps(as_dict(item.contact), allow_nan=False).encode()
        else:
            assert item.reason.isprintable()


@settings(max_examples=100, deadline=None, database=None)
@given(text=hostile, size=st.integers(1, 9))
def test_how_a_stream_is_cut_changes_nothing(text: bytes, size: int) -> None:
    text = HEADER + text.replace(b"x" * ROW_BYTES, b"")

    cut = stream(text[place : place + size] for place in range(0, len(text), size))

    assert list(read(cut)) == listed(text)


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=20)
bad_rows = st.sampled_from([fault for fault, _ in CSV_FAULTS])


@settings(max_examples=50, deadline=None, database=None)
@given(rows=st.lists(names | bad_rows, max_size=20))
def test_good_rows_among_bad_ones_all_come_out(rows: list[str | bytes]) -> None:
    text, expected = io.BytesIO(HEADER), []
    text.seek(0, io.SEEK_END)
    for n, row in enumerate(rows):
        if isinstance(row, str):
            expected.append(Contact(f"good {n}", PHONES[n], row.strip()))
        text.write(row + b"\n" if isinstance(row, bytes) else written(f"good {n}", PHONES[n], row))

    items = listed(text.getvalue())

    assert [item.contact for item in items if isinstance(item, Row)] == expected


def written(*cells: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode()
