"""DFNS' API as its documents and the types of its TypeScript SDK describe it, signing and sending for real.

Checked as there: the bearer token; for whatever changes something a user action: a challenge, once and for a while,
client data with it, signed by the credential, and a token for it, once, for this method, path and body. externalId:
the same body gives what is there, another body or another key is a conflict.

Kinder than the real service, as far as the documents tell: permissions and policies are not looked at (tests say what
becomes of a request); nothing is limited unless a test says so; lists are newest first, which no document says.
Stricter: the body must be the very bytes that the user action names (the real one may compare JSON), a user action is
good for 60 s, and unknown fields are refused. Not known of the real service: whether it takes an `origin` in the client
data to be needed (older documents show one, the SDK sends none), and how long a challenge lives.
"""

import base64
import hashlib
import json
import os
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import rlp
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_defunct, encode_typed_data
from eth_hash.auto import keccak

from tests.fakes.serving import HttpFake, Node, Reply, Request, send_call
from tests.watching import WATCH

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CHALLENGE_SECONDS = 300
ACTION_SECONDS = 60
FIELDS = {
    "Hash": {"hash"},
    "Message": {"message"},
    "Transaction": {"transaction"},
    "Eip712": {"types", "domain", "message"},
    "Evm": {"to", "value", "data", "nonce", "gasLimit"},
}


@dataclass
class Entity:
    """A signature of a key, or a transaction of a wallet."""

    where: str
    body: dict[str, Any]
    id: str
    requested_at: float
    status: str = "Executing"
    reason: str = ""
    hash: str = ""
    signature: dict[str, Any] | None = None
    signed_data: str = ""


