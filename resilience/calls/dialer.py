"""What the mechanism asks of a provider that places calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol


class Conversation(Protocol):
    """A conversation of one call that the provider confirms. `ours` is False where another installation dialed it."""

    @property
    def id(self) -> str: ...
    @property
    def attempt_id(self) -> str: ...
    @property
    def ours(self) -> bool: ...


class Dialer(Protocol):
    """The provider. Every method raises ServiceError, classified."""

    def dial(
        self,
        *,
        phone: str,
        call_id: str,
        attempt_id: str,
        variables: Mapping[str, object],
        lease_covers: Callable[[], bool],
    ) -> str:
        """One POST. Returns the conversation's id.

        `lease_covers` is asked after the handshake, before the first byte; where it is False, LeaseExpired is raised.
        """

    def look_up(
        self, call_id: str, *, installation: str, timeout: tuple[float, float] | None = None
    ) -> Sequence[Conversation]:
        """The call's confirmed conversations, oldest first. `timeout` (connect, read) bounds the look-up as a whole."""

    def has_called(self) -> bool:
        """Whether the agent has had any conversation."""
