"""The channels that carry alerts, as config.yml sets them. A channel is off until its required keys have values."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr

from resilience.config import kinds as of
from resilience.config.kinds import Model, from_env


class Email(Model):
    host: str = from_env("SMTP_HOST")
    port: of.Port = from_env("SMTP_PORT", 587)
    user: str = from_env("SMTP_USER")
    password: SecretStr = from_env("SMTP_PASS")
    sender: of.Address = from_env("ALERT_EMAIL_FROM", "lineman@localhost")
    recipients: of.Addresses = from_env("ALERT_EMAIL_TO", "admin@localhost")
    security: Literal["auto", "tls", "starttls", "plain"] = "auto"

    @property
    def enabled(self) -> bool:
        return bool(self.host)


class Telegram(Model):
    token: of.HeaderSecret = from_env("TELEGRAM_BOT_TOKEN")
    chat_id: str = from_env("TELEGRAM_CHAT_ID")
    base_url: of.HttpUrl = from_env("TELEGRAM_BASE_URL", "https://api.telegram.org")

    @property
    def enabled(self) -> bool:
        return bool(self.token.get_secret_value() and self.chat_id)


class Webhook(Model):
    url: of.WebhookUrl = from_env("WEBHOOK_URL")
    secret: SecretStr = from_env("WEBHOOK_SECRET")
    format: Literal["auto", "json", "slack", "discord"] = from_env("WEBHOOK_FORMAT", "auto")

    @property
    def enabled(self) -> bool:
        return bool(self.url.get_secret_value())


class PagerDuty(Model):
    routing_key: of.HeaderSecret = from_env("PAGERDUTY_ROUTING_KEY")
    base_url: of.HttpUrl = from_env("PAGERDUTY_BASE_URL", "https://events.pagerduty.com")

    @property
    def enabled(self) -> bool:
        return bool(self.routing_key.get_secret_value())


class Apprise(Model):
    urls: of.AppriseUrls = from_env("APPRISE_URLS")

    @property
    def enabled(self) -> bool:
        return bool(self.urls)


class Channels(Model):
    email: Email = Email()
    telegram: Telegram = Telegram()
    webhook: Webhook = Webhook()
    pagerduty: PagerDuty = PagerDuty()
    apprise: Apprise = Apprise()
