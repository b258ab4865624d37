"""One message to the admin, before it is put into sentences: the incidents it is about, each with its notice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from resilience.alerts.incident import Incident, Notice, load, load_notice
from resilience.alerts.kinds import Kind


@dataclass(frozen=True)
class Alert:
    """`at` is unix seconds. `follows` are the ids of the alerts that must arrive before it."""

    id: str
    at: float
    notices: tuple[tuple[Notice, Incident], ...]
    channels: tuple[str, ...]
    follows: tuple[str, ...] = ()

    def dump(self) -> str:
        """As JSON."""
        notices = [[notice, incident.as_dict()] for notice, incident in self.notices]
        return json.dumps(
            {"id": self.id, "at": self.at, "notices": notices, "channels": self.channels, "follows": self.follows}
        )


def load_alert(text: str) -> Alert:
    """An alert from what `dump` gave."""
    data: dict[str, Any] = json.loads(text)
    stored = data["notices"] if "notices" in data else data["said"]  # its name in the first release
    notices = tuple((Notice(load_notice(notice)), load(incident)) for notice, incident in stored)
    return Alert(data["id"], data["at"], notices, tuple(data["channels"]), tuple(data["follows"]))


def a_test(id: str, channel: str, sender: str, now: float) -> Alert:
    """The alert that only shows that alerts arrive."""
    incident = Incident("", Kind.TEST, since=now, fired=now, at=now, reason=sender)
    return Alert(id, now, ((Notice.OPENED, incident),), (channel,))
