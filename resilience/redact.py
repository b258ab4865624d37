"""Masks secrets and phone numbers in a text that leaves the process: a log line, an alert, an error's message.

`scrub` finds the secrets it is given in any case and in every spelling (plain, URL-encoded, escaped by JSON or repr
any number of times, and the path of a secret URL), and the usual shapes of secrets it is not given. A phone number
begins with + or %2B; any other number may be a timestamp or an id, and is masked only where `numbers` asks for it.
In doubt, `scrub` masks too much rather than too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote, urlsplit

MASK = "***"
QUOTED = 200  # characters of another system's text that a message of ours quotes
SECRET_NAMES = frozenset(
    {"xi-api-key", "authorization", "proxy-authorization", "cookie", "set-cookie"}
    | {"api_key", "api-key", "apikey", "password", "passwd", "secret", "token", "access_token"}
)

_SHORTEST = 4  # a shorter secret would turn every text into stars, and is none
_PATH = 12  # a shorter path of a secret URL says nothing
_NAMES = "|".join(sorted(SECRET_NAMES))
_QUOTED = r"b?(\\*[\"']).{0,512}?\2"
_BARE = r"\\*[\"']?(?:(?:Bearer|Basic)\s+)?[^\s\"',;&}\\]+"
_SHAPES = (
    (re.compile(r"(://)[^\s/?#\"'<>]{1,256}@"), rf"\1{MASK}@"),
    (re.compile(r"(\bbot)\d+(?::|%3A)[\w-]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(?:whsec_[\w+/=-]+|sk[-_][\w-]{8,})"), MASK),
    (re.compile(rf"(\b(?:{_NAMES})\\*[\"']?\s*(?:[:=]|%3D)\s*)(?:{_QUOTED}|{_BARE})", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"\b(Bearer|Basic)\s+(?=\S*\d)[^\s\"',;]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
)
_SEPARATOR = r"(?:[ \t\xa0()./\-\u2010-\u2015]|%20|%28|%29){0,3}"
_PHONE = re.compile(rf"(\+|\uff0b|%2B)(?:{_SEPARATOR}\d){{7,15}}\d*", re.IGNORECASE)
_NUMBER = re.compile(r"\+?\d(?:[ ().-]{0,2}\d){6,}")


def mask_phone(phone: str) -> str:
    """`+4915112345678` as `+49*********78`: the length, a leading +, and two characters at each end stay."""
    plus = re.match(r"\+|\uff0b|%2B|", phone, re.IGNORECASE)
    head = (plus.end() if plus else 0) + 2
    return phone[:head] + "*" * (len(phone) - head - 2) + phone[-2:] if len(phone) > head + 2 else "*" * len(phone)


def mask_address(address: str) -> str:
    """`ann@example.com` as `a***@example.com`."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}{MASK}@{domain}"


def pieces(url: str, shortest: int) -> list[str]:
    """The parts of a secret URL, plain and decoded, that are secret by themselves: `shortest` characters or longer."""
    parts = re.split(r"[/?&=:@,#]+", url)
    return [part for part in {*parts, *map(unquote, parts)} if len(part) >= shortest]


def quoted(text: str, secrets: Iterable[str] = (), *, numbers: bool = False) -> str:
    """Another system's text as a message of ours may quote it: scrubbed, on one line, at most `QUOTED` characters."""
    shown = "".join(c if c.isprintable() else " " for c in scrub(text, secrets, numbers=numbers))
    return " ".join(shown.split())[:QUOTED]


def scrub(text: str, secrets: Iterable[str] = (), *, numbers: bool = False) -> str:
    """`text` with `secrets`, what looks like a secret, and phone numbers masked.

    `numbers` masks every number of seven digits or more, for a text that may hold a phone number without its +.
    """
    known = _known(tuple(secrets))
    text = known.sub(MASK, text) if known else text
    for shape, mask in _SHAPES:
        text = shape.sub(mask, text)
    return _NUMBER.sub("[number]", text) if numbers else _PHONE.sub(lambda match: mask_phone(match[0]), text)


@lru_cache(maxsize=16)
def _known(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    paths = (urlsplit(secret)._replace(scheme="", netloc="").geturl() for secret in secrets if "://" in secret)
    found = {secret for secret in secrets if len(secret) >= _SHORTEST} | {path for path in paths if len(path) >= _PATH}
    spelled = ("".join(map(_spellings, secret)) for secret in sorted(found, key=len, reverse=True))
    return re.compile("|".join(spelled), re.IGNORECASE) if found else None


def _spellings(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    octets = character.encode("utf-8", "surrogatepass")
    escapes = [
        "".join(f"%{octet:02x}" for octet in octets),
        "".join(rf"\\+x{octet:02x}" for octet in octets),
        rf"\\+(?:x|u00){ord(character):02x}" if len(octets) <= 2 else rf"\\+u{ord(character):04x}",
    ]
    plain = r"\\+" if character == "\\" else rf"\\*{re.escape(character)}"
    return f"(?:{plain}{'|[+]' if character == ' ' else ''}|{'|'.join(escapes)})"
