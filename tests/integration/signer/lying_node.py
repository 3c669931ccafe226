"""A proxy before a node that is slow, loses requests, loses answers, lags behind and tells untruths, as told.

An HTTP server of the test's own process, so workers of other processes may be put behind it too. Whole batches go to
the node over kept connections: some hundred requests a second.
"""

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Call = dict[str, Any]
# Given a call, returns the answer to give instead of the node's ({"error": ...} or {"result": ...}), or None.
Lie = Callable[[Call], dict[str, Any] | None]

SEND = "eth_sendRawTransaction"
SLOW_SECONDS = 2.0
# What is asked of the state at a block, and where among the parameters the block is.
TAGGED = {"eth_getBalance": 1, "eth_getTransactionCount": 1, "eth_call": 1, "eth_getBlockByNumber": 0}


@dataclass
class Chaos:
    """Faults at random, the same on each run with the same seed: shares of all requests, and seconds."""

    seed: int = 0
    errors: float = (
        0.0  # answered by HTTP 502, a JSON-RPC error or a closed connection; the node never sees them
    )
    dropped: float = 0.0  # the node does as asked, and its answer is lost
    latency: float = 0.0  # at most so many seconds each
    slow: float = 0.0  # are served after SLOW_SECONDS

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self) -> tuple[float, float]:
        """Return where among the faults a request falls, and its latency."""
        with self._lock:
            place, seconds = self._random.random(), self._random.random() * self.latency
            return place, SLOW_SECONDS if self._random.random() < self.slow else seconds


