"""Makes the pictures of docs/alerts.md: `python docs/screenshots/make.py`, with Chromium installed.

A scripted outage goes the real way: events, collector, outbox, channels, and servers on loopback that take what
arrives. What they took is shown by headless Chromium: the mail as it is, Telegram's text and the webhook's JSON as a
page each.
"""
# ruff: noqa: INP001 a script, in a folder of pictures

from __future__ import annotations

import email
import html
import json
import shutil
import subprocess
import sys
import tempfile
from email.policy import default
from pathlib import Path
from typing import Any

import fakeredis

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from demo.sinks import SmtpSink  # noqa: E402
from demo.stand_in import StandIn  # noqa: E402
from resilience.config.settings import load  # noqa: E402
from resilience.store.scripts import Scripts  # noqa: E402
from tasks import runtime  # noqa: E402

FOLDER = Path(__file__).parent
START = 1_795_504_327.0  # 2026-11-24 07:12:07 UTC
SICK = "4 of 5 requests failed, last: ElevenLabs answered 503: service_unavailable"
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


class Mailbox(SmtpSink):
    """Keeps the mails that come in: subject and HTML part."""

    pages: dict[str, str]

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.original_content, policy=default)
        page: Any = mail.get_body(("html",))
        self.pages[str(mail["subject"])] = page.get_content()
        return await super().handle_DATA(server, session, envelope)


class Story:
    """Writes events, and delivers the alerts that they call for."""

    def __init__(self, rt: runtime.Runtime) -> None:
        self.rt = rt

    def event(self, at: float, kind: str, **fields: Any) -> None:
        event: Any = {"event": kind, "at": int((START + at) * 1000), "service": "elevenlabs", **fields}
        self.rt.scripts.client.xadd("{lineman}:events", event)

    def deliver(self, at: float) -> None:
        self.rt.collector.collect(now=START + at)
        for id, channel in self.rt.sender.take_due(now=START + at):
            self.rt.sender.deliver(id, channel, now=START + at)


def play(story: Story) -> None:
    """An outage, a digest, a flapping service, a channel that is broken."""
    story.event(0, "breaker_opened", reason=SICK, until=int((START + 30) * 1000))
    for n in range(1, 13):
        story.event(0.1, "call_failed", call_id=f"spring:{n}", reason="ElevenLabs answered 503")
    story.deliver(1)
    story.event(95, "service_held", reason="ElevenLabs answered 401: the API key is not valid", waiting=214)
    story.deliver(96)
    story.event(754, "breaker_closed", waiting=331)
    story.deliver(755)
    for n in range(1, 48):
        story.event(2000, "call_failed", call_id=f"spring:4{n}", reason="the number +4915112345678 is not valid")
        if n == 1:
            story.deliver(2000)
    story.deliver(2301)
    story.event(3000, "alert_channel_broken", service="telegram", reason="Telegram answered 403: bot was blocked")
    story.deliver(3001)


def shoot(chromium: str, page: str, name: str, size: tuple[int, int], *, dark: bool = False) -> None:
    """Shows a page, and writes it as a picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page, encoding="utf-8")
        scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
        subprocess.run(
            [chromium, *HEADLESS, *scheme, f"--user-data-dir={folder}/profile", f"--window-size={size[0]},{size[1]}",
             f"--screenshot={FOLDER / name}", path.as_uri()],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip


TELEGRAM = """<meta charset="utf-8"><body style="margin:0;padding:20px;background:#8fb3a0;font:15px/21px
-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif">{}</body>"""
BUBBLE = """<div style="max-width:520px;margin:0 0 10px;padding:8px 12px;background:#fff;border-radius:12px;
white-space:pre-wrap;color:#111">{}</div>"""
JSON = """<meta charset="utf-8"><body style="margin:0;padding:20px;background:#12151a"><pre style="margin:0;
color:#e7eaee;font:13px/19px Consolas,Menlo,'DejaVu Sans Mono',monospace;white-space:pre-wrap">{}</pre></body>"""


def bubbles(texts: list[str]) -> str:
    return TELEGRAM.format("".join(BUBBLE.format(html.escape(text)) for text in texts))


def with_headers(alert: Any) -> str:
    head = "".join(f"{name}: {value}\n" for name, value in alert.headers.items())
    return JSON.format(html.escape(f"POST /webhook\n{head}\n{json.dumps(json.loads(alert.text), indent=2)}"))


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("there is no Chromium: install it, for example with apt-get install chromium")
    with StandIn() as stand_in, Mailbox(stand_in.alerts, stand_in.faults) as mailbox:
        mailbox.pages = {}
        environment = {
            "ELEVEN_API_KEY": "key", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mailbox.port),
            "WEBHOOK_URL": f"{stand_in.url}/webhook", "WEBHOOK_SECRET": "a secret of the docs",
            "TELEGRAM_BASE_URL": stand_in.url, "TELEGRAM_BOT_TOKEN": "1:docs", "TELEGRAM_CHAT_ID": "7",
        }  # fmt: skip
        scripts = Scripts(fakeredis.FakeRedis(decode_responses=True))
        play(Story(runtime.build(load(str(ROOT / "config.yml"), environment), scripts)))

    def mail(part: str) -> str:
        return next(page for subject, page in mailbox.pages.items() if part in subject)

    shoot(chromium, mail("down since"), "mail-first.png", (680, 385))
    shoot(chromium, mail("held since"), "mail-held-dark.png", (680, 390), dark=True)
    shoot(chromium, mail("resolved"), "mail-resolved.png", (680, 397))
    shoot(chromium, mail("46 more"), "mail-digest.png", (680, 365))
    shoot(chromium, mail("not arriving"), "mail-channel.png", (680, 318))
    alerts = stand_in.alerts
    texts = [a.text for a in alerts.telegrams]
    shoot(chromium, bubbles([texts[0], texts[2]]), "telegram.png", (580, 500))
    shoot(chromium, with_headers(alerts.webhooks[0]), "webhook.png", (820, 820))


if __name__ == "__main__":
    main()
