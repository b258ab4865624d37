"""The mechanism: breaker, call store, retry, classification. Redis here; no Celery, no HTTP."""
