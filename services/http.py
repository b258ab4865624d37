"""One HTTP request, sent once: a good answer, or one classified ServiceError.

Nothing is retried and no redirect is followed, because below the task nobody can know whether a repeat would ring a
phone twice. Each request has a new connection: on a kept one, a server that had hung up in between looks just like one
that hung up after the dial. A request is bounded as a whole, see `services.connection`.

No message carries a URL, an exception's text or one of the `secrets`.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_auth_from_url
from urllib3 import exceptions as u3

from resilience.errors import InDoubtError, Sent, ServiceError, TransientError
from services.classification import classify, display_name
from services.connection import Bounds, exchange
from services.failures import doubt, from_exception


@dataclass(frozen=True)
class Answer:
    """A good answer. `headers` go by any case; `body` is the parsed JSON, or the text where it is none."""

    status: int
    headers: Mapping[str, str]
    body: Any


def request(
    method: str,
    url: str,
    *,
    service: str,
    timeout: tuple[float, float],
    headers: Mapping[str, str] | None = None,
    json: object = None,
    data: bytes | str | Mapping[str, str] | None = None,
    params: Mapping[str, str | int] | None = None,
    dial: bool = False,
    secrets: Collection[str] = (),
    expect_json: bool = False,
    accept: Collection[int] = (),
    lease_covers: Callable[[], bool] = lambda: True,
) -> Answer:
    """Send one request. `timeout` is (connect, read) in seconds: connected within the first, over within their sum.

    `lease_covers` is asked once, after the handshake and before the first byte: False raises LeaseExpired. An answer
    with a status in `accept` is returned as it is, for a caller that has to read a refusal's body. Raises ServiceError:
    with `dial`, InDoubtError wherever the phone may have rung; with `expect_json`, also for a good status whose body is
    no JSON.
    """
    wanted = requests.Request(method, url, headers=headers, json=json, data=data, params=params, auth=_auth(url))
    answer = _answer(wanted, Bounds(*timeout, lease_covers), service, dial)
    if isinstance(answer, ServiceError):
        raise answer  # outside of the except block: its context would carry URLs and keys
    if answer.status in accept:
        return answer
    failure = classify(answer.status, answer.body, answer.headers, service=service, dial=dial, secrets=tuple(secrets))
    if failure is None and expect_json and isinstance(answer.body, str):
        failure = unconfirmed_success("not_json", answer.status, service=service, dial=dial)
    if failure is not None:
        raise failure
    return answer


def unconfirmed_success(code: str, status: int, *, service: str, dial: bool) -> ServiceError:
    """The error for a good status whose body is not what was asked for."""
    kind = InDoubtError if dial else TransientError
    text = f"{display_name(service)} answered {status}, but not in the form that was agreed ({code})"
    sent = Sent.UNKNOWN if dial else Sent.YES
    return kind(text + doubt(kind, dial), service=service, code=code, status=status, sent=sent, counts=True)


def _answer(wanted: requests.Request, bounds: Bounds, service: str, dial: bool) -> Answer | ServiceError:
    proxies = {"no_proxy": "*"} if _is_loopback(wanted.url) else {}
    try:
        response, content = exchange(wanted, bounds, proxies=proxies)
    except (OSError, ValueError, u3.HTTPError) as exc:
        return from_exception(exc, service, dial)
    return Answer(response.status_code, response.headers, _parsed(content))


def _auth(url: str) -> Any:
    try:
        auth = get_auth_from_url(url)
    except ValueError:  # the preparing of the request says what is wrong with it
        auth = ("", "")
    # Without an auth of our own, requests would put one from ~/.netrc over our Authorization header.
    return auth if any(auth) else lambda prepared: prepared


def _parsed(content: bytes) -> Any:
    try:
        return jsonlib.loads(content)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
