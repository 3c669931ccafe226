"""What is asked to be signed, and what becomes of it once it is checked and decoded. Pure but for the key's row."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyguard import ethereum
from keyguard.authorizations import Authorization
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import checked_idempotency_key, checked_message, decode_authorization, decode_transaction
from keyguard.models import Key
from keyguard.states import RecordKind
from keyguard.typed_data import TypedData, decode_typed_data


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A transaction to be signed by the key of `address`. `keyguard.floor.decode_transaction` lists the fields."""

    idempotency_key: str
    address: str
    transaction: Mapping[str, Any] = field(repr=False)
    subject: str = ""  # see Job
    caller: str = ""

    kind = RecordKind.TRANSACTION


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """A message to be signed by the key of `address`, with the prefix of EIP-191 put before it."""

    idempotency_key: str
    address: str
    message: bytes = field(repr=False)
    subject: str = ""
    caller: str = ""

    kind = RecordKind.MESSAGE


@dataclass(frozen=True, slots=True)
class TypedDataRequest:
    """EIP-712 data to be signed by the key of `address`. `keyguard.typed_data.decode_typed_data` says which."""

    idempotency_key: str
    address: str
    typed_data: Mapping[str, Any] = field(repr=False)
    chain_id: int | None = None
    subject: str = ""
    caller: str = ""

    kind = RecordKind.TYPED_DATA


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """An EIP-7702 authorisation to be signed by the key of `address`: the code of `delegate` acts for it."""

    idempotency_key: str
    address: str
    chain_id: int
    delegate: str
    nonce: int
    subject: str = ""
    caller: str = ""

    kind = RecordKind.DELEGATION


Request = SigningRequest | MessageRequest | TypedDataRequest | AuthorizationRequest
Content = UnsignedTransaction | TypedData | Authorization | bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A request that has passed the floor: nothing after this reads the request again."""

    idempotency_key: str
    key: Key
    kind: RecordKind
    payload_hash: str  # tells a repeated request from another one under the same idempotency key
    digest: bytes
    content: Content  # bytes: a message
    # What it is for: limits and people's answers count once for it, however often it is signed with other fees.
    subject: str
    caller: str  # who asks, as whoever calls keyguard says

    @property
    def slot(self) -> str:
        """Return what can be used up once, by this or by what replaces it: a nonce, else the very payload."""
        if isinstance(self.content, UnsignedTransaction | Authorization):
            return slot_of(self.content.chain_id, self.content.nonce, self.payload_hash)
        return slot_of(None, None, self.payload_hash)


def slot_of(chain_id: int | None, nonce: int | None, payload_hash: str) -> str:
    """Return the slot of what is, or was, to be signed."""
    return payload_hash if nonce is None else f"{chain_id}/{nonce}"


def prepare(request: Request, key: Key) -> Job:
    """Check a request against the floor and return the job. Raises a FloorError."""
    idempotency_key = checked_idempotency_key(request.idempotency_key)
    content = _decode(request, key)
    payload = ethereum.message_payload(content) if isinstance(content, bytes) else content.payload()
    identity = hashlib.sha256(f"kg1|{request.kind}|{key.id}|".encode() + payload).hexdigest()
    return Job(
        idempotency_key,
        key,
        request.kind,
        f"0x{identity}",
        ethereum.digest(payload),
        content,
        request.subject[:255] or idempotency_key,
        request.caller[:150],
    )


def _decode(request: Request, key: Key) -> Content:
    match request:
        case SigningRequest():
            return decode_transaction(request.transaction, key.address)
        case MessageRequest():
            return checked_message(request.message)
        case TypedDataRequest():
            return decode_typed_data(request.typed_data, request.chain_id)
        case AuthorizationRequest():
            return decode_authorization(request.chain_id, request.delegate, request.nonce)
