"""Which channels get an alert, and when none does: the routes and the quiet hours of config.yml."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, tzinfo
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from resilience.config import kinds as of
from resilience.config.channels import Channels
from resilience.config.kinds import Model


def _clock(text: str) -> str:
    try:
        return f"{datetime.strptime(text, '%H:%M'):%H:%M}"  # noqa: DTZ007 a time of day, in the zone next to it
    except ValueError:
        raise ValueError("must be a time such as 22:00") from None


def _another_time(end: str, info: ValidationInfo) -> str:
    if end == info.data.get("start"):
        raise ValueError("must differ from start")
    return end


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be a time zone such as UTC or Europe/Berlin") from None


def _zone_name(name: str) -> str:
    _zone(name)
    return name


def _channel(name: str) -> str:
    if name not in Channels.model_fields and not re.fullmatch("apprise-[1-9][0-9]?", name):
        raise ValueError(f"is not a channel; there are {', '.join(Channels.model_fields)}")
    return name


def _list(value: object) -> object:
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list with one entry or more")
    return value


def _none(value: object) -> object:
    return None if value in ("", "null") else value  # every scalar of the file is text


def _routes(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list of routes")  # noqa: TRY004 pydantic takes a ValueError for a fault
    return value


class QuietHours(Model):
    """From `start` to `end` each day in `timezone`, past midnight where `start` is the later one."""

    start: Annotated[str, AfterValidator(_clock)]
    end: Annotated[str, AfterValidator(_clock), AfterValidator(_another_time)]
    timezone: Annotated[str, AfterValidator(_zone_name)] = "UTC"

    def cover(self, at: float) -> bool:
        """Whether `at` (unix seconds) is within them."""
        now = datetime.fromtimestamp(at, _zone(self.timezone)).time()
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        return start <= now < end if start < end else now >= start or now < end


class Route(Model):
    """Sends the alerts of these severities and services to these channels. A list left out means all of them."""

    channels: Annotated[tuple[Annotated[str, AfterValidator(_channel)], ...], BeforeValidator(_list)]
    severities: Annotated[tuple[Literal["critical", "warning"], ...], BeforeValidator(_list)] | None = None
    services: Annotated[tuple[of.ServiceName, ...], BeforeValidator(_list)] | None = None

    def takes(self, severity: str, service: str) -> bool:
        """Whether it has such an alert. Lineman's own alerts (of a channel, the dispatcher) are of every service."""
        of_service = self.services is None or service in self.services or service not in of.SERVICES
        return of_service and (self.severities is None or severity in self.severities)


MaybeQuietHours = Annotated[QuietHours | None, BeforeValidator(_none)]
Routes = Annotated[tuple[Route, ...], BeforeValidator(_routes)]


def channels_for(severity: str, service: str, routes: tuple[Route, ...], enabled: Any) -> tuple[str, ...]:
    """The channels of `enabled`, in their order, to which any route sends such an alert."""
    if not routes:
        return tuple(enabled)
    wanted = {channel for route in routes if route.takes(severity, service) for channel in route.channels}
    # `apprise` means each of its URLs, `apprise-2` the second one.
    return tuple(name for name in enabled if name in wanted or name.partition("-")[0] in wanted)
