"""Kept connections, one set per thread, whose owner is asked while an answer lets itself be waited for.

What a thread does meanwhile is its own affair: a mark for the other workers, a second endpoint, giving up. So no
thread is needed to wait beside another one, and an answer that comes at once costs nothing.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read

# At DEBUG these write the whole URL, and with it the provider's key.
for _name in ("web3.providers.HTTPProvider", "web3.manager.RequestManager", "urllib3.connectionpool"):
    logging.getLogger(_name).setLevel(logging.INFO)

# Called with the socket once the request is sent; returns when the answer may be read, or raises.
Waiting = Callable[[socket.socket], None]

_local = threading.local()


@contextmanager
def waiting_with(waiting: Waiting | None) -> Iterator[None]:
    """Have `waiting` called while this thread waits for an answer."""
    _local.waiting = waiting
    try:
        yield
    finally:
        _local.waiting = None


def readable(sock: socket.socket, seconds: float) -> bool:
    """Return whether there is something to read, now or within so many seconds."""
    pending = getattr(sock, "pending", None)  # of TLS: what was received and not read yet
    return bool(pending and pending()) or wait_for_read(sock, max(0.0, seconds))


class _Patient:
    """A connection that has its owner wait."""

    sock: Any

    def getresponse(self) -> Any:
        waiting: Waiting | None = getattr(_local, "waiting", None)
        if waiting is not None and self.sock is not None:
            waiting(self.sock)
        return super().getresponse()  # type: ignore[misc]


class _Http(_Patient, HTTPConnection):
    pass


class _Https(_Patient, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


POOLS = {"http": _HttpPool, "https": _HttpsPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager


class ThreadSessions:
    """Looks like a session; each thread has one of its own behind it."""

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        session: requests.Session | None = getattr(_local, "session", None)
        if session is None:
            session = requests.Session()
            adapter = _Adapter(max_retries=urllib3.Retry(0, read=False))
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            _local.session = session
        return session.post(*args, **kwargs)
