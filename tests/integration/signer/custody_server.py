"""A custody that owns a key, its nonces and its fees, and sends by itself: a service over HTTP, and its client.

The service answers as told: it holds for approval, refuses, loses replies, is slow, replaces what it sent, sends
something else. One external id is one request of its own for ever, like those of real ones.
"""

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from eth_account import Account

from dalp.local.servers import AnvilServer
from keyguard import Call, CustodyState, Report, curve
from keyguard.custodians import Ticket

STATES = {
    "PENDING_APPROVAL": CustodyState.AWAITING_APPROVAL,
    "BROADCAST": CustodyState.SENT,
    "REJECTED": CustodyState.REFUSED,
    "CANCELLED": CustodyState.REFUSED,
    "FAILED": CustodyState.FAILED,
}


@dataclass
class Request:
    """What the custody was asked for, and what it did about it."""

    call: dict[str, Any]
    status: str = "QUEUED"
    nonce: int | None = None
    hashes: tuple[str, ...] = ()
    reason: str = ""
    fee_wei: int = 4_000_000_000


class CustodyServer:
    """`url` serves it; how it behaves is set on its attributes at any time."""

    def __init__(self, anvil: AnvilServer) -> None:
        self.rpc, self.chain_id = anvil.rpc, anvil.chain_id
        self.account: Any = Account.create()
        self.address = str(self.account.address)
        self.requests: dict[str, Request] = {}
        self.seen: Counter[str] = Counter()  # calls that arrived, by method
        self.hold = False  # people must approve first
        self.keep = False  # it works on them and sends nothing
        self.refuse = ""  # its rules refuse all, in these words
        self.lose_requests = 0  # so many are closed unread
        self.lose_replies = 0  # so many are done, and their answer lost
        self.delay = 0.0  # seconds before an answer
        self.alter: dict[str, Any] = {}  # what it sends instead
        self.forget = False  # it says that it has no such request
        self._lock = threading.RLock()
        self._server = _server(self)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- What its people do -------------------------------------------------------------------------------

    def approve(self, external_id: Any) -> None:
        self.send(str(external_id))

    def reject(self, external_id: Any, reason: str = "not this month") -> None:
        request = self.requests[str(external_id)]
        request.status, request.reason = "REJECTED", reason

    def replace(self, external_id: Any) -> None:
        """Send it again at its nonce with a higher fee."""
        self.requests[str(external_id)].fee_wei *= 2
        self.send(str(external_id))

    def drop(self, external_id: Any) -> None:
        """Have a transaction that does nothing take its nonce."""
        request = self.requests[str(external_id)]
        request.fee_wei *= 2
        self._send(request, {"to": self.address, "value": 0, "data": "0x"})

    def lose_from_pool(self, external_id: Any) -> None:
        """Give it up after it was sent; its nonce is free for the next one."""
        request = self.requests[str(external_id)]
        self.rpc("anvil_dropTransaction", request.hashes[-1])
        request.status, request.reason = "FAILED", "dropped from the pool"

    def send(self, external_id: str) -> None:
        request = self.requests[external_id]
        self._send(request, {**request.call, **self.alter})

    def _send(self, request: Request, call: dict[str, Any]) -> None:
        if request.nonce is None:
            request.nonce = int(self.rpc("eth_getTransactionCount", self.address, "pending"), 16)
        fields = {
            "chainId": self.chain_id,
            "nonce": request.nonce,
            "gas": 200_000,
            "value": call["value"],
            "data": call["data"],
            "maxFeePerGas": request.fee_wei,
            "maxPriorityFeePerGas": request.fee_wei // 2,
        }
        to = {"to": call["to"]} if call["to"] else {}
        raw = self.account.sign_transaction({**fields, **to}).raw_transaction
        sent = str(self.rpc("eth_sendRawTransaction", "0x" + bytes(raw).hex()))
        request.hashes, request.status = (*request.hashes, sent), "BROADCAST"

    # --- What its API does --------------------------------------------------------------------------------

    def take(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            external_id = body.pop("externalId")
            if external_id not in self.requests:
                self.requests[external_id] = request = Request(body)
                if self.refuse:
                    request.status, request.reason = "REJECTED", self.refuse
                elif self.hold:
                    request.status = "PENDING_APPROVAL"
                elif not self.keep:
                    self.send(external_id)
            return self.show(external_id)

    def cancel(self, external_id: str) -> dict[str, Any]:
        with self._lock:
            request = self.requests[external_id]
            if not request.hashes:
                request.status, request.reason = "CANCELLED", "cancelled over the API"
            return self.show(external_id)

    def show(self, external_id: str) -> dict[str, Any]:
        request = self.requests[external_id]
        last = request.hashes[-1] if request.hashes else ""
        return {"status": request.status, "hash": last, "reason": request.reason}


def _server(custody: CustodyServer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            kind, _, name = self.path.strip("/").partition("/")
            if kind == "keys":
                self._answer(200, {"publicKey": custody.account._key_obj.public_key.to_bytes().hex()})
                return
            custody.seen["find"] += 1
            if self._is_lost("requests"):
                return
            known = name in custody.requests and not custody.forget
            self._answer(*((200, custody.show(name)) if known else (404, {"error": "no such request"})))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            name = self.path.strip("/").split("/")
            verb = "cancel" if name[-1] == "cancel" else "submit"
            custody.seen[verb] += 1
            if self._is_lost("requests"):
                return
            found = custody.cancel(name[1]) if verb == "cancel" else custody.take(body)
            self._answer(200, found)

        def _answer(self, status: int, body: Any) -> None:
            time.sleep(custody.delay)
            if self._is_lost("replies"):
                return
            data = json.dumps(body).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass  # the client has given up waiting

        def _is_lost(self, what: str) -> bool:
            with custody._lock:
                left = getattr(custody, f"lose_{what}")
                if left:
                    setattr(custody, f"lose_{what}", left - 1)
                    self.close_connection = True
                return bool(left)

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class HttpCustodian:
    """The client: it says what the service said, and raises whatever requests raises."""

    def __init__(self, server: CustodyServer, can_cancel: bool = True) -> None:
        self.url, self.can_cancel = server.url, can_cancel

    def public_key(self, reference: str) -> bytes:
        answer = requests.get(f"{self.url}/keys/{reference}", timeout=5)
        return b"\x04" + bytes.fromhex(answer.json()["publicKey"])

    def submit(self, ticket: Ticket, call: Call, *, timeout_seconds: float) -> Report:
        body = {
            "externalId": ticket.external_id,
            "reference": ticket.reference,
            "to": curve.checksummed(f"0x{call.to.hex()}") if call.to else None,
            "value": call.value,
            "data": f"0x{call.data.hex()}",
        }
        return _report(requests.post(f"{self.url}/transactions", json=body, timeout=timeout_seconds))

    def find(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        return _report(requests.get(f"{self.url}/transactions/{ticket.external_id}", timeout=timeout_seconds))

    def cancel(self, ticket: Ticket, *, timeout_seconds: float) -> Report:
        url = f"{self.url}/transactions/{ticket.external_id}/cancel"
        return _report(requests.post(url, json={}, timeout=timeout_seconds))


def _report(answer: requests.Response) -> Report:
    if answer.status_code == 404:
        return Report(CustodyState.UNKNOWN)
    answer.raise_for_status()
    body = answer.json()
    return Report(STATES.get(body["status"], CustodyState.WORKING), body["hash"], body["reason"])
