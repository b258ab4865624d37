"""One line a record, whole whatever happens, and nobody's secret or phone number in it."""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from resilience.config.settings import Logging
from resilience.logger import CUT, _File, log, setup
from resilience.redact import mask_phone, scrub

KEY = "sk_5f2c0a9d7e"
PASSWORD = 'p+ä"ss\\w0rd'
WEBHOOK = "https://hooks.example/services/T0000/B0000/XXXX?k=v"
SECRETS = (KEY, PASSWORD, WEBHOOK, "", "ab")
PHONE = "+4915112345678"
FORK = multiprocessing.get_context("fork")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger, which is as it was before when the test is over."""
    root = logging.getLogger()
    level = root.level
    yield root
    for handler in [handler for handler in root.handlers if isinstance(handler, _File | logging.NullHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """Sets the log up; gives what has been written."""
    path = tmp_path / "logs" / "app.log"
    setup(Logging(path=str(path)), secrets=SECRETS, process="test")
    return lambda: [json.loads(line) for line in path.read_text().splitlines()]


def write_many(count: int, **fields: object) -> None:
    for n in range(count):
        log("counted", n=n, padding="x" * (n % 90), **fields)


def fork(work: Callable[[], None]) -> Any:
    process = FORK.Process(target=work)
    process.start()
    return process


def test_a_line_has_its_fields_in_their_order(lines: Lines) -> None:
    log(
        "call_retry_scheduled",
        level=logging.WARNING,
        delay=10.5,
        next_action="retry",
        attempt_id="spring:7:2",
        call_id="spring:7",
        breaker_state="closed",
        retry_count=1,
        category=StrEnum("Category", {"T": "transient"}).T,  # type: ignore[attr-defined]
        service="elevenlabs",
    )

    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert list(line.items()) == [
        ("level", "WARNING"),
        ("event", "call_retry_scheduled"),
        ("service", "elevenlabs"),
        ("category", "transient"),
        ("retry_count", 1),
        ("breaker_state", "closed"),
        ("call_id", "spring:7"),
        ("attempt_id", "spring:7:2"),
        ("next_action", "retry"),
        ("process", "test"),
        ("pid", os.getpid()),
        ("delay", 10.5),
    ]


def test_what_is_not_given_is_left_out(lines: Lines) -> None:
    log("started", reason=None)

    assert set(lines()[0]) == {"timestamp", "level", "event", "process", "pid"}


def test_a_field_cannot_take_the_place_of_another(lines: Lines) -> None:
    log("started", timestamp="then", pid=1, process="other", message="m", name="n", args=1)

    (line,) = lines()
    assert (line["process"], line["pid"]) == ("test", os.getpid())
    assert (line["message"], line["name"], line["args"]) == ("m", "n", 1)


def test_a_level_below_the_configured_one_is_not_written(tmp_path: Path) -> None:
    setup(Logging(path=str(tmp_path / "app.log"), level="WARNING"), secrets=(), process="test")

    log("quiet")
    log("loud", level=logging.WARNING)

    assert [json.loads(line)["event"] for line in (tmp_path / "app.log").read_text().splitlines()] == ["loud"]


def test_another_library_writes_json_lines_too(lines: Lines) -> None:
    logging.getLogger("kombu.connection").info("Connected to %s", "redis://:pw@h/0", extra={"data": {"phone": PHONE}})
    logging.getLogger("celery").warning("%d%%", "not a number")
    logging.getLogger("celery").warning({"a": "dict"})

    first, second, third = lines()
    assert (first["event"], first["logger"], first["message"]) == (
        "log",
        "kombu.connection",
        "Connected to redis://***@h/0",
    )
    assert "not a number" in second["message"]
    assert third["message"] == {"a": "dict"}


def chain(everything: str) -> None:
    try:
        json.loads(f"{{{everything}")
    except ValueError as exc:
        exc.add_note(everything)
        path = WEBHOOK.removeprefix("https://hooks.example")
        raise ConnectionError(f"{everything}: max retries exceeded with url: {path}") from exc


def plant() -> None:
    """Secrets and phone numbers in every place a record can have."""
    everything = f"{KEY} {PASSWORD} {WEBHOOK} {PHONE}"
    spelled = [quote(PASSWORD), quote(PASSWORD, safe="").lower(), quote(PHONE)]
    spelled += [
        repr(PASSWORD),
        json.dumps(PASSWORD),
        repr(json.dumps(PASSWORD)),
        ascii(PASSWORD),
        repr(PASSWORD.encode()),
    ]
    log(everything, service=everything, next_action=everything, call_id=f"spring:{PHONE}", anything=everything)
    log("nested", a={"b": [{everything: (everything, everything.encode(), {everything})}]}, spelled=spelled)
    log("objects", error=ValueError(everything), secret=SecretStr(KEY), raw=everything.encode(), odd={(everything,): 1})
    log("long", text="x" * (CUT - 5) + everything, listed=[everything] * 10_000)
    log(
        "named",
        headers={"xi-api-key": "never-shown-1", "Authorization": "Bearer never-shown-2"},
        password="never-shown-3",
    )
    foreign = logging.getLogger("requests.vendor")
    foreign.error(everything)
    foreign.error("%s %s", everything, {"k": everything})
    foreign.error("%d", everything, stack_info=True)
    try:
        chain(everything)
    except ConnectionError as exc:
        log("failed", level=logging.ERROR, exc_info=exc)
        foreign.exception(everything)


def test_no_secret_and_no_phone_number_is_written_anywhere(lines: Lines, tmp_path: Path) -> None:
    plant()

    records = lines()
    text = (tmp_path / "logs" / "app.log").read_text()
    readable = text + "".join(map(repr, records)) + "".join(json.dumps(r, ensure_ascii=False) for r in records)
    hidden = [
        KEY,
        PASSWORD,
        "B0000",
        "15112345",
        "never-shown",
        "ss\\w0rd",
        "ss\\\\w0rd",
        "w0rd",
        "%C3%A4%22",
        "%c3%a4%22",
    ]
    assert [secret for secret in hidden if secret in readable] == []
    assert len(records) == 10
    assert "ConnectionError" in records[-1]["exc_info"]
    assert "JSONDecodeError" in records[-1]["exc_info"]


@pytest.mark.usefixtures("lines")
def test_nothing_is_written_to_stderr_while_the_file_can_be(capfd: pytest.CaptureFixture[str]) -> None:
    plant()

    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("phone", "masked"),
    [
        (PHONE, "+49*********78"),
        ("+1 (212) 555-0199", "+1 ************99"),
        ("%2B4915112345678", "%2B49*********78"),
        ("015112345678", "01********78"),
        ("+491", "****"),
        ("", ""),
    ],
)
def test_a_masked_phone_keeps_its_length_and_its_ends(phone: str, masked: str) -> None:
    assert mask_phone(phone) == masked


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"call {PHONE}.", "call +49*********78."),
        (f"spring:{PHONE}:2", "spring:+49*********78:2"),
        (f"a={PHONE},{PHONE}", "a=+49*********78,+49*********78"),
        ("call +49 (151) 123-45 678 now", "call +49***************78 now"),
        ("to=%2B49151%201234567&x=1", "to=%2B49***********67&x=1"),
        ("to=%2b4915112345678", "to=%2b49*********78"),
        ("\uff0b4915112345678", "\uff0b49*********78"),
        ("xi-api-key: abcdef", "xi-api-key: ***"),
        ("{'xi-api-key': 'a b', 'x': 1}", "{'xi-api-key': ***, 'x': 1}"),
        (r'"{\"password\": \"a b\", \"x\": 1}"', r'"{\"password\": ***, \"x\": 1}"'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("sent Bearer abc.def123", "sent Bearer ***"),
        ("/bot123:AA-b_c/sendMessage", "/bot***/sendMessage"),
        ("/bot123%3AAA-b_c/sendMessage", "/bot***/sendMessage"),
        ("redis://:pw@h:6379/0", "redis://***@h:6379/0"),
        ("https://user:p%40w@h/a@b", "https://***@h/a@b"),
        ("whsec_MfKQ9r8+/= and sk-proj-abcdef123", "*** and ***"),
        ("GET /v1?api_key=abc&x=1", "GET /v1?api_key=***&x=1"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, clean: str) -> None:
    assert scrub(text) == clean
    assert scrub(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "1764000000000",
        "conv_01jabc4915112345678",
        "spring:4915112345678:1",
        "20261124:550e8400-e29b-41d4-a716-446655440000",
        "2026-11-24T07:01:00.123456+00:00",
        "Tue, 24 Nov 2026 07:01:00 +0100",
        "next try in 10+5 s, 3+4 calls, +12 %",
        "the task-abcdefgh is at risk-12345678",
        "max_tokens=500, the token expired; bearer of bad news",
        "https://api.example/v1/convai/conversations?user_id=spring:7&page_size=100",
        "ab and a shorter secret",
    ],
)
def test_what_only_resembles_one_stays(text: str) -> None:
    assert scrub(text, SECRETS) == text


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_any_value_becomes_one_line(lines: Lines) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    deep: list[object] = []
    for _ in range(700):
        deep = [deep]
    odd = [
        cycle,
        deep,
        {(1, 2): 3},
        {b"k": 1},
        {1, 2},
        float("nan"),
        [float("inf")],
        10**5000,
        "\ud800\x00\n\r\u2028",
        Hostile(),
    ]

    for value in odd:
        log("odd", value=value)

    assert len(lines()) == len(odd)
    assert lines()[-1]["value"] == "<Hostile without a repr>"
    assert lines()[5]["value"] == "NaN"


def test_a_huge_field_is_cut_and_no_part_of_a_secret_is_left_at_the_cut(lines: Lines) -> None:
    log("huge", text="x" * 10_000_000)
    for start in range(CUT - 12, CUT + 2):
        log("torn", text="x" * start + KEY + "y" * 10_000)

    huge, *torn = lines()
    assert huge["text"] == "x" * CUT + " [cut]"
    assert not [line for line in torn if "sk_" in line["text"] or len(line["text"]) > CUT + 6]


def test_processes_write_whole_lines_and_lose_none_while_the_file_is_rotated(tmp_path: Path) -> None:
    settings = Logging(path=str(tmp_path / "app.log"), max_bytes=20_000, backups=50)
    setup(settings, secrets=(), process="parent")

    def inherits() -> None:
        write_many(300, by=os.getpid())

    def sets_up_itself() -> None:
        setup(settings, secrets=(), process="child")
        write_many(300, by=os.getpid())

    children = [fork(work) for work in (inherits, sets_up_itself) * 2]
    write_many(300, by=os.getpid())
    for child in children:
        child.join(10)

    files = sorted(tmp_path.iterdir())
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [child.exitcode for child in children] == [0] * 4
    assert len(files) > 5
    assert len({(record["by"], record["n"]) for record in records}) == len(records) == 5 * 300
    assert {record["pid"] == record["by"] for record in records} == {True}


def test_threads_write_whole_lines_while_the_file_is_rotated(tmp_path: Path) -> None:
    setup(Logging(path=str(tmp_path / "app.log"), max_bytes=5_000, backups=99), secrets=(), process="test")
    threads = [threading.Thread(target=write_many, args=(100,)) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    records = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert len(records) == 400


def test_rotation_keeps_so_many_files_and_the_newest_lines(tmp_path: Path) -> None:
    setup(Logging(path=str(tmp_path / "app.log"), max_bytes=1_000, backups=2), secrets=(), process="test")

    write_many(100)

    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.log", "app.log.1", "app.log.2"]
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 1_000
    numbers = [
        json.loads(line)["n"]
        for name in ("app.log.2", "app.log.1", "app.log")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert numbers == list(range(numbers[0], 100))


def test_a_file_another_process_is_rotating_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    setup(Logging(path=str(path), max_bytes=500), secrets=(), process="test")

    write_many(1)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        write_many(10)
    held = [file.name for file in tmp_path.iterdir()]
    write_many(1)

    assert held == ["app.log"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.log", "app.log.1"]


def test_a_file_another_process_has_rotated_is_not_rotated_again(tmp_path: Path, root: logging.Logger) -> None:
    path = tmp_path / "app.log"
    setup(Logging(path=str(path), max_bytes=500), secrets=(), process="test")
    (ours,) = [handler for handler in root.handlers if isinstance(handler, _File)]
    write_many(1)

    path.rename(tmp_path / "app.log.1")
    path.write_text("the new one\n")
    ours._rotate()  # as it goes on when its look at the size was a moment too early

    assert path.read_text() == "the new one\n"


def test_a_file_somebody_else_moved_or_removed_is_replaced(lines: Lines, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "app.log"
    log("first")
    path.rename(path.with_suffix(".old"))
    log("second")
    path.unlink()
    path.parent.joinpath("app.old").unlink()
    path.parent.rmdir()
    log("third")

    assert [line["event"] for line in lines()] == ["third"]


def test_setting_up_twice_writes_each_record_once_and_leaks_nothing(tmp_path: Path, root: logging.Logger) -> None:
    settings = Logging(path=str(tmp_path / "app.log"))
    other = logging.NullHandler()
    root.addHandler(other)
    setup(settings, secrets=(), process="first")
    log("warm")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(5):
        setup(settings, secrets=(), process="second")
        log("again")

    records = [json.loads(line) for line in (tmp_path / "app.log").read_text().splitlines()]
    assert [record["process"] for record in records] == ["first"] + ["second"] * 5
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert other in root.handlers


def test_a_path_that_cannot_be_written_is_told_once_and_the_lines_go_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    setup(Logging(path=str(tmp_path / "logs" / "app.log")), secrets=SECRETS, process="test")

    log("first", key=KEY)
    log("second")
    (tmp_path / "logs").unlink()
    log("third")

    notice, *rest = capfd.readouterr().err.splitlines()
    assert notice.startswith("lineman: cannot write the log ")
    assert [(json.loads(line)["event"]) for line in rest] == ["first", "second"]
    assert KEY not in "".join(rest)
    assert json.loads((tmp_path / "logs" / "app.log").read_text())["event"] == "third"


def test_a_full_disk_fails_no_call(capfd: pytest.CaptureFixture[str]) -> None:
    setup(Logging(path="/dev/full"), secrets=(), process="test")

    log("first")
    log("second")

    notice, *rest = capfd.readouterr().err.splitlines()
    assert "No space left on device" in notice
    assert [json.loads(line)["event"] for line in rest] == ["first", "second"]


@pytest.mark.usefixtures("lines")
def test_a_line_the_disk_took_half_of_spoils_no_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "logs" / "app.log"
    log("first", so_that="what stderr is captured in stays below the limit" * 40)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        log("second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log("third")

    first, torn, third = path.read_text().splitlines()
    assert (json.loads(first)["event"], len(torn), json.loads(third)["event"]) == ("first", 20, "third")
    assert json.loads(capfd.readouterr().err.splitlines()[1])["event"] == "second"


def test_a_closed_stderr_fails_no_call_either() -> None:
    def write() -> None:
        os.close(2)
        setup(Logging(path="/dev/full"), secrets=(), process="test")
        log("first")
        os._exit(7)

    child = fork(write)
    child.join(10)

    assert child.exitcode == 7


def test_the_file_stays_where_it_was_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    setup(Logging(path="app.log"), secrets=(), process="test")

    monkeypatch.chdir(tmp_path / "elsewhere")
    log("first")

    assert (tmp_path / "app.log").exists()
