"""Keeps a worker alive when Redis restarts while it holds a message.

Celery 5.7.0 closes the transport before the consumer's last acknowledgements; kombu's Redis channel then looks for
its connection's parameters in a transport that is gone, and the worker's main process dies of `AttributeError:
'NoneType' object has no attribute 'hostname'` (6 of 6 in the trial, with a retry waiting in the worker). Remembering
the parameters of the open connection is enough. It can go once a Celery newer than 5.7.0 survives
tests/worker/test_redis_restart.py without it.
"""

from kombu.transport import redis as transport

_connparams = transport.Channel._connparams


def _remembered(self, asynchronous=False):
    known = self.__dict__.setdefault("_known_connparams", {})
    if self.connection is not None and self.connection.client is not None:
        known[asynchronous] = _connparams(self, asynchronous)
    return dict(known[asynchronous] if asynchronous in known else known[not asynchronous])


def install():
    """Patches kombu's Redis channel. Harmless to repeat."""
    transport.Channel._connparams = _remembered
