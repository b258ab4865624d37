"""The kinds of values config.yml may hold, each with the rule that its error message quotes.

A number may come as text (from YAML or the environment); a bool is none, nor is inf or nan.
A field made by `from_env` is read from its variable even where the file leaves it out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import redis
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo

from resilience.redact import pieces
from resilience.store import connection as redis_client

SERVICES = ("elevenlabs", "crm")
_TOKEN = 16  # characters: what is as long as that in an apprise URL is taken for a token


class Model(BaseModel):
    """A section of config.yml. Its errors show no value: it may be a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)


def from_env(name: str, default: object = "", *, shown: bool = True) -> Any:
    """A field whose default is `${name:-default}`; `shown` says whether a repr may show its value."""
    return Field(default, repr=shown, json_schema_extra={"text": f"${{{name}:-{default}}}"})


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The texts of all `from_env` fields under `model`, nested like it."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.json_schema_extra, dict):
            found[name] = field.json_schema_extra["text"]
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = defaults(field.annotation)
    return {name: value for name, value in found.items() if value}


def secrets(value: object) -> Iterator[str]:
    """Every secret value under `value`, the passwords in its Redis URLs, and the tokens in its apprise URLs."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name, item in value:
            yield from _passwords(item) if name == "url" and isinstance(item, str) else secrets(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from secrets(item)
    elif isinstance(value, tuple):
        for url in (item.get_secret_value() for item in value if isinstance(item, SecretStr)):
            yield url
            # apprise makes other URLs of the pieces; the shorter ones may be plain English.
            yield from pieces(url, _TOKEN)


def _passwords(url: str) -> Iterator[str]:
    for part in {url, *url.split(";")}:  # one or several, see redis_client
        parts = urlsplit(part)
        password, options = parts.netloc.rpartition("@")[0].partition(":")[2], parse_qs(parts.query)
        yield from (password, unquote(password), *options.get("password", []), *options.get("sentinel_password", []))


def _number(of: type[int] | type[float], rule: str, holds: Callable[[float], bool]) -> BeforeValidator:
    def check(value: object) -> float:
        accepted = (str, int) if of is int else (str, int, float)
        try:
            if isinstance(value, accepted) and not isinstance(value, bool):
                number = of(value)
                if math.isfinite(number) and holds(number):
                    return number
        except (ValueError, OverflowError):
            pass  # the rule below says it all
        raise ValueError(rule)

    return BeforeValidator(check)


def not_below(other: str) -> AfterValidator:
    """Refuses a value below that of the field `other`, which is declared before it."""

    def check(value: float, info: ValidationInfo) -> float:
        floor = info.data.get(other, value)
        if value < floor:
            raise ValueError(f"must be >= {other} ({floor:g})")
        return value

    return AfterValidator(check)


def _outlasts_the_polls(value: float, info: ValidationInfo) -> float:
    if {"delay", "interval", "polls"} <= info.data.keys():
        last = info.data["delay"] + (info.data["polls"] - 1) * info.data["interval"]
        if value < last:
            raise ValueError(f"must be >= delay + (polls - 1) * interval ({last:g})")
    return value


def _parses(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and url.isprintable() and " " not in url and parts.port != 0
    except ValueError:
        return False


def _http(url: str) -> str:
    if not _parses(url, ("http", "https")) or not urlsplit(url).hostname or "@" in urlsplit(url).netloc:
        raise ValueError("must be an http(s) URL with a host and without user or password")
    return url.rstrip("/")


def _webhook(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    if url and not (_parses(url, ("http", "https")) and urlsplit(url).hostname):
        raise ValueError("must be an http(s) URL with a host")
    return secret


def _apprise(value: object) -> object:
    items = value.split() if isinstance(value, str) else value
    rule = "must be apprise URLs (service://...), a list or with spaces between"
    if not isinstance(items, list | tuple):
        raise ValueError(rule)  # noqa: TRY004 pydantic takes a ValueError for a fault, a TypeError for a crash
    items = [item for item in items if item != ""]
    for position, item in enumerate(items, 1):
        if not isinstance(item, str) or not re.fullmatch(r"[A-Za-z][\w+.-]*://\S+", item):
            raise ValueError(f"{rule}; number {position} is none")
    return items


def _redis(url: str) -> str:
    if url.startswith(redis_client.SCHEME):
        redis_client.parse(url)
        return url
    if not _parses(url, ("redis", "rediss")):
        raise ValueError("must be a redis://, rediss:// or sentinel:// URL")
    try:
        # Makes no connection: an option that redis-py does not know fails here, not in the first task.
        redis.ConnectionPool.from_url(url).make_connection()
    except (TypeError, ValueError):
        raise ValueError("has an option that redis-py does not know, or a value that does not fit it") from None
    return url


def _broker(url: str) -> str:
    if not url or all(_parses(part, ("amqp", "amqps", "pyamqp")) for part in url.split(";")):
        return url
    if not url.startswith(("redis://", "rediss://", redis_client.SCHEME)):
        raise ValueError("must be an amqp://, redis://, rediss:// or sentinel:// URL")
    return _redis(url)


def _header(secret: SecretStr) -> SecretStr:
    if not all("!" <= character <= "~" for character in secret.get_secret_value()):
        raise ValueError("must be ASCII without spaces")  # else every request would fail in the HTTP library
    return secret


def _address(text: str) -> str:
    if "@" not in text or not text.isprintable():
        raise ValueError("must be an address with an @")
    return text


def _addresses(value: object) -> object:
    items = value.split(",") if isinstance(value, str) else value
    if isinstance(items, list | tuple):
        items = [item.strip() if isinstance(item, str) else item for item in items]
        items = [item for item in items if item != ""]
        if not items or not all(isinstance(item, str) and "@" in item and item.isprintable() for item in items):
            raise ValueError("must be addresses with an @ each, a list or with commas between")
    return items


def _with_elevenlabs(value: object) -> object:
    return {"elevenlabs": "", **value} if isinstance(value, dict) else value


def _service_name(name: str) -> str:
    if name not in SERVICES:
        raise ValueError(f"is not a service; there are {', '.join(SERVICES)}")
    return name


def _filled(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or not text.isprintable() or " " in text:
        raise ValueError("must be a path that starts with /")
    return text


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Seconds = Annotated[float, _number(float, "must be a number of seconds > 0", lambda n: n > 0)]
PerSecond = Annotated[float, _number(float, "must be a number > 0", lambda n: n > 0)]
Factor = Annotated[float, _number(float, "must be a number >= 1", lambda n: n >= 1)]
Rate = Annotated[float, _number(float, "must be in (0, 1]", lambda n: 0 < n <= 1)]
Jitter = Annotated[float, _number(float, "must be in [0, 1]", lambda n: 0 <= n <= 1)]
Count = Annotated[int, _number(int, "must be a whole number >= 1", lambda n: n >= 1)]
Port = Annotated[int, _number(int, "must be a port, 1 to 65535", lambda n: 1 <= n < 1 << 16)]

GiveUp = Annotated[Seconds, AfterValidator(_outlasts_the_polls)]
with_elevenlabs = BeforeValidator(_with_elevenlabs)  # so that its absence is a fault like any other

Text = Annotated[str, AfterValidator(_filled)]
HttpUrl = Annotated[str, AfterValidator(_http)]
HttpPath = Annotated[str, AfterValidator(_path)]
RedisUrl = Annotated[str, AfterValidator(_redis)]
BrokerUrl = Annotated[str, AfterValidator(_broker)]
HeaderSecret = Annotated[SecretStr, AfterValidator(_header)]
WebhookUrl = Annotated[SecretStr, AfterValidator(_webhook)]
AppriseUrls = Annotated[tuple[SecretStr, ...], BeforeValidator(_apprise)]
Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[str, ...], BeforeValidator(_addresses)]
ServiceName = Annotated[str, AfterValidator(_service_name)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
