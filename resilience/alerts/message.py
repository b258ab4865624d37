"""One message to the admin, the same for every channel and on every retry.

`id` names the message: a receiver that has seen it can drop the repeat. `key` names what the message is about: the
first one, its reminders and the `resolved` share it, so that a mail thread or an incident is one. Two outages of a
service have one key and differ in `data["since"]`, the ISO time of the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CUT = "\n[cut]"


@dataclass(frozen=True)
class Message:
    """`kind` and `service` say what happened where. `text` is plain; `html`, where given, says the same as a page."""

    id: str
    key: str
    status: Literal["firing", "resolved", "info"]
    severity: Literal["critical", "warning", "info"]
    kind: str
    service: str
    subject: str
    text: str
    html: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def cut(text: str, limit: int) -> str:
    """`text`, with a mark at its end where it was longer than `limit` UTF-16 code units."""
    units = text.encode("utf-16-le", "replace")  # a lone surrogate would be refused as not UTF-8
    if len(units) <= 2 * limit:
        return units.decode("utf-16-le")
    # "ignore" drops the half of a character that the cut may have left.
    return units[: 2 * (limit - len(CUT))].decode("utf-16-le", "ignore") + CUT
