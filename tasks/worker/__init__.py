"""What is added to Celery's worker and beat: patches, watchdogs and a schedule."""
