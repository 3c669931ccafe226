"""Fireblocks' API v1 as its documents and the SDK's models describe it, signing and sending for real.

Checked as there: the JWT (RS256, sub, uri with the query, iat and exp against the clock, a nonce once, bodyHash over the
bytes that came), X-API-Key, Idempotency-Key (40 characters; the same answer again), externalTxId (once for ever).

Kinder than the real service, as far as the documents tell: roles, allowed addresses and the policy are not looked at
(tests say what becomes of a transaction); exp may be 60 s after iat, where they say 30 and the SDK sends 55; nothing is
limited unless a test says so; every vault account exists; a nonce is remembered for ever. Not known of the real service:
the number of the error for an external id in use (the text is theirs), and whether a signature may have a high s.
Stricter: a body with an unknown operation, asset or amount is refused at once, where the real one may fail it later.
"""

import hashlib
import re
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import jwt
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_defunct, encode_typed_data

from tests.fakes.serving import HttpFake, Node, Reply, Request, send_call

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# Assets of test networks have other keys than those of main networks: BIP-44's coin type 1.
COIN_TYPES = {"ETH": 60, "MATIC_POLYGON": 60, "ETH_TEST5": 1}
LIFETIME_SECONDS = 60
CLOCK_SECONDS = 5
CANCELLABLE = ("SUBMITTED", "PENDING_AUTHORIZATION", "QUEUED", "PENDING_SIGNATURE")


@dataclass
class Transaction:
    """A transaction of the workspace."""

    body: dict[str, Any]
    created_at: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "SUBMITTED"
    sub_status: str = ""
    hash: str = ""
    replaced_hash: str = ""
    nonce: int | None = None
    fee_wei: int = 4_000_000_000
    signed: list[dict[str, Any]] | None = None


