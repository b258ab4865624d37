"""What the operator reads about a faulty configuration, and what a sound one means."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from resilience.config import kinds as config_types
from resilience.config.settings import Retry, Service, Settings, load
from resilience.errors import ConfigError
from tests.support import ROOT

SHIPPED = ROOT / "config.yml"
VARIABLES = {  # DESIGN.md, "Interfaces"; the rest of that list is read elsewhere
    "REDIS_URL": "redis://:r3d1s-pw@redis:6379/1",
    "ELEVEN_API_KEY": "eleven-key-1",
    "ELEVEN_BASE_URL": "http://127.0.0.1:8001",
    "CRM_API_KEY": "crm-key-1",
    "CRM_BASE_URL": "http://127.0.0.1:8002",
    "SMTP_HOST": "mail.example",
    "SMTP_PORT": "2525",
    "SMTP_USER": "alert",
    "SMTP_PASS": "smtp-pw-1",
    "TELEGRAM_BOT_TOKEN": "12345:telegram-token",
    "TELEGRAM_CHAT_ID": "-100200",
    "TELEGRAM_BASE_URL": "http://127.0.0.1:8003",
    "WEBHOOK_URL": "https://hooks.example/services/abcdef",
    "WEBHOOK_SECRET": "whsec_c2VjcmV0",
    "WEBHOOK_FORMAT": "slack",
    "PAGERDUTY_ROUTING_KEY": "R0123456789abcdef0123456789abcde",
    "PAGERDUTY_BASE_URL": "https://events.eu.pagerduty.com",
    "APPRISE_URLS": "slack://tokenA/tokenB/a-token-of-24-characters ntfy://topic",
}
MINIMAL: dict[str, Any] = {
    "services": {
        "elevenlabs": {
            "base_url": "https://api.example",
            "api_key": "a-key-of-the-file",
            "timeout": {"connect": 3, "read": 30},
            "on_unavailable": "defer",
            "retry": {"initial_delay": 5, "backoff_factor": 2, "max_attempts": 4, "max_delay": 60, "jitter": 0.1},
            "circuit_breaker": {"failure_threshold": 4, "failure_rate": 0.5, "window": 60, "recovery_timeout": 30},
            "health": {"path": "/v1/user", "interval": 15, "rise": 2, "fall": 4},
        }
    }
}


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    """MINIMAL with the values at the dotted paths of `changes`; None removes the key."""
    data = copy.deepcopy(MINIMAL)
    for path, value in changes.items():
        *sections, key = path.replace("E.", "services.elevenlabs.", 1).split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        if value is None:
            del place[key]
        else:
            place[key] = value
    return data


def write(folder: Path, content: str | bytes | dict[str, Any]) -> str:
    path = folder / "c.yml"
    text = yaml.safe_dump(content, sort_keys=False) if isinstance(content, dict) else content
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def faults(folder: Path, content: str | bytes | dict[str, Any], environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of the ConfigError, each without its file name, which it has to have."""
    path = write(folder, content)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    lines = str(caught.value).split("\n")
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return [line.removeprefix(f"{path}: ") for line in lines]


