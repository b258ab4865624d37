"""Connects to the store: one Redis, or the primary of a set that Sentinel watches.

Timeouts are short and repeats few, because redis-py's defaults stall for up to a minute. A set is named as in kombu,
with its options behind it: `sentinel://USER:PASSWORD@HOST:PORT;sentinel://HOST:PORT/DB?master_name=NAME`. User and
password are those of the data nodes; `sentinel_password` is an option of its own. After a failover the next command
goes to the new primary; while there is none, it raises redis.ConnectionError within seconds, like a Redis that is down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection

SCHEME = "sentinel://"
PORT = 26379
OPTIONS = {"master_name", "sentinel_password"}


@dataclass(frozen=True)
class SentinelSet:
    """The sentinels and the name of the primary they watch. `password` is that of the data nodes."""

    sentinels: tuple[tuple[str, int], ...]
    master_name: str
    db: int
    user: str
    password: str = field(repr=False)
    sentinel_password: str = field(repr=False)


def parse(url: str) -> SentinelSet:
    """The set that `url` names. Raises ValueError where it names none; the message quotes nothing of the URL."""
    try:
        parts = [urlsplit(part) for part in url.split(";")]
        sound = all(part.scheme == "sentinel" and part.hostname and part.port != 0 for part in parts)
        sound = sound and url.isprintable() and " " not in url
    except ValueError:  # it quotes the URL
        sound = False
    if not sound:
        raise ValueError("must be sentinel://HOST:PORT URLs with ; between")
    options = dict(parse_qsl(_one([part.query for part in parts], "list of options"), keep_blank_values=True))
    if options.keys() - OPTIONS or not options.get("master_name"):
        raise ValueError("must end with /DB?master_name=NAME; the only other option is sentinel_password")
    db = _one([part.path.strip("/") for part in parts], "number of a database") or "0"
    if not (db.isascii() and db.isdigit()):
        raise ValueError("must have a number between the / and the ?, the database's")
    user, _, password = _one([part.netloc.rpartition("@")[0] for part in parts], "user and password").partition(":")
    return SentinelSet(
        sentinels=tuple((str(part.hostname), part.port or PORT) for part in parts),
        master_name=options["master_name"],
        db=int(db),
        user=unquote(user),
        password=unquote(password),
        sentinel_password=options.get("sentinel_password", ""),
    )


def _one(values: list[str], what: str) -> str:
    distinct = {value for value in values if value}
    if len(distinct) > 1:
        raise ValueError(f"must have one {what} for all its sentinels")
    return distinct.pop() if distinct else ""


def connect(url: str, *, connect_timeout: float, timeout: float) -> redis.Redis:
    """A client for the store; timeouts in seconds, two repeats."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": timeout,
        "socket_keepalive": True,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.05), 2),
        "client_name": "lineman",
    }
    if not url.startswith(SCHEME):
        return redis.Redis.from_url(url, **options)
    of = parse(url)
    options |= {"db": of.db, "username": of.user or None, "password": of.password or None}
    sentinel = Sentinel(of.sentinels, sentinel_kwargs=_asking(of, connect_timeout), **options)
    client: redis.Redis = sentinel.master_for(of.master_name, connection_class=_ToPrimary)
    return client


def for_kombu(url: str, *, connect_timeout: float) -> tuple[str, dict[str, Any]]:
    """The same server in kombu's form: the URL, with the password at each sentinel, and the transport options."""
    if not url.startswith(SCHEME):
        return url, {}
    of = parse(url)
    login = f"{quote(of.user, safe='')}:{quote(of.password, safe='')}@" if of.user or of.password else ""
    hosts = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in of.sentinels]
    options = {"master_name": of.master_name, "sentinel_kwargs": _asking(of, connect_timeout)}
    return ";".join(f"{SCHEME}{login}{host}/{of.db}" for host in hosts), options


def where(client: redis.Redis) -> str:
    """The server's address, for a person; for a set also its name and the number of its sentinels."""
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        address = "{}:{}, ".format(*pool.master_address) if pool.master_address else ""
        return f"{address}the primary of {pool.service_name} by {len(pool.sentinel_manager.sentinels)} sentinels"
    at = pool.connection_kwargs
    return str(at.get("path") or f"{at.get('host')}:{at.get('port')}")


def _asking(of: SentinelSet, connect_timeout: float) -> dict[str, Any]:
    # No repeats, and a short wait for the answer: each connection asks all sentinels in turn.
    asked: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "socket_timeout": connect_timeout}
    asked |= {"socket_connect_timeout": connect_timeout}
    return asked | ({"password": of.sentinel_password} if of.sentinel_password else {})


class _ToPrimary(SentinelManagedConnection):
    """Asks the sentinels whenever it connects.

    redis-py 8.1 asks for a new connection only: a repeated command goes to the address it had. And it does not notice
    a demoted primary when a script fails on it, because Redis 6.2 hides READONLY in the script's error.
    """

    def connect(self) -> None:
        try:
            self._connect_retry()  # the command's own repeats are enough; here they would multiply
        except MasterNotFoundError as exc:
            raise MasterNotFoundError("no sentinel that answers knows a primary that is up") from exc

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:
            self.connect()
        super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.ResponseError as exc:
            if "READONLY" not in str(exc):
                raise
            self.disconnect()
            raise redis.ConnectionError("the primary has become a replica") from exc
