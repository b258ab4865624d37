"""The store: one Redis, its scripts, its event stream and its outboxes."""
