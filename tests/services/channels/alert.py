"""The alert that the channels' tests send; what a channel does with one field is in its own test."""

from __future__ import annotations

from resilience.alerts.message import Message

DOWN = Message(
    id="7-down",
    key="elevenlabs:service_down",
    status="firing",
    severity="critical",
    kind="service_down",
    service="elevenlabs",
    subject="ElevenLabs is down",
    text="3 calls wait.",
)
