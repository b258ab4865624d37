"""What a message says, whoever sent it and in whichever of Celery's protocols: read once, and checked.

Celery's worker trusts a message's headers and properties, and ends where one is of another type. So nothing of them
goes on but what is checked here. Whatever cannot be read raises `Unreadable`, whose text names no value.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads

from resilience.redact import QUOTED, scrub
from resilience.store.dead_letters import MESSAGE_BYTES, Letter, shown

UNREADABLE = "application/x-unreadable"  # content type of what was no message at all; see worker/envelope.py
ID_CHARS = 200
EMBEDDED = ("callbacks", "errbacks", "chain")


class Unreadable(Exception):
    """A message that no task can be run for."""


@dataclass(frozen=True)
class TaskMessage:
    """A task to run. `eta` and `expires` are moments, `not_before` is a call's, in unix seconds."""

    task: str
    id: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    embed: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    not_before: float | None = None
    origin: str = ""

    def headers(self) -> dict[str, Any]:
        """The headers of Celery's protocol 2, with no phone number in what Flower shows."""
        whole = {"lang": "py", "task": self.task, "id": self.id, "retries": self.retries, "origin": self.origin,
                 "eta": self.eta and self.eta.isoformat(), "expires": self.expires and self.expires.isoformat(),
                 "argsrepr": self._repr(self.args), "kwargsrepr": self._repr(self.kwargs), "ignore_result": True,
                 "timelimit": [None, None], "group": None, "root_id": self.id, "parent_id": None}  # fmt: skip
        return whole | ({} if self.not_before is None else {"not_before": self.not_before})

    def body(self) -> bytes:
        """The body of Celery's protocol 2, as JSON."""
        return json.dumps([self.args, self.kwargs, {"chord": None} | dict(self.embed)], default=str).encode()

    def _repr(self, value: Any) -> str:
        # Only what brings a contact may hold a phone number without its +; the ids of others stay readable.
        bare = "contact" in self.kwargs or bool(self.args)
        return scrub(repr(value)[: 10 * QUOTED], numbers=bare)


def read(message: Any) -> TaskMessage:
    """Reads a message of kombu's. Raises Unreadable."""
    if message.content_type == UNREADABLE:
        raise Unreadable("it is no message of Celery's: " + str(message.headers["reason"]))
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    payload = _payload(message)
    if isinstance(payload, Mapping):  # protocol 1
        headers = {**payload, **headers}
        args, kwargs, embed = payload.get("args", ()), payload.get("kwargs", {}), payload
    elif isinstance(payload, list | tuple) and len(payload) == 3:
        args, kwargs, embed = payload
    else:
        raise Unreadable("its body is not [args, kwargs, embed]")
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise Unreadable("its arguments are no list and no object")
    task = headers.get("task")
    if not isinstance(task, str) or not task:
        raise Unreadable("it names no task")
    id, retries, not_before = headers.get("id"), headers.get("retries"), headers.get("not_before")
    return TaskMessage(
        task=task,
        id=id if isinstance(id, str) and 0 < len(id) <= ID_CHARS and id.isprintable() else str(uuid4()),
        args=args,
        kwargs=kwargs,
        embed={name: embed[name] for name in EMBEDDED if _are_signatures(embed, name)},
        retries=retries if type(retries) is int and 0 <= retries < 2**31 else 0,
        eta=_moment("eta", headers.get("eta")),
        expires=_moment("expires", headers.get("expires")),
        not_before=not_before if isinstance(not_before, float) and math.isfinite(not_before) else None,
        origin=shown(headers.get("origin")),
    )


def _payload(message: Any) -> Any:
    if message.errors:
        raise Unreadable("its body cannot be decompressed")
    try:
        return _decoded(message)
    except ContentDisallowed:
        raise Unreadable("its content is not JSON") from None
    except Exception as exc:
        raise Unreadable("its body is broken JSON") from exc


def _decoded(message: Any) -> Any:
    # Not by the message's own method, which remembers: what it says may be written anew.
    return loads(message.body, message.content_type, message.content_encoding, accept=message.accept)


def _are_signatures(embed: Any, name: str) -> bool:
    """What is to run after the task, as Celery's canvas sends it."""
    value = embed.get(name) if isinstance(embed, Mapping) else None
    return isinstance(value, list) and all(isinstance(v, Mapping) and isinstance(v.get("task"), str) for v in value)


def _moment(name: str, value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        at = value
    else:
        try:
            at = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise Unreadable(f"{name}: must be a time in ISO 8601") from None
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)


def letter(message: Any, reason: str) -> Letter:
    """The dead letter of a message of kombu's. Raises nothing."""
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    args: Any = ()
    kwargs: Any = {}
    try:
        payload = _decoded(message)
        if isinstance(payload, Mapping):
            headers = {**payload, **headers}
            args, kwargs = payload.get("args"), payload.get("kwargs")
        else:
            args, kwargs, _ = payload
    except Exception:  # noqa: BLE001, S110 the headers are all there is to show
        pass
    info = message.delivery_info if isinstance(message.delivery_info, Mapping) else {}
    said = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    if message.content_type != UNREADABLE:
        said["headers"] = {name: value for name, value in headers.items() if name != "redelivered"}
    return compose(
        reason,
        queue=shown(info.get("routing_key")),
        task=headers.get("task"),
        task_id=headers.get("id"),
        origin=headers.get("origin"),
        args=args,
        kwargs=kwargs,
        said=said,
        body=message.body,
    )


def compose(
    reason: str,
    *,
    queue: str,
    task: Any,
    task_id: Any,
    origin: Any,
    args: Any,
    kwargs: Any,
    said: Mapping[str, Any] | None = None,
    body: Any = None,
) -> Letter:
    """A dead letter of these parts; without `body`, of the arguments. Raises nothing."""
    args = args if isinstance(args, list | tuple) else ()
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    contact = kwargs.get("contact") or next(iter(args), None)
    contact = contact if isinstance(contact, Mapping) else {}
    campaign = kwargs.get("campaign") or (args[1] if len(args) > 1 else "default" if contact else "")
    raw = _text(lambda: json.dumps([args, kwargs, {}], default=str)) if body is None else body
    raw = raw if isinstance(raw, bytes) else str(raw or "").encode(errors="replace")
    whole = {**(said or {}), "args": args, "kwargs": kwargs, "body": base64.b64encode(raw).decode()}
    kept = _text(lambda: json.dumps(whole, default=str)) or json.dumps({"body": whole["body"]})
    return Letter(
        queue=queue,
        reason=reason,
        message=kept if len(kept) <= MESSAGE_BYTES else "",
        task=shown(task),
        task_id=shown(task_id),
        origin=shown(origin),
        contact_id=shown(contact.get("id")),
        campaign=shown(campaign),
    )


def _text(dumps: Callable[[], str]) -> str:
    try:
        return dumps()
    except (TypeError, ValueError, RecursionError):
        return ""
