"""How a Sentinel set is named, and how kombu names it."""

from __future__ import annotations

import pytest
from kombu import Connection

from resilience.store.connection import SentinelSet, connect, for_kombu, parse, where

URL = "sentinel://me:p%40w@a:1;sentinel://b;sentinel://[::1]:3/2?master_name=calls&sentinel_password=s%2Fw"


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "sentinel://a:1;sentinel://b;sentinel://me:p%40w@[::1]:3/2?sentinel_password=s%2Fw&master_name=calls",
        "sentinel://me:p%40w@a:1/2;sentinel://me:p%40w@b:26379/2;sentinel://[::1]:3?master_name=calls&sentinel_password=s/w",
    ],
    ids=["as documented", "with the password at the end", "with all of it at each"],
)
def test_what_all_sentinels_share_may_stand_at_any_of_them(url: str) -> None:
    assert parse(url) == SentinelSet((("a", 1), ("b", 26379), ("::1", 3)), "calls", 2, "me", "p@w", "s/w")


def test_kombu_is_told_the_password_at_each_sentinel_and_the_options_beside_the_url() -> None:
    url, options = for_kombu(URL, connect_timeout=0.5)

    with Connection(url, transport_options=options) as connection:
        assert [Connection(alternate).as_uri(include_password=True) for alternate in connection.alt] == [
            "sentinel://me:p%40w@a:1/2",
            "sentinel://me:p%40w@b:26379/2",
            "sentinel://me:p%40w@%3A%3A1:3/2",
        ]
    assert options["master_name"] == "calls"
    assert options["sentinel_kwargs"]["password"] == "s/w"
    assert options["sentinel_kwargs"]["socket_timeout"] == 0.5


@pytest.mark.parametrize("url", ["redis://:p@h:1/2", "amqp://u:p@h//"])
def test_another_broker_is_told_as_it_is(url: str) -> None:
    assert for_kombu(url, connect_timeout=1) == (url, {})


@pytest.mark.parametrize(
    ("url", "at"),
    [
        ("redis://:p%40w@h:1/2", "h:1"),
        (URL, "the primary of calls by 3 sentinels"),
    ],
)
def test_a_server_is_named_without_its_password(url: str, at: str) -> None:
    with connect(url, connect_timeout=1, timeout=1) as client:
        assert where(client) == at
