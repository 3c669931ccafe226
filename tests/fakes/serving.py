"""HTTP servers that stand in for services: on a free port, in a thread, with faults that a test switches on.

A fault is for the next requests that it fits, each once; what is not named fits all. `requests` keeps what arrived.
"""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What arrived. Header names are in lower case."""

    method: str
    target: str  # path and query
    headers: Mapping[str, str]
    body: bytes
    at: float  # monotonic

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What is answered: bytes as they are, anything else as JSON."""

    status: int
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong, with requests of which method and part of a path, and how often still."""

    kind: str  # lose_request, lose_answer, delay, answer
    method: str = ""
    part: str = ""
    times: int = 1
    seconds: float = 0.0
    reply: Reply | None = None

    def fits(self, request: Request) -> bool:
        return self.times > 0 and self.method in ("", request.method) and self.part in request.path


class HttpFake(ABC):
    """A service. A subclass says in `respond` what it does; only one thread is in there at a time."""

    prefix = ""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.clock_offset_seconds = 0.0
        self.lock = threading.RLock()
        self._server = _server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}{self.prefix}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()

    @abstractmethod
    def respond(self, request: Request) -> Reply:
        """Answer a request."""

    def now(self) -> float:
        """Return what the service's clock shows."""
        return time.time() + self.clock_offset_seconds

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, part: str) -> int:
        """Return how many requests of this method have arrived with this in their path."""
        return sum(each.method == method and part in each.path for each in self.requests)

    # --- Faults ---------------------------------------------------------------------------------------------

    def lose_request(self, method: str = "", part: str = "", times: int = 1) -> None:
        """Close the connection, with nothing done."""
        self.faults.append(Fault("lose_request", method, part, times))

    def lose_answer(self, method: str = "", part: str = "", times: int = 1) -> None:
        """Do what is asked, and close the connection."""
        self.faults.append(Fault("lose_answer", method, part, times))

    def delay(self, seconds: float, method: str = "", part: str = "", times: int = 1) -> None:
        """Do what is asked, and answer so much later."""
        self.faults.append(Fault("delay", method, part, times, seconds))

    def answer(self, reply: Reply, method: str = "", part: str = "", times: int = 1) -> None:
        """Do nothing, and answer this."""
        self.faults.append(Fault("answer", method, part, times, reply=reply))

    def storm(self, times: int, retry_after: str | None = "1", status: int = 429) -> None:
        """Refuse the next requests as too many, or with a server's error."""
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        self.answer(Reply(status, {"message": "slow down", "code": 0}, headers), times=times)

    def _fault(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.fits(request):
                    fault.times -= 1
                    return fault
        return None


def _server(fake: HttpFake) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms for each answer otherwise
        wbufsize = -1

        def log_message(self, *_: Any) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body, time.monotonic())
            with fake.lock:
                fake.requests.append(request)
            fault = fake._fault(request)
            kind = fault.kind if fault else ""
            if kind == "lose_request":
                self.close_connection = True
                return
            if fault and fault.reply:
                self._answer(fault.reply)
                return
            with fake.lock:
                reply = fake.respond(request)
            if kind == "lose_answer":
                self.close_connection = True
                return
            if fault and kind == "delay":
                time.sleep(fault.seconds)
            self._answer(reply)

        do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

        def send_response(self, code: int, message: str | None = None) -> None:
            self.send_response_only(code, message)
            self.send_header("Date", formatdate(fake.now(), usegmt=True))

        def _answer(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                self.close_connection = True  # the client has given up waiting

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    return Server(("127.0.0.1", 0), Handler)


Node = Callable[..., Any]  # rpc(method, *params) of a chain


def send_call(node: Node, account: Any, call: Mapping[str, Any], nonce: int, fee_wei: int) -> str:
    """Sign and send a call with the account's key, and return its hash. call: to, value, data."""
    fields = {
        "chainId": int(node("eth_chainId"), 16),
        "nonce": nonce,
        "gas": 200_000,
        "value": call["value"],
        "data": call["data"],
        "maxFeePerGas": fee_wei,
        "maxPriorityFeePerGas": fee_wei // 2,
    }
    to = {"to": call["to"]} if call["to"] else {}
    raw = account.sign_transaction({**fields, **to}).raw_transaction
    return str(node("eth_sendRawTransaction", "0x" + bytes(raw).hex()))
