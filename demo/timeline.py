"""What people see of the demo: one line an event, with the time, what happened, to whom, and what comes next."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

STYLES = {"bad": "red", "good": "green", "note": "cyan", "step": "bold"}
WORDS = {  # event: (style, what happened, what comes next)
    "call_dialing": ("", "dials, attempt {attempts}", "breaker {breaker_state}"),
    "call_retrying": ("bad", "503, to be retried", "retry {attempts} of {retries}, {wait} s later"),
    "call_failed": ("bad", "failed after attempt {attempts}", "the admin is notified"),
    "call_deferred": ("note", "deferred, nothing sent", "waits for the gate ({breaker_state})"),
    "call_placed": ("good", "placed, attempt {attempts}", ""),
    "call_in_doubt": ("bad", "in doubt", "looked up before anything else"),
    "breaker_opened": ("bad", "circuit breaker opens", "timed probe {wait} s later, unless health says down"),
    "breaker_half_open": ("note", "circuit breaker half open", "one call goes out as the probe"),
    "breaker_closed": ("good", "circuit breaker closes", "{waiting} calls are released, slowly at first"),
    "health_down": ("bad", "health check: down", "no contact is spent on a timed probe"),
    "health_up": ("good", "health check: well again", "the breaker goes half open at once"),
}


class Timeline:
    """Prints to the terminal with colours, to anything else as plain lines."""

    def __init__(self, retries: int) -> None:
        # A pipe has no width of its own; a line is never wrapped.
        self.console = Console(highlight=False, soft_wrap=True)
        self.retries, self.started = retries, time.time()

    def step(self, text: str) -> None:
        """A step of the scenario begins."""
        self.console.print(Text(f"\n{text}", style=STYLES["step"]))

    def line(self, what: str, whom: str = "", follows: str = "", *, style: str = "", at: float | None = None) -> None:
        """One line. `at` is unix seconds, now where it is not given."""
        moment = (time.time() if at is None else at) - self.started
        text = f"{max(0.0, moment):7.1f} s  {what:<32} {whom:<16} {follows}".rstrip()
        self.console.print(Text(text, style=STYLES.get(style, "")))

    def event(self, event: Mapping[str, str]) -> None:
        """An event of the stream, if it is one to show."""
        if event["event"] not in WORDS:
            return
        style, what, follows = WORDS[event["event"]]
        until = event.get("next_at") or event.get("until") or event["at"]
        wait = f"{(int(until) - int(event['at'])) / 1000:.1f}"
        fields = {"breaker_state": "", "attempts": "", "waiting": "0", **event, "wait": wait, "retries": self.retries}
        whom = event.get("call_id") or event.get("service", "")
        self.line(what.format(**fields), whom, follows.format(**fields), style=style, at=int(event["at"]) / 1000)