E = "services.elevenlabs"
APPRISE = "must be apprise URLs (service://...), a list or with spaces between"
EMAIL = "alerts.channels.email"
HTTP = "must be an http(s) URL with a host"
REDIS = "must be a redis://, rediss:// or sentinel:// URL"
SET = [  # what a sentinel:// URL is refused for, and such URLs
    ("must be sentinel://HOST:PORT URLs with ; between", "sentinel://:s3cret@h;h2/0?master_name=m"),
    ("must be sentinel://HOST:PORT URLs with ; between", "sentinel://h:s3cret/0?master_name=m"),
    ("must be sentinel://HOST:PORT URLs with ; between", "sentinel://:s3cret@/0?master_name=m"),
    ("must be sentinel://HOST:PORT URLs with ; between", "sentinel://h 2/0?master_name=s3cret"),
    ("must end with /DB?master_name=NAME; the only other option is sentinel_password", "sentinel://:s3cret@h/0"),
    (
        "must end with /DB?master_name=NAME; the only other option is sentinel_password",
        "sentinel://h/0?master_name=m&pasword=s3cret",
    ),
    ("must have a number between the / and the ?, the database's", "sentinel://h/s3cret?master_name=m"),
    ("must have one user and password for all its sentinels", "sentinel://:s3cret@h;sentinel://:b@h/0?master_name=m"),
]
BAD_VALUES: list[tuple[dict[str, Any], list[str]]] = [
    ({"E.circuit_breaker.failure_rate": 1.5}, [f"{E}.circuit_breaker.failure_rate must be in (0, 1], got 1.5"]),
    ({"E.circuit_breaker.failure_rate": 0}, [f"{E}.circuit_breaker.failure_rate must be in (0, 1], got 0"]),
    ({"E.timeout.read": 0}, [f"{E}.timeout.read must be a number of seconds > 0, got 0"]),
    ({"E.timeout.read": True}, [f"{E}.timeout.read must be a number of seconds > 0, got true"]),
    ({"E.timeout.read": float("inf")}, [f"{E}.timeout.read must be a number of seconds > 0, got .inf"]),
    ({"E.timeout.read": float("nan")}, [f"{E}.timeout.read must be a number of seconds > 0, got .nan"]),
    ({"E.timeout.read": "nan"}, [f"{E}.timeout.read must be a number of seconds > 0, got nan"]),
    ({"E.timeout.read": ""}, [f"{E}.timeout.read must be a number of seconds > 0, got nothing"]),
    ({"E.timeout.read": [1]}, [f"{E}.timeout.read must be a number of seconds > 0, got a list"]),
    ({"E.timeout.read": "30s"}, [f"{E}.timeout.read must be a number of seconds > 0, got 30s"]),
    ({"E.timeout.read": None}, [f"{E}.timeout.read is missing"]),
    ({"E.timeout": ""}, [f"{E}.timeout is missing or empty"]),
    ({"E.timeout": "a-secret"}, [f"{E}.timeout must be a mapping, got text"]),
    ({"E.retry.max_attempts": 2.5}, [f"{E}.retry.max_attempts must be a whole number >= 1, got 2.5"]),
    ({"E.retry.max_attempts": 0}, [f"{E}.retry.max_attempts must be a whole number >= 1, got 0"]),
    ({"E.retry.max_attempts": "9" * 5000}, [f"{E}.retry.max_attempts must be a whole number >= 1, got {'9' * 94}"]),
    ({"E.retry.backoff_factor": 0.5}, [f"{E}.retry.backoff_factor must be a number >= 1, got 0.5"]),
    ({"E.retry.jitter": -0.1}, [f"{E}.retry.jitter must be in [0, 1], got -0.1"]),
    ({"E.retry.max_delay": 4}, [f"{E}.retry.max_delay must be >= initial_delay (5), got 4"]),
    (
        {"E.circuit_breaker.recovery_timeout": 600},  # more than the default of the key that is left out
        [f"{E}.circuit_breaker.max_recovery_timeout must be >= recovery_timeout (600), got 300.0"],
    ),
    ({"E.release": {"rate": 9, "max_rate": 2}}, [f"{E}.release.max_rate must be >= rate (9), got 2"]),
    ({"E.on_unavailable": "wait"}, [f"{E}.on_unavailable must be 'defer' or 'fallback', got wait"]),
    ({"E.on_unavailable": False}, [f"{E}.on_unavailable must be 'defer' or 'fallback', got false"]),
    ({"redis.url": {"host": "h"}}, ["redis.url must be text, got a mapping"]),
    ({"E.agent_id": ["a"]}, [f"{E}.agent_id must be text, got a list"]),
    ({"E.health.path": "v1"}, [f"{E}.health.path must be a path that starts with /, got v1"]),
    *(
        (
            {"E.base_url": url},
            [f"{E}.base_url {HTTP} and without user or password, got {as_}"],
        )
        for url, as_ in [
            ("api.example", "api.example"),
            ("ftp://api.example", "ftp://api.example"),
            ("https://", "https://"),
            ("https://h:99999", "https://h:99999"),
            ("https://user:pa/ss@w0rd@h", "https://***@h"),
            ("https://h\n", "'https://h\\n'"),
        ]
    ),
    ({"E.api_key": "zwölf zwölf"}, [f"{E}.api_key must be ASCII without spaces"]),
    ({"E.api_key": None}, [f"{E}.api_key is missing"]),
    (
        {"redis.url": "http://:s3cret@h"},
        [f"redis.url {REDIS}, got http://..."],
    ),
    (
        {"broker.url": "s3cret@h"},
        ["broker.url must be an amqp://, redis://, rediss:// or sentinel:// URL, got text without ://"],
    ),
    (
        {"redis.url": "redis://h:s3cret"},
        [f"redis.url {REDIS}, got redis://..."],
    ),
    *(
        ({f"{section}.url": url}, [f"{section}.url {rule}, got sentinel://..."])
        for rule, url in SET
        for section in ("redis", "broker")
    ),
    (
        {"alerts.channels.webhook.url": "hooks.example/s3cret"},
        [f"alerts.channels.webhook.url {HTTP}"],
    ),
    (
        {"alerts.channels.email.recipients": "ann, bob@example"},
        [f"{EMAIL}.recipients must be addresses with an @ each, a list or with commas between, got ann, bob@example"],
    ),
    (
        {"alerts.channels.email.recipients": []},
        [f"{EMAIL}.recipients must be addresses with an @ each, a list or with commas between, got a list"],
    ),
    (
        {"alerts.channels.webhook.format": "teams"},
        ["alerts.channels.webhook.format must be 'auto', 'json', 'slack' or 'discord'"],
    ),
    (
        {"alerts.channels.pagerduty.routing_key": "s3cret s3cret"},
        ["alerts.channels.pagerduty.routing_key must be ASCII without spaces"],
    ),
    *(
        ({"alerts.channels.apprise.urls": urls}, [f"alerts.channels.apprise.urls {APPRISE}{which}"])
        for urls, which in [
            ("ntfy://a s3cret", "; number 2 is none"),
            ("ntfy://a s3cret://", "; number 2 is none"),
            (["ntfy://s3cret s3cret"], "; number 1 is none, got a list"),
            (["ntfy://a", ["s3cret"]], "; number 2 is none, got a list"),
            ({"url": "s3cret"}, ", got a mapping"),
        ]
    ),
    ({"alerts.channels.email.port": 70000}, ["alerts.channels.email.port must be a port, 1 to 65535, got 70000"]),
    (
        {"alerts.channels.email.security": "ssl"},
        ["alerts.channels.email.security must be 'auto', 'tls', 'starttls' or 'plain', got ssl"],
    ),
    ({"logging.path": ""}, ["logging.path must not be empty, got nothing"]),
    (
        {"logging.level": "loud"},
        ["logging.level must be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL', got LOUD"],
    ),
    (
        {"calls.look_up": {"delay": 20, "interval": 60, "polls": 4, "give_up": 199}},
        ["calls.look_up.give_up must be >= delay + (polls - 1) * interval (200), got 199"],
    ),
    (
        {"broker.visibility_timeout": 182},
        [
            (
                "broker.visibility_timeout must be > 182, "
                "the longest countdown (66) plus twice the longest run (58), got 182"
            )
        ],
    ),
    ({"E.retry.max_attempt": 4}, [f"{E}.retry.max_attempt is not a known key; did you mean max_attempts?"]),
    ({"E.name": "s3cret"}, [f"{E}.name is not a known key"]),
    ({"missing": ["x"]}, ["missing is not a known key"]),
    ({"alert": {}}, ["alert is not a known key; did you mean alerts?"]),
    ({"services": {}}, ["services.elevenlabs is missing or empty"]),
    ({"services": None}, ["services is missing"]),
    ({"services": []}, ["services must be a mapping, got a list"]),
    (
        {"services.openai": MINIMAL["services"]["elevenlabs"]},
        ["services.openai is not a service; there are elevenlabs, crm"],
    ),
    (
        {"E.agent_id": "${A-b}"},
        [f"{E}.agent_id holds a ${{ that is neither ${{NAME}} nor ${{NAME:-default}}; write $$ for a plain $"],
    ),
]


