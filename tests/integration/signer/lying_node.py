"""A proxy before a node that loses requests, loses answers, and tells untruths, as told."""

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Call = dict[str, Any]
# Given a call, returns the answer to give instead of the node's ({"error": ...} or {"result": ...}), or None.
Lie = Callable[[Call], dict[str, Any] | None]


class LyingNode:
    """`url` serves the node's JSON-RPC; what it does wrong is set on its attributes at any time."""

    def __init__(self, node_url: str) -> None:
        self.node_url = node_url
        self.lose_requests = False  # the node never sees them; the caller gets a closed connection
        self.lose_answers = False  # the node does as asked; the caller gets HTTP 502
        self.only: set[str] | None = None  # the methods that are lost; all when None
        self.lie: Lie | None = None
        self.leave_out: set[str] = set()  # calls of these methods get no answer in a batch
        self.seen: Counter[str] = Counter()  # calls that reached the node, by method
        self.raw: list[str] = []  # raw transactions that reached the node
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = node.handle(body)
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, body: bytes) -> tuple[int, bytes]:
        calls = json.loads(body)
        many = calls if isinstance(calls, list) else [calls]
        affected = self.only is None or any(call["method"] in self.only for call in many)
        if self.lose_requests and affected:
            return 0, b""
        answers = [self._answer(call) for call in many]
        if self.lose_answers and affected:
            return 502, b"Bad Gateway"
        kept = [a for call, a in zip(many, answers, strict=True) if call["method"] not in self.leave_out]
        return 200, json.dumps(kept if isinstance(calls, list) else kept[0]).encode()

    def _answer(self, call: Call) -> Any:
        lie = self.lie(call) if self.lie else None
        if lie is not None:
            return {"jsonrpc": "2.0", "id": call["id"], **lie}
        self.seen[call["method"]] += 1
        if call["method"] == "eth_sendRawTransaction":
            self.raw.append(call["params"][0])
        request = urllib.request.Request(
            self.node_url, json.dumps(call).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read())


def says(method: str, message: str, times: int = 10**9, code: int = -32000) -> Lie:
    """Return a lie: the next `times` calls of `method` get this error."""
    left = [times]

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] != method or left[0] <= 0:
            return None
        left[0] -= 1
        return {"error": {"code": code, "message": message}}

    return lie
