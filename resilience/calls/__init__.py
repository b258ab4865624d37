"""Calls: from a contact to a terminal state."""