@pytest.mark.parametrize(("changes", "lines"), BAD_VALUES, ids=lambda value: "+".join(value)[:40])
def test_a_fault_names_the_key_the_rule_and_the_value(
    changes: dict[str, Any], lines: list[str], tmp_path: Path
) -> None:
    shown = faults(tmp_path, changed(changes))

    assert shown == lines
    assert "s3cret" not in str(shown)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    changes = {
        "E.timeout.read": 0,
        "E.retry.jitter": 3,
        "E.retry.max_delay": 1,
        "E.health.pth": "/",
        "E.agent_id": "${",
        "alerts.interval": -1,
        "logging.backups": "many",
        "services.openai": {},
    }

    shown = faults(tmp_path, changed(changes))

    keys = {line.split()[0] for line in shown}
    assert {key.replace("E.", f"{E}.", 1) for key in changes} <= keys


UNREADABLE: list[tuple[str | bytes, str]] = [
    (b"", "is empty"),
    (b"# nothing yet\n", "is empty"),
    (b"- a\n- b\n", "must be a mapping of sections, got a list"),
    (b"just words", "must be a mapping of sections, got text"),
    (b"a: 1\nb: [1\nc: 2\n", "line 3, column 2: not valid YAML: expected ',' or ']', but got ':'"),
    (b"a: 1\n\tb: 2\n", "line 2, column 1: not valid YAML: found character '\\t' that cannot start any token"),
    (b"redis:\n  url: a\n  url: b\n", "line 3, column 3: not valid YAML: a second key url"),
    (b"a: 1\n--- \nb: 1\n", "line 2, column 1: not valid YAML: but found another document"),
    (b"a: \xff\n", "is not UTF-8 text (byte 4)"),
    (b"a: 1\nb: \x00\n", "line 2, column 4: not valid YAML: special characters are not allowed"),
    (b"a: &a [*a]\n", "is nested too deeply"),
    (b"a: " + b"[" * 5000, "is nested too deeply"),
    (b"a: *b\n", "line 1, column 4: not valid YAML: found undefined alias 'b'"),
    (b"a: !!python/object/apply:os.getcwd []\n", "line 1, column 4: not valid YAML: could not determine a constructor"),
    (b"a: !!int x\n", "line 1, column 4: not valid YAML: could not determine a constructor"),
    (b"? [a]\n: 1\n", "line 1, column 3: not valid YAML: found unhashable key"),
]


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE, ids=lambda value: str(value)[:30])
def test_a_file_that_is_no_configuration_gets_one_sentence(content: str | bytes, sentence: str, tmp_path: Path) -> None:
    (shown,) = faults(tmp_path, content)

    assert shown.startswith(sentence)


