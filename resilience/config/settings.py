"""What the operator decides: services, retries, breakers, health, alerts, logging.

`load` reads config.yml and the environment once, when a process starts, and raises one ConfigError that lists every
fault. What it returns is frozen. A variable that is named without a default and unset is no fault yet: it is
listed in `Settings.missing`, because a worker needs the keys and `enqueue` and `status` do not. Durations are seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import PrivateAttr, ValidationError, ValidationInfo, model_validator

from resilience.config import kinds as of
from resilience.config.alerts import MaybeQuietHours, Routes
from resilience.config.channels import Channels
from resilience.config.file import describe, dotted, read
from resilience.config.kinds import Count, Model, Seconds, from_env, not_below
from resilience.errors import ConfigError
from resilience.store.requirements import Persistence


class Redis(Model):
    url: of.RedisUrl = from_env("REDIS_URL", "redis://127.0.0.1:6379/0", shown=False)  # it may hold a password
    connect_timeout: Seconds = 1.0
    timeout: Seconds = 2.0
    persistence: Persistence = "required"


class Broker(Model):
    """Celery's broker; `url` is empty where it is the same as `redis.url`."""

    url: of.BrokerUrl = from_env("BROKER_URL", shown=False)
    visibility_timeout: Seconds = 360.0


class Timeout(Model):
    connect: Seconds
    read: Seconds


class Retry(Model):
    initial_delay: Seconds
    backoff_factor: of.Factor
    max_attempts: Count
    max_delay: Annotated[Seconds, not_below("initial_delay")]
    jitter: of.Jitter
    max_retry_after: Seconds = 900.0


class SlowCall(Model):
    duration: Seconds
    rate: of.Rate


class CircuitBreaker(Model):
    """When the gate opens and closes. `run_amid_successes` below `failure_threshold` counts as equal to it."""

    failure_threshold: Count
    failure_rate: of.Rate
    window: Seconds
    recovery_timeout: Seconds
    run_amid_successes: Count = 12
    minimum_calls: Count = 40
    max_recovery_timeout: Annotated[Seconds, not_below("recovery_timeout")] = 300.0
    half_open_calls: Count = 1
    success_threshold: Count = 1
    identical_refusals: Count = 5
    slow_call: SlowCall | None = None


class Release(Model):
    """Calls per second after a recovery: `rate` at first, doubled each second."""

    rate: of.PerSecond = 1.0
    max_rate: Annotated[of.PerSecond, not_below("rate")] = 50.0


class Health(Model):
    path: of.HttpPath
    interval: Seconds
    rise: Count
    fall: Count
    hold: Seconds = 300.0


class Service(Model):
    base_url: of.HttpUrl
    api_key: of.HeaderSecret
    agent_id: str = ""
    agent_phone_number_id: str = ""
    timeout: Timeout
    on_unavailable: Literal["defer", "fallback"]
    retry: Retry
    circuit_breaker: CircuitBreaker
    release: Release = Release()
    health: Health
    _required: bool = PrivateAttr(default=False)

    @property
    def enabled(self) -> bool:
        """Whether the service is used: it has a key, or calls cannot do without it (elevenlabs)."""
        return self._required or bool(self.api_key.get_secret_value())


class Dispatch(Model):
    interval: Seconds = 1.0
    feed: Count = 100
    republish: Seconds = 30.0


class LookUp(Model):
    delay: Seconds = 20.0
    interval: Seconds = 60.0
    polls: Count = 3
    give_up: of.GiveUp = 900.0


class Calls(Model):
    lease_margin: Seconds = 10.0
    retention: Seconds = 2_592_000.0
    dispatch: Dispatch = Dispatch()
    look_up: LookUp = LookUp()


class Alerts(Model):
    """Alerts. Deliveries wait in the store and never in a worker, so no visibility timeout limits `retry`."""

    interval: Seconds = 1.0
    group_interval: Seconds = 300.0
    repeat_interval: Annotated[Seconds, not_below("group_interval")] = 14_400.0
    doubt_after: Seconds = 300.0
    quiet_hours: MaybeQuietHours = None
    routes: Routes = ()
    retry: Retry = Retry(
        initial_delay=5, backoff_factor=2, max_attempts=13, max_delay=600, jitter=0.1, max_retry_after=86_400
    )
    channels: Channels = Channels()


class Logging(Model):
    path: of.Text = "logs/app.log"
    level: of.Level = "INFO"
    max_bytes: Count = 50_000_000
    backups: Count = 5


class Settings(Model):
    redis: Redis = Redis()
    broker: Broker = Broker()
    services: Annotated[dict[of.ServiceName, Service], of.with_elevenlabs]
    calls: Calls = Calls()
    alerts: Alerts = Alerts()
    logging: Logging = Logging()
    _missing: tuple[str, ...] = PrivateAttr(default=())

    @property
    def missing(self) -> tuple[str, ...]:
        """What a worker cannot start without, a sentence each: `<key>: set the environment variable <NAME>`."""
        return self._missing

    def lease(self, service: str) -> float:
        """Seconds a claim on `service` lasts: its timeouts and the margin."""
        timeout = self.services[service].timeout
        return timeout.connect + timeout.read + self.calls.lease_margin

    @property
    def task_time_limit(self) -> float:
        """Seconds after which a task is killed."""
        return max(map(self.lease, self.services)) + 15

    @property
    def longest_countdown(self) -> float:
        """Seconds that a worker may hold a message before it runs."""
        return max(service.retry.max_delay * (1 + service.retry.jitter) for service in self.services.values())

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that must not be shown, for the logger to mask."""
        return tuple({text for text in of.secrets(self) if text})

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Settings:
        elevenlabs = self.services["elevenlabs"]
        elevenlabs._required = True  # noqa: SLF001 only the parent knows its name
        missing = dict(info.context or {})
        if not elevenlabs.api_key.get_secret_value():
            missing.setdefault("services.elevenlabs.api_key", "is empty, and nothing is dialed without it")
        self._missing = tuple(f"{key}: {what}" for key, what in missing.items())
        for name, service in self.services.items():
            # A call has nothing to fall back to, and a CRM entry never holds a call up.
            only = "defer" if service is elevenlabs else "fallback"
            if service.on_unavailable != only:
                raise ValueError(f"services.{name}.on_unavailable must be {only}, got {service.on_unavailable}")
        floor = self.longest_countdown + 2 * self.task_time_limit
        if self.broker.visibility_timeout <= floor:
            # A message that is delivered again while it still waits or runs becomes two.
            raise ValueError(
                f"broker.visibility_timeout must be > {floor:g}, the longest countdown ({self.longest_countdown:g}) "
                f"plus twice the longest run ({self.task_time_limit:g}), got {self.broker.visibility_timeout:g}"
            )
        return self


def load(path: str | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Reads `path`, else $CONFIG_FILE, else config.yml here, else the one that comes with the package.

    Raises ConfigError, every fault on a line of its own.
    """
    here, shipped = Path("config.yml"), Path(__file__).resolve().parents[2] / "config.yml"
    chosen = path or environ.get("CONFIG_FILE", "").strip()
    document = read(Path(chosen) if chosen else here if here.exists() else shipped, environ, of.defaults(Settings))
    missing = {dotted(at): f"set the environment variable {name}" for at, name in document.missing.items()}
    faults = document.faults
    try:
        settings = Settings.model_validate(document.data, context=missing)
    except ValidationError as exc:
        faults = describe(exc, document, Settings)
    if faults:  # raised out here, where the ValidationError, which holds secrets, is gone
        raise ConfigError("\n".join(faults))
    return settings
