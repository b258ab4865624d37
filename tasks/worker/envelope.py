"""Keeps what is no message of Celery's from ending a worker: kombu's Redis transport takes each envelope on trust.

kombu 5.7.0 pops an envelope from the list and then decodes it: an envelope that it cannot decode is gone, and its
exception ends the worker. Here the reply of BRPOP is checked before kombu sees it. What cannot be decoded becomes the
body of an envelope that can, so that it is taken, kept and acknowledged like any other. An envelope that would be lost
when it has to be put back (no tag, no way back to its queue, no headers) is given what it lacks.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from kombu.transport.redis import Channel
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from resilience.logger import log
from tasks.message import UNREADABLE

_create_client: Callable[..., Any]
_deliver_fanout: Callable[..., Any]
_create_client, _deliver_fanout = Channel._create_client, Channel._deliver_fanout_message


def install() -> None:
    """Patches kombu. Harmless to repeat."""
    Channel._create_client = _checking_client  # type: ignore[method-assign]
    Channel._deliver_fanout_message = _deliver_sound_fanout  # type: ignore[method-assign]


def _checking_client(channel: Any, asynchronous: bool = False) -> Any:
    client = _create_client(channel, asynchronous)

    def checked(reply: Any, **_: Any) -> Any:
        return (
            (reply[0], envelope(channel, bytes_to_str(reply[0]).rsplit(channel.sep, 1)[0], reply[1])) if reply else None
        )

    client.set_response_callback("BRPOP", checked)
    return client


def envelope(channel: Any, queue: str, item: bytes) -> bytes | str:
    """An envelope that kombu can take from `queue` and put back: the one given, where it is sound."""
    try:
        payload = loads(bytes_to_str(item))
        if _is_sound(payload, queue):
            channel.Message(payload, channel=channel)
            return item
        payload = _mended(payload, queue)
        channel.Message(payload, channel=channel)
        return str(dumps(payload))
    except Exception as exc:  # noqa: BLE001 a stranger's text may fail in any way
        body = base64.b64encode(item).decode()
        headers = {"reason": f"its envelope cannot be read ({type(exc).__name__})"}
        unreadable = {"body": body, "content-type": UNREADABLE, "content-encoding": "binary", "headers": headers}
        return str(dumps(_mended(unreadable | {"properties": {"body_encoding": "base64"}}, queue)))


def _is_sound(payload: Any, queue: str) -> bool:
    properties = payload.get("properties")
    if not isinstance(properties, dict) or not isinstance(payload.get("headers"), dict):
        return False
    back = properties.get("delivery_info")
    known = isinstance(back, dict) and (back.get("exchange"), back.get("routing_key")) in {("", queue), (queue, queue)}
    return known and _is_tag(properties.get("delivery_tag"))


def _is_tag(tag: Any) -> bool:
    return isinstance(tag, str) and 0 < len(tag) <= 200 and tag.isprintable()


def _mended(payload: Any, queue: str) -> dict[str, Any]:
    properties = payload.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    tag = properties.get("delivery_tag")
    back = {"delivery_tag": tag if _is_tag(tag) else str(uuid4())}
    way = {"delivery_info": {"exchange": "", "routing_key": queue}}
    return {**payload, "headers": payload.get("headers") or {}, "properties": {**properties, **back, **way}}


def _deliver_sound_fanout(channel: Any, message: Any, exchange: str) -> Any:
    """Drops a broadcast (of `celery control`, or an event) that is no message: nobody waits for it."""
    try:
        return _deliver_fanout(channel, message, exchange)
    except channel.connection_errors:
        raise
    except Exception as exc:  # noqa: BLE001 likewise
        log("broadcast_dropped", level=logging.WARNING, reason=type(exc).__name__, next_action="none")
        return True