def test_a_file_that_cannot_be_opened_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as missing:
        load(str(tmp_path / "no.yml"), {})
    with pytest.raises(ConfigError) as folder:
        load(str(tmp_path), {})

    hint = "No such file or directory; set CONFIG_FILE to the file to use"
    assert str(missing.value) == f"{tmp_path / 'no.yml'}: cannot be read: {hint}"
    assert str(folder.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_fault_names_the_variable_its_value_came_from(tmp_path: Path) -> None:
    content = changed(
        {"E.timeout.read": "${READ:-30}", "E.base_url": "${SCHEME}://${HOST}", "E.agent_id": "${ELEVEN_API_KEY}"}
    )

    shown = faults(tmp_path, content, {"READ": " -5 ", "SCHEME": "ftp", "HOST": "h", "SMTP_PORT": "x"})

    assert shown == [
        f"{E}.base_url {HTTP} and without user or password, got ftp://h (from SCHEME, HOST)",
        f"{E}.timeout.read must be a number of seconds > 0, got -5 (from READ)",
        "alerts.channels.email.port must be a port, 1 to 65535, got x (from SMTP_PORT)",
    ]


def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    content = changed({"E.timeout.read": "${ELEVEN_API_KEY}", "E.retry": "${ELEVEN_API_KEY}", "E.api_kee": "key-123"})

    shown = "\n".join(faults(tmp_path, content, {"ELEVEN_API_KEY": "key-123"}))

    assert "from ELEVEN_API_KEY" in shown
    assert "key-123" not in shown


def test_a_variable_that_is_unset_or_empty_takes_the_default(tmp_path: Path) -> None:
    content = changed({"E.agent_id": "a-${X:-b}-$$${Y:-}-$z", "E.base_url": "${URL:-https://api.example/}"})

    for environ in ({}, {"X": "", "URL": "  "}):
        service = load(write(tmp_path, content), environ).services["elevenlabs"]
        assert (service.agent_id, service.base_url) == ("a-b-$-$z", "https://api.example")


def test_a_variable_cannot_become_yaml_or_name_another(tmp_path: Path) -> None:
    content = changed({"E.agent_id": "${X}"})

    settings = load(write(tmp_path, content), {"X": "a\nredis: {url: ${Y}} # [", "Y": "no"})

    assert settings.services["elevenlabs"].agent_id == "a\nredis: {url: ${Y}} # ["


def test_a_variable_without_a_default_is_missed_only_by_who_needs_it(tmp_path: Path) -> None:
    content = changed({"E.api_key": "${ELEVEN_API_KEY}"})

    without, with_key = (load(write(tmp_path, content), environ) for environ in ({}, {"ELEVEN_API_KEY": "k"}))

    assert without.missing == (f"{E}.api_key: set the environment variable ELEVEN_API_KEY",)
    assert without.services["elevenlabs"].enabled
    assert with_key.missing == ()


def test_a_missing_variable_no_value_can_stand_for_is_a_fault(tmp_path: Path) -> None:
    shown = faults(tmp_path, changed({"E.base_url": "${BASE}"}))

    assert shown == [f"{E}.base_url needs a value: set the environment variable BASE"]


def test_an_empty_key_of_elevenlabs_is_missed_however_it_came_about(tmp_path: Path) -> None:
    settings = load(write(tmp_path, changed({"E.api_key": "${K:-}"})), {})

    assert settings.missing == (f"{E}.api_key: is empty, and nothing is dialed without it",)


def test_the_shipped_file_loads_with_an_empty_environment() -> None:
    settings = load(str(SHIPPED), {})

    assert settings.missing == (f"{E}.api_key: set the environment variable ELEVEN_API_KEY",)
    assert {name: service.enabled for name, service in settings.services.items()} == {"elevenlabs": True, "crm": False}
    assert not any(part.enabled for _, part in settings.alerts.channels)
    assert (settings.lease("elevenlabs"), settings.task_time_limit, settings.longest_countdown) == (43, 58, 66)


def test_four_dials_of_the_shipped_policy_stay_within_a_second_and_a_half_of_their_times() -> None:
    retry = load(str(SHIPPED), {}).services["elevenlabs"].retry

    delays = [retry.initial_delay * retry.backoff_factor**n for n in range(retry.max_attempts - 1)]

    assert delays == [5, 10, 20]
    assert sum(delays) * retry.jitter < 1.5


def test_the_shipped_health_check_gives_up_later_than_a_call() -> None:
    service = load(str(SHIPPED), {}).services["elevenlabs"]

    assert service.health.interval * service.health.fall > 36


def test_what_the_file_leaves_out_is_what_the_shipped_file_says(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)

    for environ in ({}, VARIABLES):
        ours, shipped = load(path, environ), load(str(SHIPPED), environ)
        for section in ("redis", "broker", "calls", "alerts", "logging"):
            assert getattr(ours, section) == getattr(shipped, section)
        assert ours.services["elevenlabs"].release == shipped.services["elevenlabs"].release


def test_every_variable_of_the_interface_reaches_its_key() -> None:
    settings = load(str(SHIPPED), VARIABLES)

    elevenlabs, crm, channels = settings.services["elevenlabs"], settings.services["crm"], settings.alerts.channels
    seen = [
        settings.redis.url,
        elevenlabs.api_key.get_secret_value(),
        elevenlabs.base_url,
        crm.api_key.get_secret_value(),
        crm.base_url,
        channels.email.host,
        str(channels.email.port),
        channels.email.user,
        channels.email.password.get_secret_value(),
        channels.telegram.token.get_secret_value(),
        channels.telegram.chat_id,
        channels.telegram.base_url,
        channels.webhook.url.get_secret_value(),
        channels.webhook.secret.get_secret_value(),
        channels.webhook.format,
        channels.pagerduty.routing_key.get_secret_value(),
        channels.pagerduty.base_url,
        " ".join(url.get_secret_value() for url in channels.apprise.urls),
    ]
    assert seen == list(VARIABLES.values())
    assert crm.enabled
    assert all(part.enabled for _, part in channels)
    assert settings.missing == ()


def test_no_secret_stands_in_a_repr_and_every_secret_is_known_to_the_logger() -> None:
    hidden = ["r3d1s-pw", "eleven-key-1", "crm-key-1", "smtp-pw-1", "12345:telegram-token", "whsec_c2VjcmV0"]
    hidden += [VARIABLES["WEBHOOK_URL"], VARIABLES["PAGERDUTY_ROUTING_KEY"], "b:k", "b%3Ak"]
    hidden += [*VARIABLES["APPRISE_URLS"].split(), "a-token-of-24-characters"]

    settings = load(str(SHIPPED), VARIABLES | {"BROKER_URL": "amqp://user:b%3Ak@a:1//"})

    assert not [secret for secret in hidden if secret in f"{settings!r}{settings}"]
    assert set(settings.secrets) == set(hidden)


def test_the_passwords_of_a_sentinel_set_are_known_to_the_logger() -> None:
    url = "sentinel://a;sentinel://user:p%40w@b:1/2?master_name=m&sentinel_password=s%2Fw"

    settings = load(str(SHIPPED), {"REDIS_URL": url, "BROKER_URL": "amqp://u:one@a;amqp://u:two@b"})

    assert set(settings.secrets) == {"p%40w", "p@w", "s/w", "one", "two"}
    assert "p%40w" not in f"{settings!r}{settings}"


def test_settings_cannot_be_changed() -> None:
    settings = load(str(SHIPPED), {})

    with pytest.raises(ValidationError):
        settings.redis.timeout = 5  # type: ignore[misc]


def test_all_times_can_be_a_tenth_by_config_alone(tmp_path: Path) -> None:
    data = yaml.safe_load(SHIPPED.read_text())
    seconds = {"connect", "read", "initial_delay", "max_delay", "window", "recovery_timeout", "interval"}
    seconds |= {"max_retry_after", "max_recovery_timeout", "hold", "lease_margin", "delay", "give_up", "republish"}

    def tenth(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: value / 10 if key in seconds else tenth(value) for key, value in node.items()}

    settings = load(write(tmp_path, tenth(data)), {})

    assert settings.services["elevenlabs"].retry.initial_delay == 0.5
    assert settings.lease("elevenlabs") == pytest.approx(4.3)


def test_yaml_keeps_words_as_they_are_written(tmp_path: Path) -> None:
    text = (
        yaml.safe_dump(MINIMAL)
        + "alerts: {channels: {telegram: {token: 0123, chat_id: -100200300}, email: {user: no}}}\n"
    )

    channels = load(write(tmp_path, text), {}).alerts.channels

    assert channels.telegram.token.get_secret_value() == "0123"
    assert (channels.telegram.chat_id, channels.email.user) == ("-100200300", "no")


def test_yaml_may_share_a_mapping(tmp_path: Path) -> None:
    text = (
        yaml.safe_dump(MINIMAL).replace("  elevenlabs:", "  elevenlabs: &e")
        + "  crm:\n    <<: *e\n    api_key: other\n    on_unavailable: fallback\n"
    )

    services = load(write(tmp_path, text), {}).services

    assert services["crm"].retry == services["elevenlabs"].retry
    assert services["crm"].api_key.get_secret_value() == "other"


def test_recipients_may_be_a_list_or_a_line(tmp_path: Path) -> None:
    for recipients in ("a@b, c@d,", ["a@b", "c@d"]):
        settings = load(write(tmp_path, changed({"alerts.channels.email.recipients": recipients})), {})
        assert settings.alerts.channels.email.recipients == ("a@b", "c@d")


def test_apprise_urls_may_be_a_list_or_a_line(tmp_path: Path) -> None:
    for urls in ("ntfy://a,b  json://user:pw@h?x=y ", ["ntfy://a,b", "${NONE:-}", "json://user:pw@h?x=y"]):
        settings = load(write(tmp_path, changed({"alerts.channels.apprise.urls": urls})), {})
        found = [url.get_secret_value() for url in settings.alerts.channels.apprise.urls]
        assert found == ["ntfy://a,b", "json://user:pw@h?x=y"]


def test_the_file_is_the_one_asked_for_then_the_variable_then_here_then_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("asked", "variable", "config"):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(changed({"logging.path": name})))
    environ = {"CONFIG_FILE": str(tmp_path / "variable.yml")}

    monkeypatch.chdir(tmp_path)
    found = [load("asked.yml", environ), load(None, environ), load(None, {"CONFIG_FILE": ""})]
    monkeypatch.chdir(tmp_path / "empty")
    found.append(load(None, {}))

    assert [settings.logging.path for settings in found] == ["asked", "variable", "config", "logs/app.log"]


def test_every_key_of_the_shipped_file_is_explained() -> None:
    lines = [line for line in SHIPPED.read_text().splitlines() if line and not line.startswith(("#", "  # "))]

    bare = [line for line in lines if "#" not in line and not re.fullmatch(r" *\w+:", line)]

    assert bare == []
    assert max(map(len, lines)) <= 120


def test_every_key_there_is_stands_in_the_shipped_file() -> None:
    text = SHIPPED.read_text()

    def keys(model: type[BaseModel]) -> set[str]:
        nested = [field.annotation for field in model.model_fields.values()]
        inner = [kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)]
        return set(model.model_fields).union(*map(keys, inner))

    absent = {key for key in keys(Settings) | keys(Service) if not re.search(rf"\b{key}:", text)}

    assert absent == set()


def test_a_policy_can_be_made_from_numbers() -> None:
    retry = Retry(initial_delay=0.5, backoff_factor=1, max_attempts=1, max_delay=0.5, jitter=0)

    assert retry.max_retry_after == 900
    assert config_types.defaults(Retry) == {}