class FakeDfns(HttpFake):
    """How it behaves is set on its attributes at any time."""

    def __init__(self, token: str, credential_id: str, credential: Any, node: Node | None = None) -> None:
        self.token, self.credential_id, self.credential, self.node = token, credential_id, credential, node
        # By network; the key of all of them is one.
        self.keys = {
            "key-1abcd-2efgh-0123456789abcdef": {"EthereumSepolia": "wa-1abcd-2efgh-0123456789abcdef"}
        }
        self.entities: dict[str, Entity] = {}
        self.challenges: dict[str, tuple[str, dict[str, Any], float]] = {}
        self.actions: dict[str, tuple[dict[str, Any], float]] = {}
        self.hold = False  # people must approve first
        self.keep = False  # it works on them and does nothing
        self.refuse = ""  # a policy refuses all, in these words
        self.high_s = False
        self.sign_as: Any = None  # another account, by mistake
        self.sign_other: bytes | None = None  # another digest, by mistake
        self.alter: dict[str, Any] = {}  # what it sends, or of a transaction signs, instead
        self.shows: dict[str, Any] = {}  # fields of every answer about an entity, whatever is true
        self.page_size = 100
        self.used_actions: list[str] = []
        super().__init__()

    def account(self, key_id: str) -> Any:
        return Account.from_key(hashlib.sha256(key_id.encode()).digest())

    def by_external_id(self, external_id: Any) -> Entity:
        return next(each for each in self.entities.values() if each.body["externalId"] == str(external_id))

    # --- What its people do ---------------------------------------------------------------------------------

    def approve(self, external_id: Any) -> None:
        self._execute(self.by_external_id(external_id))

    def end(self, external_id: Any, status: str, reason: str = "") -> None:
        found = self.by_external_id(external_id)
        found.status, found.reason = status, reason

    # --- What its API does ----------------------------------------------------------------------------------

    def respond(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _error(401, "Unauthorized")
        if request.path == "/auth/action/init":
            return self._challenge(request.json())
        if request.path == "/auth/action":
            return self._action(request.json())
        if match := re.fullmatch(r"/keys/([^/]+)", request.path):
            return self._key(match[1])
        if match := re.fullmatch(r"/wallets/([^/]+)", request.path):
            return self._wallet(match[1])
        pattern = r"(/keys/[^/]+/signatures|/wallets/[^/]+/transactions)(?:/([^/]+))?"
        match = re.fullmatch(pattern, request.path)
        if match is None:
            return _error(404, "Not found")
        if request.method == "POST":
            return self._create(request, match[1])
        if match[2]:
            found = self.entities.get(match[2])
            known = found is not None and found.where == match[1]
            return Reply(200, self._shown(found)) if known and found else _error(404, "Not found")
        return self._list(match[1], request.query)

    def _challenge(self, body: dict[str, Any]) -> Reply:
        needed = {"userActionPayload", "userActionHttpMethod", "userActionHttpPath", "userActionServerKind"}
        if set(body) != needed or body["userActionServerKind"] != "Api":
            return _error(400, "Malformed user action")
        identifier, challenge = uuid.uuid4().hex, _base64url(os.urandom(24))
        self.challenges[identifier] = (challenge, body, self.now())
        return Reply(
            200,
            {
                "supportedCredentialKinds": [
                    {"kind": "Key", "factor": "either", "requiresSecondFactor": False}
                ],
                "challenge": challenge,
                "challengeIdentifier": identifier,
                "externalAuthenticationUrl": "",
                "allowCredentials": {
                    "key": [{"type": "public-key", "id": self.credential_id}],
                    "webauthn": [],
                },
                "userVerification": "preferred",
            },
        )

    def _action(self, body: dict[str, Any]) -> Reply:
        challenge, wanted, made_at = self.challenges.pop(body.get("challengeIdentifier", ""), ("", {}, 0.0))
        assertion = body["firstFactor"]["credentialAssertion"]
        data = _from_base64url(assertion["clientData"])
        client = json.loads(data)
        if not challenge or self.now() - made_at > CHALLENGE_SECONDS:
            return _error(401, "Challenge has expired or was used")
        right = client.get("type") == "key.get" and client.get("challenge") == challenge
        if not right or body["firstFactor"]["kind"] != "Key" or assertion["credId"] != self.credential_id:
            return _error(401, "Wrong client data or credential")
        try:
            _verify(self.credential, _from_base64url(assertion["signature"]), data)
        except InvalidSignature:
            return _error(401, "Wrong signature")
        token = f"ua-{uuid.uuid4().hex}"
        WATCH.learn("a token of DFNS", token)
        self.actions[token] = (wanted, self.now())
        return Reply(200, {"userAction": token})

    def _create(self, request: Request, where: str) -> Reply:
        token = request.headers.get("x-dfns-useraction", "")
        wanted, made_at = self.actions.pop(token, ({}, 0.0))
        self.used_actions.append(token)
        if not wanted or self.now() - made_at > ACTION_SECONDS:
            return _error(401, "User action is missing, used or has expired")
        if (
            wanted["userActionHttpMethod"] != request.method
            or wanted["userActionHttpPath"] != request.path
            or wanted["userActionPayload"].encode() != request.body
        ):
            return _error(403, "User action is for another request")
        body = request.json()
        if why := self._malformed(where, body):
            return _error(400, why)
        for each in self.entities.values():
            if each.body["externalId"] == body["externalId"]:
                if (each.where, each.body) == (where, body):
                    return Reply(200, self._shown(each))
                duplicate = {"id": each.id, "externalId": body["externalId"]}
                return _error(409, "Conflicting entity with same externalId", {"duplicate": duplicate})
        kind = "sig" if "/signatures" in where else "tx"
        created = Entity(where, body, f"{kind}-{uuid.uuid4().hex[:16]}", self.now())
        self.entities[created.id] = created
        if self.refuse:
            created.status, created.reason = "Rejected", self.refuse
        elif self.hold:
            created.status = "Pending"
        elif not self.keep:
            self._execute(created)
        return Reply(200, self._shown(created))

    def _malformed(self, where: str, body: dict[str, Any]) -> str:
        kind, is_signature = body.get("kind"), where.startswith("/keys/")
        if kind not in FIELDS or (kind == "Evm") == is_signature or not body.get("externalId"):
            return "kind or externalId is invalid"
        allowed = FIELDS[kind] | {"kind", "externalId"} | ({"blockchainKind"} if is_signature else set())
        if not set(body) <= allowed or (is_signature and body.get("blockchainKind") != "Evm"):
            return "unknown field, or blockchainKind is missing"
        if kind == "Evm" and not re.fullmatch(r"\d+", body.get("value", "0")):
            return "value is invalid"
        known = (
            self.keys if is_signature else [wallet for each in self.keys.values() for wallet in each.values()]
        )
        return "" if where.split("/")[2] in known else "no such key or wallet"

    def _execute(self, entity: Entity) -> None:
        if entity.body["kind"] == "Evm":
            self._send(entity)
            return
        key_id = entity.where.split("/")[2]
        account = self.sign_as or self.account(key_id)
        payload = b""
        if entity.body["kind"] == "Transaction":
            payload = _altered(bytes.fromhex(entity.body["transaction"][2:]), self.alter)
        made = account.unsafe_sign_hash(
            self.sign_other or (keccak(payload) if payload else _digest(entity.body))
        )
        s, recid = (ORDER - made.s, 28 - made.v) if self.high_s else (made.s, made.v - 27)
        r_hex, s_hex = f"{made.r:064x}", f"{s:064x}"
        encoded = f"0x{r_hex}{s_hex}{recid + 27:02x}"
        entity.signature = {"r": f"0x{r_hex}", "s": f"0x{s_hex}", "recid": recid, "encoded": encoded}
        if payload:
            entity.signed_data = _signed_data(payload, recid, made.r, s)
        entity.status = "Signed"

    def _send(self, entity: Entity) -> None:
        assert self.node is not None, "this fake has no chain to send to"
        wallet = entity.where.split("/")[2]
        key_id = next(each for each, wallets in self.keys.items() if wallet in wallets.values())
        account = self.account(key_id)
        nonce = int(self.node("eth_getTransactionCount", account.address, "pending"), 16)
        call = {
            "to": entity.body.get("to"),
            "value": int(entity.body.get("value", "0")),
            "data": entity.body.get("data", "0x"),
            **self.alter,
        }
        entity.hash = send_call(self.node, account, call, nonce, 4_000_000_000)
        entity.status = "Broadcasted"

    def _list(self, where: str, query: dict[str, str]) -> Reply:
        found = [each for each in reversed(self.entities.values()) if each.where == where]
        start, size = int(query.get("paginationToken", "0")), min(int(query["limit"]), self.page_size)
        page = {"items": [self._shown(each) for each in found[start : start + size]]}
        more = {"nextPageToken": str(start + size)} if start + size < len(found) else {}
        return Reply(200, page | more)

    def _key(self, key_id: str) -> Reply:
        if key_id not in self.keys:
            return _error(404, "Key not found")
        public = self.account(key_id)._key_obj.public_key.to_compressed_bytes().hex()
        wallets = [{"id": wallet, "network": network} for network, wallet in self.keys[key_id].items()]
        facts = {"id": key_id, "scheme": "ECDSA", "curve": "secp256k1", "publicKey": f"0x{public}"}
        return Reply(200, {**facts, "status": "Active", "custodial": True, "wallets": wallets})

    def _wallet(self, wallet_id: str) -> Reply:
        for key_id, wallets in self.keys.items():
            for network, wallet in wallets.items():
                if wallet == wallet_id:
                    address = (self.sign_as or self.account(key_id)).address
                    key = {"id": key_id, "scheme": "ECDSA", "curve": "secp256k1"}
                    facts = {"id": wallet, "network": network, "address": address, "signingKey": key}
                    return Reply(200, {**facts, "status": "Active"})
        return _error(404, "Wallet not found")

    def _shown(self, each: Entity) -> dict[str, Any]:
        owner, its_id = each.where.split("/")[1:3]
        shown: dict[str, Any] = {
            "id": each.id,
            "keyId" if owner == "keys" else "walletId": its_id,
            "requester": {"userId": "us-1"},
            "requestBody": each.body,
            "status": each.status,
            "dateRequested": datetime.fromtimestamp(each.requested_at, UTC)
            .isoformat()
            .replace("+00:00", "Z"),
            "externalId": each.body["externalId"],
        }
        optional = {
            "reason": each.reason,
            "txHash": each.hash,
            "signature": each.signature,
            "signedData": each.signed_data,
            "approvalId": "ap-1" if each.status == "Pending" else "",
        }
        return {**shown, **{name: value for name, value in optional.items() if value}, **self.shows}


def _error(status: int, message: str, details: Any = None) -> Reply:
    return Reply(
        status, {"error": {"message": message, "status": status} | ({"details": details} if details else {})}
    )


def _digest(body: dict[str, Any]) -> bytes:
    match body["kind"]:
        case "Hash":
            return bytes.fromhex(body["hash"][2:])
        case "Message":
            return bytes(_hash_eip191_message(encode_defunct(hexstr=body["message"])))
    types = {name: fields for name, fields in body["types"].items() if name != "EIP712Domain"}
    return bytes(_hash_eip191_message(encode_typed_data(body["domain"], types, body["message"])))


def _altered(payload: bytes, changes: dict[str, Any]) -> bytes:
    """Return the unsigned transaction of type 2 with another value, where that is wanted."""
    if "value" not in changes:
        return payload
    fields = list(rlp.decode(payload[1:]))
    fields[6] = changes["value"].to_bytes(2)
    return payload[:1] + bytes(rlp.encode(fields))


def _signed_data(payload: bytes, parity: int, r: int, s: int) -> str:
    number = rlp.sedes.big_endian_int.serialize
    tail = [number(parity), number(r), number(s)]
    return "0x" + (payload[:1] + bytes(rlp.encode([*rlp.decode(payload[1:]), *tail]))).hex()


def _verify(key: Any, signature: bytes, data: bytes) -> None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(signature, data)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    else:
        key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
