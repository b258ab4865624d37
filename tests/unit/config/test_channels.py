"""The channels as a process builds them from the configuration."""

from __future__ import annotations

from resilience.config.settings import load
from tasks.runtime import _channels
from tests.support import ROOT

SHIPPED = str(ROOT / "config.yml")
ENVIRONMENT = {
    "SMTP_HOST": "mail.example",
    "TELEGRAM_BOT_TOKEN": "12345:telegram-token",
    "TELEGRAM_CHAT_ID": "-100200",
    "WEBHOOK_URL": "https://chat.example/hooks/abcdef",
    "WEBHOOK_FORMAT": "slack",
    "PAGERDUTY_ROUTING_KEY": "R0123456789abcdef0123456789abcde",
    "PAGERDUTY_BASE_URL": "https://events.eu.pagerduty.com",
    "APPRISE_URLS": "ntfy://one json://user:secret-word@two/ gotify://three/token",
}


def test_without_a_variable_there_is_no_channel() -> None:
    assert _channels(load(SHIPPED, {})) == {}


def test_each_place_is_a_channel_of_its_own() -> None:
    channels = _channels(load(SHIPPED, ENVIRONMENT))

    assert list(channels) == ["email", "telegram", "webhook", "pagerduty", "apprise", "apprise-2", "apprise-3"]
    assert channels["webhook"].format == "slack"
    assert channels["pagerduty"].base_url == "https://events.eu.pagerduty.com"
    assert [channels[name].position for name in ("apprise", "apprise-2", "apprise-3")] == [1, 2, 3]


def test_no_channel_shows_a_secret() -> None:
    shown = repr(_channels(load(SHIPPED, ENVIRONMENT)))

    for secret in ("telegram-token", "abcdef", "R0123456789", "secret-word", "gotify"):
        assert secret not in shown
