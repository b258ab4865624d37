"""What the product did, for the properties. Times are true seconds since the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    begun: list[tuple[float, Any, bool]] = field(default_factory=list)  # claims; True: gate closed, health not down
    placed: dict[str, tuple[float, str]] = field(default_factory=dict)  # conversation ids that a worker reported
    ticks: dict[str, float] = field(default_factory=dict)  # when each slot was taken last
    alerts: list[tuple[float, Any]] = field(default_factory=list)  # (notice, incident) as delivered
    retried: dict[str, float] = field(default_factory=dict)  # calls that an operator began anew

    def forget(self, since: float) -> None:
        """Redis has lost what it was given since then, so it cannot be blamed for it."""
        self.placed = {id: at for id, at in self.placed.items() if at[0] < since}
