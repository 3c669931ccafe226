"""A proxy before PostgreSQL that cuts a connection around its COMMIT: the client cannot know whether it was committed."""

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from django.db import connections

# As psycopg sends it: a simple query, with its length and the byte that ends it.
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class DatabaseProxy:
    """What it does wrong is set on its attributes at any time."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        # The next COMMIT: is it cut off before the server sees it, or after the server has carried it out?
        self.cut: Literal["", "before", "after"] = ""
        self.stays_away = False  # from the cut on, as a server that restarts
        self.is_away = False  # new connections are closed at once
        self.struck = 0
        self._server = _server(self)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def relay(self, client: socket.socket) -> None:
        """Carry bytes to and fro until one side hangs up, or the connection is cut."""
        if self.is_away:
            return
        with socket.create_connection(self.target) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data or (source is client and self._strikes(data, server)):
                        return
                    (server if source is client else client).sendall(data)

    def _strikes(self, data: bytes, server: socket.socket) -> bool:
        """Return whether the connection ends here."""
        if not self.cut or COMMIT not in data:
            return False
        cut, self.cut = self.cut, ""
        self.struck += 1
        self.is_away = self.stays_away
        if cut == "after":
            server.sendall(data)
            assert server.recv(65536), "the server has answered"
        return True


def _server(proxy: DatabaseProxy) -> socketserver.ThreadingTCPServer:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                proxy.relay(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    return Server(("127.0.0.1", 0), Handler)


@contextmanager
def reached_through_a_proxy() -> Iterator[DatabaseProxy]:
    """Have this process's Django, all its threads, reach its database through a proxy."""
    configuration = connections.settings["default"]
    before = configuration["PORT"]
    proxy = DatabaseProxy(configuration["HOST"], int(before))

    def switch(port: object) -> None:
        connections["default"].close()
        configuration["PORT"] = connections["default"].settings_dict["PORT"] = port

    switch(proxy.port)
    try:
        yield proxy
    finally:
        switch(before)
        proxy.stop()
