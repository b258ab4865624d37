"""Takes secrets and phone numbers out of a text before anybody else sees it.

`scrub` knows the secrets it is given in every spelling they may turn up in (plain, URL-encoded, escaped by JSON or
repr however often, and the path of a secret URL), and the shapes of those it is not given. A phone number is what
starts with + or %2B; a number without it is a timestamp or an id and stays. Rather too much is masked than too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

MASK = "***"
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


def mask_phone(phone: str) -> str:
    """`+4915112345678` as `+49*********78`: the length, a leading +, and two characters at each end stay."""
    plus = re.match(r"\+|\uff0b|%2B|", phone, re.IGNORECASE)
    head = (plus.end() if plus else 0) + 2
    return phone[:head] + "*" * (len(phone) - head - 2) + phone[-2:] if len(phone) > head + 2 else "*" * len(phone)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` with every one of `secrets`, what looks like one, and every phone number masked."""
    known = _known(tuple(secrets))
    text = known.sub(MASK, text) if known else text
    for shape, mask in _SHAPES:
        text = shape.sub(mask, text)
    return _PHONE.sub(lambda match: mask_phone(match[0]), text)


@lru_cache(maxsize=16)
def _known(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    paths = (urlsplit(secret)._replace(scheme="", netloc="").geturl() for secret in secrets if "://" in secret)
    found = {secret for secret in secrets if len(secret) >= _SHORTEST} | {path for path in paths if len(path) >= _PATH}
    spelled = ("".join(map(_spellings, secret)) for secret in sorted(found, key=len, reverse=True))
    return re.compile("|".join(spelled)) if found else None


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
    return f"(?:{plain}{'|[+]' if character == ' ' else ''}|(?i:{'|'.join(escapes)}))"
