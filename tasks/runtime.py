"""The composition root: where the mechanism meets the services. Built once per process, after fork."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from resilience.alerts.collector import Collector
from resilience.alerts.decisions import Situation
from resilience.alerts.delivery import Channel, Sender
from resilience.alerts.outbox import AlertOutbox
from resilience.calls.processor import CallProcessor
from resilience.calls.store import DIALER, CallStore
from resilience.circuit_breaker import CircuitBreaker, policy_of
from resilience.config.settings import Settings
from resilience.errors import InDoubtError, Sent
from resilience.store.connection import connect
from resilience.store.dead_letters import DeadLetters
from resilience.store.outbox import Outbox
from resilience.store.scripts import Scripts
from services.channels.apprise import Apprise
from services.channels.email import Email
from services.channels.pagerduty import PagerDuty
from services.channels.telegram import Telegram
from services.channels.webhook import Webhook
from services.crm import Crm
from services.elevenlabs import ElevenLabs
from tasks.celery import settings as loaded


class Interruptible(ElevenLabs):
    """A dial that Celery's soft time limit cuts off may have rung."""

    def dial(self, **call: Any) -> str:
        try:
            return super().dial(**call)
        except SoftTimeLimitExceeded:
            raise InDoubtError(
                "the dial took longer than the task's time limit",
                service=DIALER,
                code="soft_time_limit",
                sent=Sent.UNKNOWN,
            ) from None


@dataclass(frozen=True)
class Runtime:
    """What the tasks work with."""

    settings: Settings
    scripts: Scripts
    store: CallStore
    processor: CallProcessor
    breakers: Mapping[str, CircuitBreaker]
    probes: Mapping[str, Any]
    channels: Mapping[str, Channel]
    collector: Collector
    outbox: AlertOutbox
    sender: Sender
    crm: Crm | None
    outboxes: Mapping[str, Outbox]
    dead_letters: DeadLetters


def build(settings: Settings, scripts: Scripts | None = None) -> Runtime:
    """Everything, on the configured Redis or on the one given."""
    if scripts is None:
        r = settings.redis
        scripts = Scripts(connect(r.url, connect_timeout=r.connect_timeout, timeout=r.timeout))
    crm, channels = _crm(settings), _channels(settings)
    outboxes = {"crm": Outbox(scripts, "crm")} if crm else {}
    store = CallStore(scripts, settings, outboxes)
    enabled = {name: s for name, s in settings.services.items() if s.enabled}
    eleven = settings.services[DIALER]
    dialer = Interruptible(
        base_url=eleven.base_url,
        api_key=eleven.api_key.get_secret_value(),
        agent_id=eleven.agent_id,
        agent_phone_number_id=eleven.agent_phone_number_id,
        timeout=(eleven.timeout.connect, eleven.timeout.read),
    )
    collector = Collector(scripts, Situation(settings.alerts, tuple(enabled), tuple(channels)))
    return Runtime(
        settings=settings,
        scripts=scripts,
        store=store,
        processor=CallProcessor(store, dialer, settings),
        breakers={name: CircuitBreaker(scripts, name, policy_of(s)) for name, s in enabled.items()},
        probes={DIALER: dialer} | ({"crm": crm} if crm else {}),
        channels=channels,
        collector=collector,
        outbox=collector.outbox,
        # No task runs longer than its limit: a delivery that lasts longer belongs to a worker that died.
        sender=Sender(
            collector.outbox, channels, settings.alerts.retry, settings.task_time_limit + 30, settings.secrets
        ),
        crm=crm,
        outboxes=outboxes,
        dead_letters=DeadLetters(scripts, settings.calls.retention),
    )


def _crm(settings: Settings) -> Crm | None:
    crm = settings.services.get("crm")
    if crm is None or not crm.enabled:
        return None
    return Crm(
        base_url=crm.base_url, api_key=crm.api_key.get_secret_value(), timeout=(crm.timeout.connect, crm.timeout.read)
    )


def _channels(settings: Settings) -> Mapping[str, Channel]:
    c = settings.alerts.channels
    channels: dict[str, Channel] = {}
    if c.email.enabled:
        channels["email"] = Email(
            c.email.host,
            c.email.port,
            c.email.user,
            c.email.password.get_secret_value(),
            c.email.sender,
            c.email.recipients,
            c.email.security,
        )
    if c.telegram.enabled:
        channels["telegram"] = Telegram(c.telegram.token.get_secret_value(), c.telegram.chat_id, c.telegram.base_url)
    if c.webhook.enabled:
        channels["webhook"] = Webhook(
            c.webhook.url.get_secret_value(), c.webhook.secret.get_secret_value(), c.webhook.format
        )
    if c.pagerduty.enabled:
        channels["pagerduty"] = PagerDuty(c.pagerduty.routing_key.get_secret_value(), c.pagerduty.base_url)
    for n, url in enumerate(c.apprise.urls, 1):
        channels["apprise" if n == 1 else f"apprise-{n}"] = Apprise(url.get_secret_value(), n)
    return channels


# By process id: what a parent built before the fork is not used by its children.
_built: dict[int, Runtime] = {}


def runtime() -> Runtime:
    """This process's runtime."""
    if os.getpid() not in _built:
        install(build(loaded))
    return _built[os.getpid()]


def install(instead: Runtime | None) -> None:
    """Makes it this process's runtime, for tests in eager mode; None has it built anew."""
    _built.clear()
    if instead is not None:
        _built[os.getpid()] = instead
