"""What is asked to be signed, and what becomes of it once it is checked and decoded. Pure but for the key's row."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keyguard import ethereum
from keyguard.errors import KeyNotActiveError
from keyguard.ethereum import UnsignedTransaction
from keyguard.floor import checked_idempotency_key, checked_message, decode_transaction
from keyguard.models import Key
from keyguard.states import KeyState, RecordKind


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A transaction to be signed by the key of `address`. `keyguard.floor.decode_transaction` lists the fields."""

    idempotency_key: str
    address: str
    transaction: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """A message to be signed by the key of `address`, with the prefix of EIP-191 put before it."""

    idempotency_key: str
    address: str
    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Job:
    """A request that has passed the floor: nothing after this reads the request again."""

    idempotency_key: str
    key: Key
    kind: RecordKind
    payload_hash: str  # tells a repeated request from another one under the same idempotency key
    digest: bytes
    transaction: UnsignedTransaction | None


def prepare(request: SigningRequest | MessageRequest, key: Key) -> Job:
    """Check a request against the floor and return the job. Raises a FloorError or KeyNotActiveError."""
    idempotency_key = checked_idempotency_key(request.idempotency_key)
    if isinstance(request, SigningRequest):
        transaction = decode_transaction(request.transaction, key.address)
        kind, payload = RecordKind.TRANSACTION, transaction.payload()
    else:
        transaction = None
        kind, payload = RecordKind.MESSAGE, ethereum.message_payload(checked_message(request.message))
    if key.state != KeyState.ACTIVE:
        raise KeyNotActiveError(f"the key of {key.address} is {key.state.lower()} and signs nothing")
    identity = hashlib.sha256(f"kg1|{kind}|{key.id}|".encode() + payload).hexdigest()
    return Job(idempotency_key, key, kind, f"0x{identity}", ethereum.digest(payload), transaction)
