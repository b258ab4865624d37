"""Keeps a worker alive, and quick to return, when Redis restarts. Two patches of kombu 5.7.0 under Celery 5.7.0.

1. Celery closes the transport before the consumer's last acknowledgements; kombu's Redis channel then looks for its
   connection's parameters in a transport that is gone, and the worker's main process dies of `AttributeError:
   'NoneType' object has no attribute 'hostname'` (6 of 6 in the trial, with a retry waiting in the worker). The
   parameters of the open connection are remembered. It can go once tests/worker/test_redis_restart.py passes without.
2. The consumer asks for a connection after 2, 4, 6 ... 30 s, and no setting reaches these numbers: a worker came back
   8 s after a Redis that had been away for 12 s. Here it asks each second.
"""

from functools import partialmethod

from kombu import Connection
from kombu.transport import redis as transport

_connparams = transport.Channel._connparams


def _remembered(self, asynchronous=False):
    known = self.__dict__.setdefault("_known_connparams", {})
    if self.connection is not None and self.connection.client is not None:
        known[asynchronous] = _connparams(self, asynchronous)
    return dict(known[asynchronous] if asynchronous in known else known[not asynchronous])


def install():
    """Patches kombu. Harmless to repeat."""
    transport.Channel._connparams = _remembered
    if not isinstance(Connection.__dict__["ensure_connection"], partialmethod):
        Connection.ensure_connection = partialmethod(
            Connection.ensure_connection, interval_start=1, interval_step=0, interval_max=1
        )
