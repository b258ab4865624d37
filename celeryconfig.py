"""Celery's settings, each with its reason. Policy is in config.yml, what was measured in docs/architecture.md.

Celery on Redis neither keeps every message nor runs it once. The call store is the truth; a message is a wake-up call.
"""

from typing import Any

from kombu.entity import Exchange, Queue

from resilience.config.settings import load as _load
from resilience.store.connection import for_kombu as _for_kombu

_settings = _load()
_run, _redis = _settings.task_time_limit, _settings.redis

# Of a Sentinel set kombu reads no option in the URL, and asks each sentinel with the password of its own URL alone.
broker_url, _sentinel = _for_kombu(_settings.broker.url or _redis.url, connect_timeout=_redis.connect_timeout)
# No results: the state of a call is in the store, and a result backend makes a publish block while Redis is down.
result_backend = None
task_ignore_result = True

task_serializer = result_serializer = "json"
accept_content = ["json"]
enable_utc = True
timezone = "UTC"

# Classic queues on RabbitMQ: what a lost queue held, the dispatcher publishes again, and a quorum queue would neither
# raise the prefetch for retries that wait nor take the messages of an app that declares the queue as Celery does.
# Two queues, so that no number of slow calls delays dispatching, health checks and alerts. A misspelt queue is an
# error, not a queue that nobody reads.
task_queues = [Queue(name, Exchange(name), routing_key=name) for name in ("calls", "control")]
task_default_queue = "calls"
task_create_missing_queues = False
task_routes = {f"tasks.{name}.*": {"queue": "control"} for name in ("dispatch", "health", "alerts")}

# A message is kept until its task is over: a killed worker's message comes back. The store refuses a duplicate.
task_acks_late = True
# False would run a task that fails, or is too slow, for ever.
task_acks_on_failure = True
task_acks_on_timeout = True
# A child that dies hands its message back; without a bound it would do so for ever, hence the second line.
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True
# Its default revokes and then acknowledges what ran when the connection went: lost.
worker_cancel_long_running_tasks_on_connection_loss = False
# Needs a result backend and does not see copies that run at the same time.
worker_deduplicate_successful_tasks = False

# The soft limit lets a task write its verdict; the hard one bounds the visibility timeout.
task_soft_time_limit = _run - 10
task_time_limit = _run

# Celery's own consumer ends where a message is not as it expects.
worker_consumer = "tasks.worker.consumer:Consumer"
# Calls wait for the network, not for the processor.
worker_concurrency = 8
# One message a process: what a worker holds back, nobody else can take.
worker_prefetch_multiplier = 1
# Above any number of retries that wait at once; at the limit a worker consumes nothing.
worker_eta_task_limit = 1000
worker_max_tasks_per_child = 1000

# SIGTERM waits so long for running tasks and then hands them back (with REMAP_SIGTERM=SIGQUIT, see docker-compose.yml).
worker_soft_shutdown_timeout = _run
# The wait is a plain sleep: True would stop an idle worker a minute late. A retry that waits in it is in the store.
worker_enable_soft_shutdown_on_idle = False

# The default gives up after 100 tries, and a worker that stopped trying looks alive.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# RabbitMQ alone: a connection that is half open is noticed within 25 s. Celery's own 120 s would be four minutes.
broker_heartbeat = 10
_on_redis = broker_url.startswith(("redis", "sentinel"))
broker_transport_options = (
    {
        **_sentinel,
        # Longer than the longest countdown and run together (config.py checks it): shorter runs a task twice.
        "visibility_timeout": _settings.broker.visibility_timeout,
        # A sweep each 5 s instead of each 100 s, and a sweeper that was killed blocks the next one for 30 s, not 300 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 30,
        # kombu's default waits for ever on a connection that is half open.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # Caps the wait of a publish as well. Short: the store is the outbox, the dispatcher publishes again.
        "connect_retries_timeout": 5,
        "client_name": "lineman",
        "priority_steps": [0],
        "queue_order_strategy": "round_robin",
    }
    if _on_redis
    else {}
)
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}

# Flower shows tasks only with events.
worker_send_task_events = True
task_send_sent_event = True


# A control worker compares `expires`, set by beat's clock, with its own: a day, so that one whose clock is hours ahead
# drops nothing. A tick that runs late is harmless: it takes its slot in Redis first.
def _every(task: str, seconds: float, *args: str) -> dict[str, Any]:
    return {"task": task, "schedule": seconds, "args": args, "options": {"expires": 86400}}


beat_schedule = {
    "dispatch": _every("tasks.dispatch.dispatch", _settings.calls.dispatch.interval),
    "alerts": _every("tasks.alerts.watch", _settings.alerts.interval),
    **{
        f"health of {name}": _every("tasks.health.check", service.health.interval, name)
        for name, service in _settings.services.items()
        if service.enabled
    },
}
beat_scheduler = "tasks.worker.schedule:BoundedScheduler"
beat_max_loop_interval = min(5.0, *(entry["schedule"] for entry in beat_schedule.values()))
# `celery inspect ping -d celerybeat@HOST` answers only while beat's loop goes on.
beat_enable_remote_control = True
