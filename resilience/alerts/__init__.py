"""Alerts: from events to messages that an admin reads."""
