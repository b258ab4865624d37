"""The command line: what the person on call reads, and what a script may rely on (JSON and exit status)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from typer.testing import CliRunner, Result

from demo.stand_in import StandIn
from local.redis_server import RedisServer
from resilience.calls.call import State, Verdict
from resilience.calls.contacts import Contact
from resilience.calls.store import CallStore
from resilience.circuit_breaker import Outcome, Report
from resilience.config.settings import load
from resilience.store.scripts import Scripts
from tasks import runtime
from tasks.cli.app import app
from tests.store.steps import DOUBT, FAILED, PLACED, RETRY, T0, attempt, claim
from tests.support import ROOT, wait_until

PHONE = "+4915112345678"
LIST = f"id,phone,name\n1,{PHONE},Ada\n2,0151 12345678,Bob\n3,+4915112345679,Eve\n"
NOWHERE = "redis://127.0.0.1:1/0"
FILLER = "#" * 70_000  # a reader takes in as much before it hands out what came before

Install = Callable[..., runtime.Runtime]
Run = Callable[..., Result]


@pytest.fixture
def install(real_redis: redis.Redis) -> Iterator[Install]:
    """Builds and installs the runtime of this environment, on the real Redis."""

    def build(**environment: str) -> runtime.Runtime:
        settings = load(str(ROOT / "config.yml"), {"ELEVEN_API_KEY": "key", **environment})
        built = runtime.build(settings, Scripts(real_redis))
        runtime.install(built)
        return built

    yield build
    runtime.install(None)


@pytest.fixture
def store(install: Install) -> CallStore:
    return install().store


@pytest.fixture
def run(install: Install) -> Run:
    """Runs a command in this process."""
    install()

    def invoke(*words: str, stdin: str = "", status: int = 0) -> Result:
        result = CliRunner().invoke(app, words, input=stdin, catch_exceptions=False)
        assert result.exit_code == status, result.output
        return result

    return invoke


def add(store: CallStore, *ids: str, campaign: str = "spring") -> list[str]:
    """Enqueues contacts with numbers of their own. Returns the calls' ids."""
    store.remember(False)
    store.enqueue([Contact(id, f"+49151123{n:05}") for n, id in enumerate(ids)], campaign, now=T0)
    return [f"{campaign}:{id}" for id in ids]


def one_of_each(store: CallStore) -> dict[State, str]:
    """A call in each state but deferred. Returns their ids."""
    ended = {State.PLACED: PLACED, State.FAILED: FAILED, State.RETRYING: RETRY, State.IN_DOUBT: DOUBT}
    states = [State.QUEUED, State.DIALING, State.CANCELLED, *ended]
    ids = dict(zip(states, add(store, *states), strict=True))
    claim(store, ids[State.DIALING])
    store.command(ids[State.CANCELLED], "cancel", now=T0)
    for state, verdict in ended.items():
        attempt(store, ids[state], verdict)
    return ids


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestEnqueue:
    def test_good_rows_go_through_and_refused_ones_are_reported_by_line_without_their_value(
        self, run: Run, store: CallStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "contacts.csv"
        path.write_text(LIST)

        result = run("enqueue", str(path), "--campaign", "spring", status=1)

        assert result.stdout == "enqueued 2 new, 0 known already, 1 refused (campaign spring)\n"
        assert result.stderr.startswith("line 3: phone: must be ")
        assert len(result.stderr.splitlines()) == 1
        assert "0151" not in result.stderr
        assert store.get("spring:1")["phone"] == PHONE

    def test_json_lines_from_stdin_may_be_sent_again(self, run: Run) -> None:
        contact = json.dumps({"id": "1", "phone": PHONE})

        first, again = run("enqueue", "-", stdin=contact), run("enqueue", "-", stdin=contact)

        assert first.stdout == "enqueued 1 new, 0 known already, 0 refused (campaign default)\n"
        assert again.stdout == "enqueued 0 new, 1 known already, 0 refused (campaign default)\n"

    def test_an_empty_list_is_no_success(self, run: Run) -> None:
        result = run("enqueue", "-", status=1)

        assert result.stderr == "line 1: no contacts\n"

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            (["no-such-file"], "no-such-file cannot be read: No such file or directory"),
            (["/"], "/ cannot be read: Is a directory"),
            (["-", "--campaign", "a:b"], "campaign: must be 1 to 64 letters"),
            ([], "Missing argument"),
        ],
    )
    def test_wrong_usage_enqueues_nothing(self, run: Run, store: CallStore, words: list[str], shown: str) -> None:
        result = run("enqueue", *words, stdin=LIST, status=2)

        assert shown in result.stderr
        assert sum(store.stats().values()) == 0

    def test_a_list_of_several_batches_goes_in_whole(self, run: Run, store: CallStore) -> None:
        result = run("enqueue", "-", stdin=f"id,phone\n{numbered(0, 450)}")

        assert result.stdout.startswith("enqueued 450 new, 0 known already, 0 refused")
        assert store.stats()[State.QUEUED] == 450


