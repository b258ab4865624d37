"""Keeps a worker alive, and quick to return, when Redis restarts. Two patches of kombu 5.7.0 under Celery 5.7.0.

1. Celery closes the transport before the consumer's last acknowledgements; kombu's Redis channel then looks for its
   connection's parameters in a transport that has none any more, and the worker's main process dies of
   `AttributeError: 'NoneType' object has no attribute 'hostname'` (6 of 6 in the trial, with a retry waiting in the
   worker), or 'alt' on Sentinel. The transport keeps them. It can go once tests/worker/test_redis_restart.py and
   test_sentinel.py pass without.
2. The consumer asks for a connection after 2, 4, 6 ... 30 s, and no setting reaches these numbers: a worker came back
   8 s after a Redis that had been away for 12 s. Here it asks each second.
"""

from functools import partialmethod

from kombu.connection import Connection


def _leave_transport(self: Connection) -> None:
    self._transport = None  # kombu also sets the transport's `client`, which is this connection, to None


def install() -> None:
    """Patches kombu. Harmless to repeat."""
    patched = isinstance(Connection.__dict__["ensure_connection"], partialmethod)
    each_second = partialmethod(Connection.ensure_connection, interval_start=1, interval_step=0, interval_max=1)
    vars_ = {"_do_close_transport": _leave_transport} | ({} if patched else {"ensure_connection": each_second})
    for name, function in vars_.items():
        setattr(Connection, name, function)