class FakeFireblocks(HttpFake):
    """`url` is the base path; how it behaves is set on its attributes at any time."""

    prefix = "/v1"

    def __init__(self, api_key: str, public_key: Any, node: Node | None = None) -> None:
        self.api_key, self.jwt_key, self.node = api_key, public_key, node
        self.transactions: dict[str, Transaction] = {}
        self.nonces: set[str] = set()
        self.answers: dict[str, Reply] = {}  # by idempotency key
        self.checks_body_and_uri = True  # a proxy between would write both anew
        self.hold = False  # people must approve first
        self.keep = False  # it works on them and does nothing
        self.refuse = ""  # the policy blocks all, in these words
        self.high_s = False
        self.sign_as: Any = None  # another account, by mistake
        self.sign_other: bytes | None = None  # another digest, by mistake
        self.alter: dict[str, Any] = {}  # what it sends instead
        self.shows: dict[str, Any] = {}  # fields of every answer about a transaction, whatever is true
        super().__init__()

    def account(self, vault: str, asset: str) -> Any:
        seed = f"{vault}/{COIN_TYPES[asset]}".encode()
        return Account.from_key(hashlib.sha256(seed).digest())

    def by_external_id(self, external_id: Any) -> Transaction:
        return next(
            each for each in self.transactions.values() if each.body.get("externalTxId") == str(external_id)
        )

    # --- What its people do ---------------------------------------------------------------------------------

    def approve(self, external_id: Any) -> None:
        self._execute(self.by_external_id(external_id))

    def end(self, external_id: Any, status: str, sub_status: str = "") -> None:
        found = self.by_external_id(external_id)
        found.status, found.sub_status = status, sub_status

    def replace(self, external_id: Any, *, by_nothing: bool = False) -> Transaction:
        """Send it again with a higher fee, or drop it: a transaction of its own, under no id of the caller's."""
        first = self.by_external_id(external_id)
        while following := [each for each in self.transactions.values() if each.replaced_hash == first.hash]:
            first = following[0]
        body = {**first.body, "externalTxId": None}
        second = Transaction(body, first.created_at, nonce=first.nonce, fee_wei=first.fee_wei * 2)
        second.replaced_hash = first.hash
        self.transactions[second.id] = second
        nothing = {"to": self._own(second).address, "value": 0, "data": "0x"}
        self._send(second, nothing if by_nothing else _call(body))
        first.status, first.sub_status = "FAILED", "DROPPED_BY_BLOCKCHAIN"
        return second

    # --- What its API does ----------------------------------------------------------------------------------

    def respond(self, request: Request) -> Reply:
        if why := self._unauthorized(request):
            return Reply(401, {"message": f"Unauthorized: {why}", "code": -7})
        path = request.path.removeprefix(self.prefix)
        if request.method == "POST" and path == "/transactions":
            return self._create(request)
        if match := re.fullmatch(r"/transactions/external_tx_id/([^/]+)", path):
            return self._show_first(lambda each: each.body.get("externalTxId") == match[1])
        if match := re.fullmatch(r"/transactions/([^/]+)/cancel", path):
            return self._cancel(match[1])
        if path == "/transactions":
            return Reply(200, [self._shown(each) for each in self._listed(request.query)])
        if match := re.fullmatch(r"/vault/accounts/(\d+)/(\w+)/0/0/public_key_info", path):
            return self._public_key(match[1], match[2])
        if match := re.fullmatch(r"/vault/accounts/(\d+)/(\w+)/addresses_paginated", path):
            if match[2] not in COIN_TYPES:
                return _error(404, "Asset not found", 1006)
            address = self.account(match[1], match[2]).address
            return Reply(200, {"addresses": [{"assetId": match[2], "address": address}], "paging": {}})
        return _error(404, "Not found", 1000)

    def _unauthorized(self, request: Request) -> str:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        off = {"verify_exp": False, "verify_iat": False}
        try:
            claims = jwt.decode(token, self.jwt_key, algorithms=["RS256"], options=off)  # type: ignore[arg-type]
        except jwt.PyJWTError as error:
            return f"JWT is invalid ({error})"
        if claims.get("sub") != self.api_key or request.headers.get("x-api-key") != self.api_key:
            return "API key mismatch"
        issued, expires, now = claims.get("iat", 0), claims.get("exp", 0), self.now()
        if not issued - CLOCK_SECONDS <= now <= expires or expires - issued > LIFETIME_SECONDS:
            return "Token was expired"
        if self.checks_body_and_uri and claims.get("uri") != request.target:
            return "uri mismatch"
        if self.checks_body_and_uri and claims.get("bodyHash") != hashlib.sha256(request.body).hexdigest():
            return "body hash mismatch"
        if claims.get("nonce") in self.nonces:
            return "nonce was already used"
        self.nonces.add(claims["nonce"])
        return ""

    def _create(self, request: Request) -> Reply:
        body, key = request.json(), request.headers.get("idempotency-key", "")
        if len(key) > 40:
            return _error(400, "Idempotency-Key is too long", 1400)
        if key in self.answers:
            return self.answers[key]
        if why := _malformed(body):
            return _error(400, why, 1427)
        if any(each.body.get("externalTxId") == body["externalTxId"] for each in self.transactions.values()):
            return _error(400, "The external tx id that was provided in the request, already exists", 1438)
        created = Transaction(body, int(self.now() * 1000))
        self.transactions[created.id] = created
        reply = Reply(200, {"id": created.id, "status": created.status})
        if self.refuse:
            created.status, created.sub_status = "BLOCKED", self.refuse
        elif self.hold:
            created.status = "PENDING_AUTHORIZATION"
        elif not self.keep:
            self._execute(created)
        if key:
            self.answers[key] = reply
        return reply

    def _execute(self, transaction: Transaction) -> None:
        body = transaction.body
        if body["operation"] in ("RAW", "TYPED_MESSAGE"):
            messages = body["extraParameters"]["rawMessageData"]["messages"]
            transaction.signed = [self._signed(transaction, message) for message in messages]
            transaction.status = "COMPLETED"
            return
        self._send(transaction, {**_call(body), **self.alter})

    def _send(self, transaction: Transaction, call: dict[str, Any]) -> None:
        assert self.node is not None, "this fake has no chain to send to"
        account = self._own(transaction)
        if transaction.nonce is None:
            transaction.nonce = int(self.node("eth_getTransactionCount", account.address, "pending"), 16)
        transaction.hash = send_call(self.node, account, call, transaction.nonce, transaction.fee_wei)
        transaction.status = "BROADCASTING"

    def _own(self, transaction: Transaction) -> Any:
        return self.account(transaction.body["source"]["id"], transaction.body["assetId"])

    def _signed(self, transaction: Transaction, message: dict[str, Any]) -> dict[str, Any]:
        digest = self.sign_other or _digest(message)
        account = self.sign_as or self._own(transaction)
        made = account.unsafe_sign_hash(digest)
        s, v = (ORDER - made.s, 28 - made.v) if self.high_s else (made.s, made.v - 27)
        full = f"{made.r:064x}{s:064x}"
        return {
            "content": digest.hex(),
            "algorithm": "MPC_ECDSA_SECP256K1",
            "derivationPath": [44, COIN_TYPES[transaction.body["assetId"]], 0, 0, 0],
            "signature": {"fullSig": full, "r": full[:64], "s": full[64:], "v": v},
            "publicKey": account._key_obj.public_key.to_compressed_bytes().hex(),
        }

    def _cancel(self, transaction_id: str) -> Reply:
        found = self.transactions.get(transaction_id)
        if found is None:
            return _error(404, "Transaction not found", 1404)
        if found.status not in CANCELLABLE:
            return _error(400, "The transaction cannot be cancelled", 1405)
        found.status, found.sub_status = "CANCELLED", "CANCELLED_BY_USER"
        return Reply(200, {"success": True})

    def _show_first(self, fits: Any) -> Reply:
        for each in self.transactions.values():
            if fits(each):
                return Reply(200, self._shown(each))
        return _error(404, "Transaction not found", 1404)

    def _listed(self, query: dict[str, str]) -> list[Transaction]:
        assert query.keys() <= {"sourceType", "sourceId", "assets", "after", "orderBy", "sort", "limit"}
        found = [
            each
            for each in self.transactions.values()
            if each.body["source"]["id"] == query["sourceId"]
            and each.body["assetId"] == query["assets"]
            and each.created_at > int(query["after"])
        ]
        return sorted(found, key=lambda each: -each.created_at)[: int(query["limit"])]

    def _shown(self, each: Transaction) -> dict[str, Any]:
        shown = {
            "id": each.id,
            "externalTxId": each.body.get("externalTxId"),
            "status": each.status,
            "subStatus": each.sub_status,
            "operation": each.body["operation"],
            "assetId": each.body["assetId"],
            "source": each.body["source"],
            "note": each.body.get("note", ""),
            "txHash": each.hash,
            "createdAt": each.created_at,
            "lastUpdated": each.created_at,
        }
        if each.replaced_hash:
            shown["replacedTxHash"] = each.replaced_hash
        if each.signed is not None:
            shown["signedMessages"] = each.signed
        return {**shown, **self.shows}

    def _public_key(self, vault: str, asset: str) -> Reply:
        if asset not in COIN_TYPES:
            return _error(404, "Asset not found", 1006)
        account = self.sign_as or self.account(vault, asset)
        key = "04" + account._key_obj.public_key.to_bytes().hex()
        path = [44, COIN_TYPES[asset], int(vault), 0, 0]
        return Reply(200, {"algorithm": "MPC_ECDSA_SECP256K1", "derivationPath": path, "publicKey": key})