class TestStatus:
    def test_json_counts_every_state_and_lists_the_services(self, run: Run, store: CallStore) -> None:
        one_of_each(store)

        shown = json.loads(run("status", "--json").stdout)

        assert set(shown) == {"calls", "services"}
        assert shown["calls"] == {state: int(state not in ("deferred", "needs_review")) for state in State}
        assert shown["services"] == json.loads(run("services", "list", "--json").stdout)

    def test_people_get_two_tables(self, run: Run, store: CallStore) -> None:
        add(store, "1", "2")

        words = [line.split() for line in run("status").stdout.splitlines()]

        assert ["queued", "2"] in words
        assert ["elevenlabs", "closed", "now", "unknown", "0"] in words


class TestCallsList:
    def test_json_lines_have_exactly_the_agreed_fields_sorted_by_id(self, run: Run, store: CallStore) -> None:
        ids = add(store, "b", "a", "c")
        attempt(store, ids[0], PLACED)

        shown = lines(run("calls", "list", "--json"))

        assert [call["id"] for call in shown] == ["spring:a", "spring:b", "spring:c"]
        assert list(shown[1].items()) == [
            ("id", "spring:b"),
            ("campaign", "spring"),
            ("contact_id", "b"),
            ("phone", "+49*********00"),
            ("state", "placed"),
            ("attempts", 1),
            ("reason", None),
            ("conversation_id", "conv_1"),
            ("outcome", None),
        ]

    def test_state_and_campaign_choose(self, run: Run, store: CallStore) -> None:
        store.command(add(store, "1", "2")[0], "cancel", now=T0)
        add(store, "9", campaign="autumn")

        cancelled = lines(run("calls", "list", "--json", "--state", "cancelled"))
        autumn = lines(run("calls", "list", "--json", "--campaign", "autumn"))

        assert [call["id"] for call in cancelled] == ["spring:1"]
        assert [call["id"] for call in autumn] == ["autumn:9"]
        assert run("calls", "list", "--campaign", "winter").stdout == "no calls\n"

    def test_an_unknown_state_is_answered_with_those_there_are(self, run: Run) -> None:
        result = run("calls", "list", "--state", "ringing", status=2)

        assert all(f"'{state}'" in result.stderr for state in State)

    def test_a_table_shows_ids_as_they_are_on_one_line_each(self, run: Run, store: CallStore) -> None:
        strange = f"[red]{'x' * 150}[/red] :warning:"
        add(store, strange)

        header, row = run("calls", "list").stdout.splitlines()

        assert header.split() == ["id", "phone", "state", "attempts", "reason", "conversation_id", "outcome"]
        assert row.startswith(f"spring:{strange} ")