class LyingNode:
    """`url` serves the node's JSON-RPC; what it does wrong is set on its attributes at any time."""

    def __init__(self, node_url: str) -> None:
        self.node_url = node_url
        self.lose_requests = False  # the node never sees them; the caller gets a closed connection
        self.lose_answers = False  # the node does as asked; the caller gets HTTP 502
        self.only: set[str] | None = None  # the methods that faults of whole requests touch; all when None
        self.delay = 0.0  # seconds before an answer
        self.status = 0  # of an HTTP error instead of an answer, such as 429; the node never sees the request
        self.retry_after: str | None = None  # ... and its header
        self.garble: bytes | None = None  # the body instead of the answer's
        self.truncate = False  # the answer breaks off in the middle
        self.batch_max: int | None = None  # larger batches are refused as a whole
        self.lie: Lie | None = None
        self.leave_out: set[str] = set()  # calls of these methods get no answer in a batch
        self.halve = False  # a batch gets answers to its first half alone
        self.wrong_hash = False  # a transaction is taken, and another hash told
        self.chaos: Chaos | None = None
        self.frozen_at: int | None = None
        self.requests = 0  # that came here, whatever became of them
        self.connections = 0
        self.seen: Counter[str] = Counter()  # calls that reached the node, by method
        self.raw: list[str] = []  # raw transactions that reached the node
        self.faults: Counter[str] = Counter()  # by kind, so that a test can tell whether they struck
        self._local = threading.local()
        self._server = _server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.hang_up()

    def freeze(self) -> None:
        """Have it know nothing of what comes after the present head, like a node that stopped following its chain."""
        self.frozen_at = int(
            self.forward({"jsonrpc": "2.0", "id": 0, "method": "eth_blockNumber"})["result"], 16
        )

    def thaw(self) -> None:
        self.frozen_at = None

    # --- One request ----------------------------------------------------------------------------------------

    def handle(self, body: bytes) -> tuple[int, bytes]:
        """Return the HTTP status and body of the answer; status 0: none, the connection is closed."""
        try:
            calls = json.loads(body)
        except ValueError:  # of a caller that died before it had sent all of it
            return 400, b'{"error": "not JSON"}'
        many: list[Call] = calls if isinstance(calls, list) else [calls]
        self.requests += 1
        affected = self.only is None or any(call["method"] in self.only for call in many)
        drawn = self._draw() if self.chaos and affected else ""
        if affected:
            time.sleep(self.delay)
            if self.lose_requests or drawn == "closed":
                return 0, b""
            if self.status or drawn == "bad gateway":
                return self.status or 502, b'{"error": "no"}'
            if drawn == "internal error":
                return 200, _refusal(calls, -32603, "internal error")
        if self.batch_max is not None and len(many) > self.batch_max:
            self.faults["too large"] += 1
            return 200, _refusal(calls, -32600, "batch too large")
        try:
            answers = self._answers(many)
        except (http.client.HTTPException, OSError):  # the node itself is gone
            return 502, b"Bad Gateway"
        if affected and (self.lose_answers or drawn == "dropped"):
            return 502, b"Bad Gateway"
        kept = [a for call, a in zip(many, answers, strict=True) if call["method"] not in self.leave_out]
        if self.halve and isinstance(calls, list):
            kept = kept[: len(kept) // 2]
        answer = json.dumps(kept if isinstance(calls, list) else kept[0]).encode()
        if affected and self.garble is not None:
            return 200, self.garble
        return 200, answer[: len(answer) // 2] if self.truncate and affected else answer

    def _draw(self) -> str:
        assert self.chaos is not None
        place, seconds = self.chaos.draw()
        self.faults["slow"] += seconds == SLOW_SECONDS
        time.sleep(seconds)
        kinds = {
            "closed": self.chaos.errors / 3,
            "bad gateway": self.chaos.errors / 3,
            "internal error": self.chaos.errors / 3,
            "dropped": self.chaos.dropped,
        }
        for kind, part in kinds.items():
            place -= part
            if place < 0:
                self.faults[kind] += 1
                return kind
        return ""

    def _answers(self, calls: Sequence[Call]) -> list[Any]:
        lies = [self.lie(call) if self.lie else None for call in calls]
        honest = [self._asked(call) for call, lie in zip(calls, lies, strict=True) if lie is None]
        for call in honest:
            self.seen[call["method"]] += 1
            if call["method"] == SEND:
                self.raw.append(call["params"][0])
        forwarded = iter(self.forward(honest) if honest else [])
        return [
            self._told(call, next(forwarded)) if lie is None else {"jsonrpc": "2.0", "id": call["id"], **lie}
            for call, lie in zip(calls, lies, strict=True)
        ]

    def _asked(self, call: Call) -> Call:
        """Return the call as the node is asked: of the block where it has stopped."""
        place = TAGGED.get(call["method"])
        if self.frozen_at is None or place is None or call["params"][place] not in ("latest", "pending"):
            return call
        params = list(call["params"])
        params[place] = hex(self.frozen_at)
        return {**call, "params": params}

    def _told(self, call: Call, answer: Any) -> Any:
        if self.wrong_hash and call["method"] == SEND and "result" in answer:
            return {**answer, "result": "0x" + "de" * 32}
        if self.frozen_at is None:
            return answer
        if call["method"] == "eth_blockNumber":
            return {**answer, "result": hex(self.frozen_at)}
        found = answer.get("result")
        number = found.get("number") or found.get("blockNumber") if isinstance(found, dict) else None
        return {**answer, "result": None} if number and int(number, 16) > self.frozen_at else answer

    def forward(self, calls: Any) -> Any:
        """Return what the node answers, to a call or to a list of them in their order.

        Raises HTTPException or OSError when the node cannot be reached.
        """
        body = json.dumps(calls)
        try:
            answer = self._post(body)
        except (http.client.HTTPException, OSError):  # the node may have closed a kept connection meanwhile
            answer = self._post(body)
        if not isinstance(calls, list):
            return answer
        by_id = {item["id"]: item for item in answer}
        return [by_id[call["id"]] for call in calls]

    def _post(self, body: str) -> Any:
        if getattr(self._local, "node_url", "") != self.node_url:
            self.hang_up()
            self._local.node_url = self.node_url
        connection = getattr(self._local, "connection", None)
        if connection is None:
            parts = urlsplit(self.node_url)
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=30)
            self._local.connection = connection
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        except (http.client.HTTPException, OSError):
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Close this thread's connection to the node."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()


def _refusal(calls: Any, code: int, message: str) -> bytes:
    number = None if isinstance(calls, list) else calls["id"]
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}).encode()


def _server(node: LyingNode) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: else each answer waits 40 ms for the client's delayed acknowledgement.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = node.handle(body)
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            if status != 200 and node.retry_after is not None:
                self.send_header("Retry-After", node.retry_after)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            node.connections += 1
            with suppress(ConnectionError):  # whoever asked has given up
                super().handle()
            node.hang_up()

        def finish(self) -> None:
            with suppress(ConnectionError):
                super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server


def says(method: str, message: str, times: int = 10**9, code: int = -32000) -> Lie:
    """Return a lie: the next `times` calls of `method` get this error."""
    left = [times]

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] != method or left[0] <= 0:
            return None
        left[0] -= 1
        return {"error": {"code": code, "message": message}}

    return lie
