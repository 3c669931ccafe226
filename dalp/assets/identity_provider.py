"""A small identity provider for demos and tests: it registers a token's holders once per idempotency key.

    python -m dalp.assets.identity_provider --port 8100

POST /registrations   with an Idempotency-Key; the same key and body get the first answer again, another body gets 422
GET  /registrations   everything that was registered, and how often each was asked for
Kept in memory only. It is not for production: it knows no callers and checks no rights.
"""

import argparse
import json
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BODY_MAX = 1024 * 1024
Answer = tuple[int, dict[str, Any]]


@dataclass
class Registration:
    """One registration and how often it was asked for."""

    id: str
    key: str
    body: dict[str, Any]
    requests: int = 1


class Registry:
    """What was registered, by idempotency key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Registration] = {}

    def register(self, key: str, body: dict[str, Any]) -> Answer:
        """Register the body under the key, or answer as the first time."""
        with self._lock:
            known = self._by_key.get(key)
            if known is None:
                known = self._by_key[key] = Registration(uuid.uuid4().hex, key, body)
                return 201, {"id": known.id}
            known.requests += 1
            if known.body != body:
                return 422, {"detail": "this Idempotency-Key was used with another body"}
            return 200, {"id": known.id}

    def all(self) -> list[dict[str, Any]]:
        with self._lock:
            return [vars(registration) | {} for registration in self._by_key.values()]


class Handler(BaseHTTPRequestHandler):
    """Answers requests; the registry hangs on the server."""

    server: "IdentityProvider"

    def do_GET(self) -> None:
        if self.path == "/registrations":
            self._answer(200, {"registrations": self.server.registry.all()})
        else:
            self._answer(404, {"detail": "no such path"})

    def do_POST(self) -> None:
        self._answer(*self._register())

    def _register(self) -> Answer:
        if self.path != "/registrations":
            return 404, {"detail": "no such path"}
        key = self.headers.get("Idempotency-Key", "").strip()
        length = self.headers.get("Content-Length", "")
        if not key:
            return 400, {"detail": "an Idempotency-Key is required"}
        if not length.isdigit() or int(length) > BODY_MAX:
            return 413, {"detail": f"a body of at most {BODY_MAX} bytes is required"}
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            return 400, {"detail": "the body must be JSON"}
        if not isinstance(body, dict):
            return 400, {"detail": "the body must be a JSON object"}
        return self.server.registry.register(key, body)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the demo's terminal belongs to the run."""


class IdentityProvider(ThreadingHTTPServer):
    """The server; `port` 0 takes a free one, `.url` says where it is."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.registry = Registry()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A small identity provider for the demo.")
    parser.add_argument("--port", type=int, default=8100)
    server = IdentityProvider(parser.parse_args(arguments).port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
