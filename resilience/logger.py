"""The log: JSON lines in one file, written by many processes, without secrets and phone numbers.

A record is one `write` to a file opened for appending, so lines of different processes never mix. A full file is
renamed by the process that locks it first; the others notice the new file by its inode. A file that cannot be written
never fails a call: its lines go to stderr, with one notice, until it can be written again.
Events have static names; whatever varies is a field. Another library's record is the event `log` with its message.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pythonjsonlogger.json import JsonFormatter

from resilience.redact import MASK, SECRET_NAMES, scrub

CUT = 8192  # characters of a field; a line stays one write
_TAIL = 4096  # longer than any secret: what a cut may have torn in two ends before it
_LOGGER = logging.getLogger("lineman")


class Options(Protocol):
    """Where the log goes: a file that is renamed above `max_bytes`, and how many renamed ones are kept."""

    @property
    def path(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def backups(self) -> int: ...


def log(
    event: str,
    /,
    *,
    level: int = logging.INFO,
    service: str | None = None,
    category: str | None = None,
    retry_count: int | None = None,
    breaker_state: str | None = None,
    call_id: str | None = None,
    attempt_id: str | None = None,
    next_action: str | None = None,
    exc_info: bool | BaseException | None = None,
    **fields: object,
) -> None:
    """Writes one line. Fields that are None are left out; `exc_info` adds the traceback. Raises nothing."""
    known = {
        "service": service,
        "category": category,
        "retry_count": retry_count,
        "breaker_state": breaker_state,
        "call_id": call_id,
        "attempt_id": attempt_id,
        "next_action": next_action,
    }
    _LOGGER.log(level, event, exc_info=exc_info, extra={"lineman": (known, fields)})


def setup(options: Options, *, secrets: Iterable[str], process: str, console: bool = False) -> None:
    """Sends every record of this process to the file of `options`, and with `console` to stderr as well.

    It may be called again, also after a fork: the handlers of the earlier call are replaced.
    """
    handlers: list[logging.Handler] = [_File(options), *([_Console()] if console else [])]
    root = logging.getLogger()
    earlier = [old for old in root.handlers if isinstance(old, _File | _Console)]
    for handler in handlers:
        handler.setFormatter(_Line(process, tuple(secrets)))
        root.addHandler(handler)
    for old in earlier:
        root.removeHandler(old)
        old.close()
    root.setLevel(options.level)


class _Line(JsonFormatter):
    """A record as one line of JSON, scrubbed."""

    def __init__(self, process: str, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._process, self._secrets = process, secrets

    def format(self, record: logging.LogRecord) -> str:
        try:
            record.getMessage()
        except Exception:  # noqa: BLE001 the arguments of another library's record may not fit its text, or fail to print
            record.msg, record.args = f"{_text(record.msg)} {_text(record.args)}", None
        return super().format(record)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        foreign = {"logger": record.name, "message": record.message or message_dict or ""}
        known, fields = getattr(record, "lineman", ({}, foreign))
        event = record.message if "lineman" in vars(record) else "log"
        trace = {key: message_dict[key] for key in ("exc_info", "stack_info") if key in message_dict}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data |= {"timestamp": moment.replace("+00:00", "Z"), "level": record.levelname}
        for key, value in {"event": event, **known, "process": self._process}.items():
            if value is not None:
                log_data[key] = self._clean(key, value)
        log_data["pid"] = record.process
        for key, value in {**fields, **trace}.items():
            if value is not None and key not in log_data:
                log_data[key] = self._clean(key, value)

    def _clean(self, key: str, value: object) -> object:
        if key.lower() in SECRET_NAMES:
            return MASK
        if type(value) is str:
            return self._cut(value)
        try:
            text = json.dumps(value, default=_text, ensure_ascii=False)
            return self._walk(json.loads(text, parse_constant=str)) if len(text) <= CUT else self._cut(text)
        except Exception:  # noqa: BLE001 a cycle, odd keys, a depth, a number of ten thousand digits: all has to pass
            return self._cut(_text(value))

    def _cut(self, text: str) -> str:
        whole = scrub(text[: CUT + _TAIL], self._secrets)
        if len(text) <= CUT + _TAIL:
            return whole if len(whole) <= CUT else f"{whole[:CUT]} [cut]"
        return f"{whole[: min(CUT, max(0, len(whole) - _TAIL))]} [cut]"

    def _walk(self, value: Any) -> Any:
        if isinstance(value, str):
            return scrub(value, self._secrets)
        if isinstance(value, list):
            return [self._walk(item) for item in value]
        if isinstance(value, dict):
            return {
                scrub(key, self._secrets): MASK if key.lower() in SECRET_NAMES else self._walk(item)
                for key, item in value.items()
            }
        return value


def _text(value: object) -> str:
    try:
        return value.decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else repr(value)
    except Exception:  # noqa: BLE001 a repr may raise whatever it likes
        return f"<{type(value).__name__} without a repr>"


class _Console(logging.StreamHandler):  # type: ignore[type-arg]
    """The same lines on stderr: for a terminal, or a container's log."""


class _File(logging.Handler):
    """The log file of all processes: followed when it is rotated, replaced by stderr while it cannot be written."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._path = Path(options.path).absolute()  # the process may change its folder
        self._max_bytes, self._backups = options.max_bytes, options.backups
        self._fd: int | None = None
        self._inode = 0
        self._torn = self._noticed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode() + b"\n"
            try:
                self._write(line)
                self._noticed = False
            except OSError as exc:
                self._to_stderr(line, exc)
        except Exception as exc:  # noqa: BLE001 whatever it is, a line must not fail the call it is about
            self._to_stderr(b"", exc)

    def close(self) -> None:
        self.acquire()
        try:
            self._close()
        finally:
            self.release()
        super().close()

    def _write(self, line: bytes) -> None:
        fd = self._open(len(line))
        if self._torn:  # the disk filled up within the line before
            line = b"\n" + line
        self._torn = os.write(fd, line) < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self, coming: int) -> int:
        """The file at the path now, rotated if `coming` bytes would not fit."""
        fd, size = self._follow()
        if size and size + coming > self._max_bytes and self._rotate():
            fd, _ = self._follow()
        return fd

    def _follow(self) -> tuple[int, int]:
        try:
            now = self._path.stat()
            if self._fd is not None and now.st_ino == self._inode:
                return self._fd, now.st_size
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._close()
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        now = os.fstat(self._fd)
        self._inode = now.st_ino
        return self._fd, now.st_size

    def _rotate(self) -> bool:
        """Renames the file unless another process has done it. False: another is doing it, or it failed."""
        try:
            # A description of its own: a lock on an inherited one would be shared with the forked siblings.
            with self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(file.fileno()).st_ino == self._inode == self._path.stat().st_ino:
                    self._shift()
        except OSError:
            return False
        return True

    def _shift(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{number}") for number in range(1, self._backups + 1))]
        for newer, older in reversed(list(itertools.pairwise(names))):
            with suppress(FileNotFoundError):
                newer.replace(older)

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _to_stderr(self, line: bytes, exc: Exception) -> None:
        notice = b""
        if not self._noticed:
            why = exc.strerror if isinstance(exc, OSError) else type(exc).__name__
            notice = f"lineman: cannot write the log {self._path} ({why}); its lines come here\n".encode()
            self._noticed = True
        with suppress(OSError):
            os.write(2, notice + line)  # the descriptor: Celery turns sys.stderr into a logger
