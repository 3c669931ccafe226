"""A receiver of webhooks: a real HTTP server that keeps what it got and answers as told."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook as Verifier

# Given what came, returns the status to answer with, and headers.
Manner = Callable[["Received"], tuple[int, dict[str, str]]]


@dataclass
class Received:
    """One POST."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def transaction(self) -> str:
        return str(self.event["data"]["id"])

    def verify(self, secret: str) -> None:
        """Raise unless signature and timestamp are valid, as a receiver would find them."""
        Verifier(secret).verify(self.body, self.headers)


class Receiver:
    """`url`, `got`; `manner` says how it answers."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.got: list[Received] = []
        self.manner: Manner = lambda _received: (200, {})
        self.drops = False  # takes the request and closes the connection without a word
        self.dribbles = False  # sends its answer one byte after the other, without end
        self.hangs = threading.Event()  # set: answers nothing, until it is stopped
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, format: str, *args: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/hook?key=verysecret"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self._answer(handler)
        finally:
            with self._lock:
                self._now -= 1

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        received = Received(handler.path, {k.lower(): v for k, v in handler.headers.items()}, body)
        with self._lock:
            self.got.append(received)
        if self.hangs.is_set():
            self._stopped.wait(30)
            return
        if self.drops:
            handler.connection.close()
            return
        if self.dribbles:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self._stopped.wait(0.05):
                handler.wfile.write(b"x")
            return
        status, headers = self.manner(received)
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    def answer(self, status: int, **headers: str) -> None:
        """Answer everything so from now on."""
        self.manner = lambda _received: (status, {k.replace("_", "-"): v for k, v in headers.items()})

    @property
    def types(self) -> list[str]:
        return [received.type for received in self.got]

    def of(self, transaction_id: object) -> list[str]:
        """What it was told of a transaction, in order."""
        return [received.type for received in self.got if received.transaction == str(transaction_id)]

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    server = Receiver(tls)
    yield server
    server.stop()