class TestCallsShow:
    def test_json_has_all_fields_and_the_history(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")
        attempt(store, id, RETRY)

        shown = json.loads(run("calls", "show", id, "--json").stdout)

        assert shown["phone"] == "+49*********00"
        assert (shown["state"], shown["attempts"], shown["outcome"]) == ("retrying", 1, None)
        assert shown["not_before"] == "2027-01-15T08:00:05.000Z"
        assert [step["event"] for step in shown["history"]] == ["call_queued", "call_dialing", "call_retrying"]
        assert shown["history"][2]["next_at"] == shown["not_before"]

    def test_people_get_the_history_as_a_table(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")
        attempt(store, id, RETRY)

        table = run("calls", "show", id).stdout.split("\n\n")[1].splitlines()

        assert table[0].split() == ["time", "(UTC)", "event", "state", "attempt", "breaker", "reason", "next"]
        assert table[-1].split() == [
            "2027-01-15", "08:00:00", "call_retrying", "retrying", "1", "closed", "503,", "http_503", "08:00:05",
        ]  # fmt: skip

    def test_both_conversations_of_a_call_that_rang_twice_are_named(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")
        attempt(store, id, DOUBT)
        store.resolve(id, 0, "found", ["conv_1", "conv_2"], now=T0)

        assert "conversation conv_1 conv_2" in run("calls", "show", id).stdout

    @pytest.mark.parametrize("id", ["spring:9", "", "spring:\x1b[31m", "\udcff"])
    def test_an_unknown_id_is_reported(self, run: Run, id: str) -> None:
        result = run("calls", "show", id, status=1)

        assert result.stderr.endswith(": there is no such call\n")
        assert "\x1b" not in result.stderr


class TestCallsRetryAndCancel:
    def test_each_id_gets_a_line_and_a_refused_one_the_exit_status(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")

        result = run("calls", "cancel", id, "spring:9", "\udcff", id, status=1)

        assert result.stdout.splitlines() == [
            "spring:1: cancelled; it is not dialed any more",
            "spring:9: there is no such call",
            "?: there is no such call",
        ]

    @pytest.mark.parametrize(
        ("action", "changed"),
        [
            ("cancel", {State.QUEUED, State.RETRYING, State.CANCELLED}),
            ("retry", {State.RETRYING, State.FAILED, State.CANCELLED}),
        ],
    )
    def test_only_what_may_change_is_changed(
        self, run: Run, store: CallStore, action: str, changed: set[State]
    ) -> None:
        ids = one_of_each(store)

        for state, id in ids.items():
            result = run("calls", action, id, status=0 if state in changed else 1)

            assert len(result.stdout.splitlines()) == 1
            assert (f"nothing changed, it is {state}: " in result.stdout) == (state not in changed)

    def test_a_failed_call_is_queued_again(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")
        attempt(store, id, FAILED)

        run("calls", "retry", id)

        assert store.get(id)["state"] == State.QUEUED


class TestServices:
    def test_json_lists_the_enabled_services(self, run: Run, install: Install) -> None:
        assert json.loads(run("services", "list", "--json").stdout) == [
            {
                "name": "elevenlabs", "state": "closed", "retry_after": 0, "health": "unknown", "reason": None,
                "by": None, "since": None, "deferred": 0, "paused": 0,
            }
        ]  # fmt: skip

        install(CRM_API_KEY="key")

        assert [s["name"] for s in json.loads(run("services", "list", "--json").stdout)] == ["elevenlabs", "crm"]

    def test_a_hold_lasts_until_it_is_released(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("USER", "ada")

        shown = run("services", "hold", "elevenlabs", "--reason", "new key").stdout
        (row,) = json.loads(run("services", "list", "--json").stdout)

        assert shown == (
            "elevenlabs is held. Nothing is sent until `python -m tasks services release elevenlabs`; 0 calls wait.\n"
        )
        assert (row["state"], row["retry_after"], row["reason"], row["by"]) == ("held", None, "new key", "operator ada")
        assert run("services", "release", "elevenlabs").stdout.startswith("elevenlabs is half_open. The next request ")
        assert run("services", "close", "elevenlabs").stdout.startswith("elevenlabs is closed. Requests go out again")

    @pytest.mark.parametrize("action", ["hold", "open"])
    @pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400)])
    def test_a_hold_and_an_open_may_end_by_themselves(self, run: Run, action: str, text: str, seconds: float) -> None:
        shown = run("services", action, "elevenlabs", "--for", text).stdout
        (row,) = json.loads(run("services", "list", "--json").stdout)

        assert "Nothing is sent until 20" in shown
        assert seconds - 5 < row["retry_after"] <= seconds

    @pytest.mark.parametrize(
        "words",
        [
            ["hold", "elevenlab"],
            ["release", "crm"],
            *(
                ["hold", "elevenlabs", "--for", text]
                for text in ("0", "-5", "10x", "m", "٣m", "1e9", "721h", "nan", "")
            ),
            ["release", "elevenlabs", "--for", "10m"],
            ["close", "elevenlabs", "--for", "10m"],
        ],
    )
    def test_wrong_usage_moves_no_gate(self, run: Run, words: list[str]) -> None:
        result = run("services", *words, status=2)

        assert words[1] == "elevenlabs" or "there are elevenlabs" in result.stderr
        assert json.loads(run("services", "list", "--json").stdout)[0]["state"] == "closed"

    @pytest.mark.parametrize("action", ["release", "close"])
    def test_a_gate_that_was_not_changed_is_shown_with_its_state(self, run: Run, action: str) -> None:
        shown = run("services", action, "elevenlabs", status=1).stderr

        assert shown.startswith("elevenlabs was not changed: it is closed. Requests go out again; ")


class TestAlertsTest:
    @pytest.fixture
    def provider(self) -> Iterator[StandIn]:
        with StandIn() as stand_in:
            yield stand_in

    def test_a_marked_message_goes_through_each_channel_and_a_failure_stops_no_other(
        self, run: Run, install: Install, provider: StandIn
    ) -> None:
        install(
            WEBHOOK_URL=f"{provider.url}/webhook",
            TELEGRAM_BASE_URL=provider.url,
            TELEGRAM_BOT_TOKEN="bot-secret",
            TELEGRAM_CHAT_ID="7",
        )
        provider.fault("telegram", "send_message", "internal_error", count=1)

        shown = run("alerts", "test", status=1).stdout.splitlines()

        assert shown[0].startswith("telegram: failed: ")
        assert shown[1] == "webhook: accepted the test message"
        assert [alert.subject for alert in provider.alerts.webhooks] == ["[Lineman] test: alerts arrive here"]
        assert run("alerts", "test", "telegram").stdout == "telegram: accepted the test message\n"

    def test_without_a_channel_the_variables_are_named(self, run: Run) -> None:
        everything = run("alerts", "test", status=1).stderr

        assert all(name in everything for name in ("SMTP_HOST", "TELEGRAM_BOT_TOKEN", "WEBHOOK_URL"))
        assert run("alerts", "test", "webhook", status=1).stderr == (
            "webhook is not configured: set WEBHOOK_URL for webhook\n"
        )

    def test_an_unknown_channel_is_wrong_usage(self, run: Run) -> None:
        assert "there are email, telegram, webhook" in run("alerts", "test", "fax", status=2).stderr


class TestCheck:
    @pytest.fixture
    def optional(self, run: Run) -> None:
        """Redis needs no persistence."""
        redis_settings = runtime.runtime().settings.redis.model_copy(update={"persistence": "optional"})
        settings = runtime.runtime().settings.model_copy(update={"redis": redis_settings})
        runtime.install(replace(runtime.runtime(), settings=settings))

    def marks(self, result: Result) -> dict[str, str]:
        return {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()}

    def test_warnings_are_no_failure(self, run: Run, optional: None) -> None:
        assert self.marks(run("check")) == {
            "config": "ok", "alerts": "warn", "redis": "ok", "eviction": "ok", "appendonly": "warn",
            "dispatcher": "warn", "broker": "ok",
        }  # fmt: skip

    def test_a_redis_without_its_file_fails_where_persistence_is_required(self, run: Run) -> None:
        assert self.marks(run("check", status=1))["appendonly"] == "FAIL"

    def test_a_dispatcher_that_goes_round_is_seen(self, run: Run, store: CallStore) -> None:
        store.dispatch(10)

        assert self.marks(run("check", status=1))["dispatcher"] == "ok"

    def test_a_missing_key_names_its_variable(self, run: Run, install: Install) -> None:
        install(ELEVEN_API_KEY="")

        shown = run("check", status=1).stdout

        assert "FAIL  key         services.elevenlabs.api_key: set the environment variable ELEVEN_API_KEY" in shown

    def test_a_redis_that_evicts_fails(self, run: Run, real_redis: redis.Redis) -> None:
        real_redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            result = run("check", status=1)
        finally:
            real_redis.config_set("maxmemory-policy", "noeviction")

        assert self.marks(result)["eviction"] == "FAIL"

    def test_a_broker_of_its_own_is_asked(self, run: Run, install: Install, redis_server: RedisServer) -> None:
        install(BROKER_URL=redis_server.url)
        assert self.marks(run("check", status=1))["broker"] == "ok"

        install(BROKER_URL="redis://:hush@127.0.0.1:1/0")
        result = run("check", status=1)

        assert self.marks(result)["broker"] == "FAIL"
        assert "hush" not in result.output


class TestWhatTheOutsideMayNotDo:
    def test_a_reason_cannot_steer_the_terminal_nor_show_a_phone_number(self, run: Run, store: CallStore) -> None:
        (id,) = add(store, "1")
        nasty = f"\x1b[2J\x9b31m\r\u202e [bold]no[/bold] {PHONE}"
        attempt(store, id, Verdict(State.FAILED, Report(Outcome.REFUSED, code="x"), reason=nasty))
        run("services", "hold", "elevenlabs", "--reason", nasty)

        for words in (["calls", "list"], ["calls", "show", id], ["services", "list"], ["status"]):
            for shown in (run(*words).stdout, run(*words, "--json").stdout):
                assert all(c.isprintable() or c == "\n" for c in shown)
                assert PHONE not in shown
            assert words == ["status"] or "[bold]no[/bold]" in run(*words).stdout

    def test_a_phone_number_in_a_free_field_is_masked(self, run: Run, store: CallStore) -> None:
        store.enqueue([Contact("1", PHONE, "Ada", {"second": "+49 151 1234 5670"})], "spring", now=T0)

        for words in (["calls", "show", "spring:1"], ["calls", "show", "spring:1", "--json"]):
            assert "1234" not in run(*words).stdout


def start(*words: str, redis_url: str = NOWHERE, **environment: str) -> subprocess.Popen[str]:
    """Starts a command as a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ELEVEN_", "BROKER_", "CONFIG_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tasks", *words],
        cwd=ROOT,
        env=kept | {"REDIS_URL": redis_url, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def execute(*words: str, stdin: str = "", **options: str) -> tuple[int, str, str]:
    """Runs a command to its end: exit status, stdout, stderr."""
    with start(*words, **options) as run:
        out, err = run.communicate(stdin, timeout=30)
    assert "Traceback" not in err
    return run.returncode, out, err


def numbered(start: int, count: int) -> str:
    """Rows of a list with numbers of their own."""
    return "".join(f"{n},+49151{n:08}\n" for n in range(10_000_000 + start, 10_000_000 + start + count))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may end."""
    with RedisServer(tmp_path) as server:
        yield server


class TestAsAProcess:
    def test_a_list_from_a_pipe_is_seen_by_the_next_command(self, store: CallStore, redis_server: RedisServer) -> None:
        enqueued = execute("enqueue", "-", "--campaign", "spring", stdin=LIST, redis_url=redis_server.url)
        status, out, err = execute("calls", "list", "--json", redis_url=redis_server.url)

        assert (enqueued[0], enqueued[1].count("\n"), enqueued[2].count("\n")) == (1, 1, 1)
        assert [json.loads(line)["id"] for line in out.splitlines()] == ["spring:1", "spring:3"]
        assert (status, err) == (0, "")

    @pytest.mark.parametrize("as_json", [["--json"], []], ids=["json", "table"])
    def test_a_reader_that_has_seen_enough_is_no_trouble(
        self, store: CallStore, redis_server: RedisServer, as_json: list[str]
    ) -> None:
        add(store, *map(str, range(2_000)))

        with start("calls", "list", *as_json, redis_url=redis_server.url) as listing:
            first = listing.stdout.readline()
            listing.stdout.close()
            shown = listing.stderr.read()

        assert first.startswith('{"id": "spring:0"' if as_json else "id ")
        assert shown == ""

    def test_a_reader_of_the_refusals_that_goes_away_costs_no_good_row(
        self, store: CallStore, redis_server: RedisServer
    ) -> None:
        with start("enqueue", "-", redis_url=redis_server.url) as run:
            run.stderr.close()
            run.stdin.write("id,phone\nx,bad\n" + numbered(0, 250) + "y,bad\n" + numbered(250, 250))
            run.stdin.close()
            shown = run.stdout.read()

        assert shown == "enqueued 500 new, 0 known already, 2 refused (campaign default)\n"
        assert store.stats()[State.QUEUED] == 500

    @pytest.mark.parametrize(
        "words",
        [["status", "--json"], ["calls", "retry", "spring:1"], ["services", "hold", "elevenlabs"], ["enqueue", "-"]],
        ids=" ".join,
    )
    def test_without_redis_one_sentence_says_so(self, words: list[str]) -> None:
        status, out, err = execute(*words, stdin=LIST)

        assert (status, out) == (1, "")
        assert err.splitlines()[-1].startswith("Redis is out of reach (ConnectionError)")

    def test_check_says_which_redis_it_cannot_reach(self) -> None:
        status, out, _ = execute("check", ELEVEN_API_KEY="key")

        assert status == 1
        assert "FAIL  redis       127.0.0.1:1 cannot be used: " in out

    def test_a_redis_that_goes_away_within_a_list_leaves_a_count(self, own_redis: RedisServer) -> None:
        with (
            redis.Redis.from_url(own_redis.url, decode_responses=True) as client,
            start("enqueue", "-", redis_url=own_redis.url) as run,
        ):
            run.stdin.write("id,phone\n" + numbered(0, 300) + FILLER)
            run.stdin.flush()
            wait_until(lambda: client.hget("{lineman}:stats", "queued") == "200", what="the first batch")
            own_redis.kill()
            _, shown = run.communicate(numbered(300, 100), timeout=30)

        assert run.returncode == 1
        assert shown.splitlines()[-1].startswith("Redis is out of reach (ConnectionError)")
        assert "200 calls had been written, 0 were known: send the same file again" in shown

    def test_an_interrupt_ends_it_without_a_word(self, store: CallStore, redis_server: RedisServer) -> None:
        with start("enqueue", "-", redis_url=redis_server.url) as run:
            run.stdin.write("id,phone\n" + numbered(0, 300) + FILLER)
            run.stdin.flush()
            wait_until(lambda: store.stats()[State.QUEUED] == 200, what="the first batch")
            run.send_signal(signal.SIGINT)
            shown = run.stderr.read()

        assert (run.returncode, shown) == (130, "")

    @pytest.mark.parametrize("words", [["check"], ["enqueue", "-"]], ids=" ".join)
    def test_a_config_that_cannot_be_used_is_reported_with_all_its_faults(
        self, tmp_path: Path, words: list[str]
    ) -> None:
        path = tmp_path / "config.yml"
        path.write_text("alerts: {interval: soon}\nlogging: {levl: INFO}\n")

        status, out, err = execute(*words, CONFIG_FILE=str(path))

        assert (status, out) == (1, "")
        assert err.startswith("config.yml cannot be used:\n")
        assert all(key in err for key in ("alerts.interval", "logging.levl", "services"))

    def test_help_names_the_commands(self) -> None:
        status, out, _ = execute("--help")

        assert status == 0
        assert all(word in out for word in ("enqueue", "status", "calls", "services", "alerts", "check"))

    def test_a_full_disk_is_reported(self, store: CallStore, redis_server: RedisServer) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{sys.executable} -m tasks status --json > /dev/full"],
            cwd=ROOT,
            env=os.environ | {"REDIS_URL": redis_server.url},
            capture_output=True,
            text=True,
            check=False,
        )

        assert (done.returncode, done.stderr) == (1, "cannot go on: No space left on device\n")