def _error(status: int, message: str, code: int) -> Reply:
    return Reply(status, {"message": message, "code": code})


def _malformed(body: dict[str, Any]) -> str:
    if None in body.values():
        return "null is no value"
    if not isinstance(body.get("externalTxId"), str) or body.get("assetId") not in COIN_TYPES:
        return "externalTxId or assetId is invalid"
    if (body.get("source") or {}).get("type") != "VAULT_ACCOUNT" or "id" not in body["source"]:
        return "source is invalid"
    operation, extra = body.get("operation"), body.get("extraParameters") or {}
    if operation in ("RAW", "TYPED_MESSAGE"):
        messages = (extra.get("rawMessageData") or {}).get("messages") or []
        right = [_is_message(operation, message) for message in messages]
        return "" if right and all(right) else "rawMessageData is invalid"
    if operation not in ("TRANSFER", "CONTRACT_CALL") or not re.fullmatch(
        r"\d+(\.\d{1,18})?", str(body.get("amount"))
    ):
        return "operation or amount is invalid"
    if ("contractCallData" in extra) != (operation == "CONTRACT_CALL"):
        return "contractCallData is invalid"
    to = body.get("destination") or {}
    address = (to.get("oneTimeAddress") or {}).get("address", "")
    right_to = to.get("type") == "ONE_TIME_ADDRESS" and re.fullmatch(r"0x[0-9a-fA-F]{40}", address)
    return "" if right_to else "destination is invalid"


def _is_message(operation: str, message: dict[str, Any]) -> bool:
    content = message.get("content")
    if operation == "RAW":
        return isinstance(content, str) and bool(re.fullmatch(r"[0-9a-f]{64}", content))
    if message.get("type") == "EIP712":
        return isinstance(content, dict) and set(content) == {"types", "primaryType", "domain", "message"}
    return message.get("type") == "EIP191" and isinstance(content, str)


def _digest(message: dict[str, Any]) -> bytes:
    match message.get("type"):
        case "EIP712":
            return bytes(_hash_eip191_message(encode_typed_data(full_message=message["content"])))
        case "EIP191":
            return bytes(_hash_eip191_message(encode_defunct(hexstr=message["content"])))
    return bytes.fromhex(message["content"])


def _call(body: dict[str, Any]) -> dict[str, Any]:
    data = (body.get("extraParameters") or {}).get("contractCallData", "0x")
    to = body["destination"]["oneTimeAddress"]["address"]
    return {"to": to, "value": int(Decimal(body["amount"]).scaleb(18)), "data": data}
