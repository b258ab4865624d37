"""The outside world: one client a service. HTTP and SMTP here; no Celery, no Redis."""
