"""`alerts` on the command line: a test on every channel, what fires and where it was sent, and silences."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import redis
from typer.main import get_command
from typer.testing import CliRunner, Result

from demo.stand_in import StandIn
from resilience.alerts.alert import Alert
from resilience.alerts.incident import Group, Incident, Notice
from resilience.alerts.kinds import Kind
from resilience.alerts.text import render
from resilience.config.settings import load
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.cli.app import app
from tests.store.steps import FAILED, T0, add, attempt, trip
from tests.support import ROOT, leaked_keys

Run = Callable[..., Result]


@pytest.fixture
def provider() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def rt(real_redis: redis.Redis, provider: StandIn) -> Iterator[runtime.Runtime]:
    environment = {
        "ELEVEN_API_KEY": "key",
        "WEBHOOK_URL": f"{provider.url}/webhook",
        "TELEGRAM_BASE_URL": provider.url,
        "TELEGRAM_BOT_TOKEN": "1:bot-secret",
        "TELEGRAM_CHAT_ID": "7",
    }
    built = runtime.build(load(str(ROOT / "config.yml"), environment), Scripts(real_redis))
    yield built
    runtime.install(None)


@pytest.fixture
def run(rt: runtime.Runtime) -> Run:
    runtime.install(rt)

    def invoke(*words: str, status: int = 0) -> Result:
        result = CliRunner().invoke(app, ["alerts", *words], catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    return invoke


def deliver(rt: runtime.Runtime, now: float) -> None:
    rt.collector.collect(now=now)
    for id, channel in rt.sender.take_due(now=now):
        rt.sender.deliver(id, channel, now=now)


def test_every_command_that_an_alert_names_exists() -> None:
    group = Incident("elevenlabs", Kind.CALL_FAILED, 1, 1, 1, new=Group(1, 1, (("spring:1", ""),)), total=1)
    many = replace(group, new=replace(group.new, count=9))
    for kind, notice, held in product(Kind, Notice, (False, True)):
        for incident in (replace(group, kind=kind, held=held), replace(many, kind=kind, ended=2)):
            text = render(Alert("a", 2, ((notice, incident),), ("email",))).text
            named = [text.rpartition("Run: python -m tasks ")[2], *re.findall("`(calls [a-z]+)`", text)]
            for words in map(shlex.split, named):
                at: Any = get_command(app)
                while hasattr(at, "commands"):
                    at = at.commands[words.pop(0)]
                assert at.callback


class TestTest:
    def test_it_goes_the_way_of_every_alert_and_leaves_nothing_to_do(
        self, real_redis: redis.Redis, run: Run, provider: StandIn
    ) -> None:
        printed = run("test").stdout.splitlines()

        assert printed == ["telegram: accepted the test message", "webhook: accepted the test message"]
        assert [alert.subject for alert in provider.alerts.webhooks] == ["[Lineman] test: alerts arrive here"]
        assert not real_redis.exists("{lineman}:alerts:due")
        assert leaked_keys(real_redis) == []

    def test_a_failure_is_printed_and_neither_repeated_nor_reported_by_the_others(
        self, real_redis: redis.Redis, run: Run, rt: runtime.Runtime, provider: StandIn
    ) -> None:
        provider.fault("telegram", "send_message", "internal_error", count=1)

        printed = run("test", status=1).stdout.splitlines()

        assert printed[0].startswith("telegram: failed: Telegram answered 500")
        assert printed[1] == "webhook: accepted the test message"
        assert not real_redis.exists("{lineman}:alerts:due", "{lineman}:events")

    def test_a_channel_that_works_again_is_on_again(
        self, real_redis: redis.Redis, run: Run, rt: runtime.Runtime, provider: StandIn
    ) -> None:
        provider.fault("telegram", "send_message", "refused", count=1)
        trip(rt.breakers["elevenlabs"])
        deliver(rt, T0)
        deliver(rt, T0 + 1)
        assert rt.outbox.off("telegram")

        assert run("test", "telegram").stdout == "telegram: accepted the test message\n"

        assert rt.outbox.off("telegram") is None
        deliver(rt, T0 + 2)
        assert provider.alerts.webhooks[-1].subject.startswith("[Lineman] resolved: alerts by telegram arrive again")
        assert not real_redis.exists("{lineman}:alerts:due")


class TestList:
    def test_nothing_fires(self, run: Run) -> None:
        assert run("list").stdout == "nothing fires\n"
        assert run("list", "--json").stdout == "[]\n"

    def test_what_fires_and_where_it_was_sent(self, run: Run, rt: runtime.Runtime, provider: StandIn) -> None:
        provider.fault("telegram", "send_message", "unavailable", count=1)
        [id] = add(rt.store, "+4915112345678")
        attempt(rt.store, id, FAILED)
        trip(rt.breakers["elevenlabs"], T0)
        deliver(rt, T0)

        printed = run("list").stdout
        [row] = json.loads(run("list", "--json").stdout)

        assert "elevenlabs  service_down  critical  2027-01-15 08:00:00  firing  12 requests in a row failed" in printed
        assert "+4915112345678" not in printed
        assert row["since"] == "2027-01-15T08:00:00.000Z"
        [sent] = row["sent"]
        assert (sent["notice"], sent["at"]) == ("opened", "2027-01-15T08:00:00.000Z")
        outcomes = {name: (c["outcome"], c["attempts"]) for name, c in sent["channels"].items()}
        assert outcomes == {"telegram": ("to be retried", 1), "webhook": ("sent", 1)}
        assert "503" in sent["channels"]["telegram"]["reason"]
        deliver(rt, T0 + 60)

    def test_what_is_over_is_not_listed(self, run: Run, rt: runtime.Runtime) -> None:
        trip(rt.breakers["elevenlabs"], T0)
        deliver(rt, T0)
        rt.breakers["elevenlabs"].control("close", by="ada", now=T0 + 5)
        deliver(rt, T0 + 5)

        assert run("list").stdout == "nothing fires\n"


class TestSilence:
    def test_a_silence_is_set_listed_and_ended(self, run: Run, rt: runtime.Runtime, provider: StandIn) -> None:
        assert "elevenlabs is silenced until " in run("silence", "elevenlabs", "--for", "2h").stdout
        trip(rt.breakers["elevenlabs"], T0)
        deliver(rt, T0)
        [row] = json.loads(run("list", "--json").stdout)
        assert 7100 < row["silenced_for"] <= 7200
        assert "elevenlabs is silenced for another " in run("list").stdout
        assert provider.alerts.webhooks == []

        assert "elevenlabs is not silenced" in run("silence", "elevenlabs", "--off").stdout

        deliver(rt, T0 + 60)
        assert len(provider.alerts.webhooks) == 1

    @pytest.mark.parametrize(
        "words",
        [
            ["elevenlabs"],
            ["elevenlabs", "--for", "2h", "--off"],
            ["elevenlabs", "--for", "soon"],
            ["llm", "--for", "2h"],
        ],
    )
    def test_wrong_usage_silences_nothing(self, run: Run, rt: runtime.Runtime, words: list[str]) -> None:
        result = run("silence", *words, status=2)

        assert words[0] != "llm" or "there are elevenlabs, telegram, webhook, dispatcher" in result.stderr
        assert rt.collector.silences() == {}

    def test_a_channel_and_the_dispatcher_can_be_silenced(self, run: Run, rt: runtime.Runtime) -> None:
        run("silence", "webhook", "--for", "10m")
        run("silence", "dispatcher", "--for", "10m")

        assert sorted(rt.collector.silences()) == ["dispatcher", "webhook"]
