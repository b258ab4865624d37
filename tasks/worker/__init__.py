"""What is added to Celery's worker: patches and watchdogs."""
