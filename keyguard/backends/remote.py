"""Signatures that a custody makes while we wait: asked for under an id of ours, answered now, later, or never.

Upholds: what is returned as a signature is one of the pinned key over what was asked, with a low s, whoever returned
it. One external id is one request for ever; after a lost answer it is looked up, and only what the custody itself does
not know is asked for again. A state that is not understood is pending, never a signature and never an end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from keyguard import curve, ethereum
from keyguard.errors import BackendUnknownError, FieldInvalidError, SignatureInvalidError
from keyguard.ethereum import UnsignedTransaction
from keyguard.models import Key


@dataclass(frozen=True, slots=True)
class TypedDataPayload:
    """EIP-712 data that has passed `keyguard.typed_data`, and its digest as computed here."""

    typed_data: Mapping[str, Any] = field(repr=False)
    digest: bytes


@dataclass(frozen=True, slots=True)
class MessagePayload:
    """A message; the custody puts the prefix of EIP-191 before it."""

    message: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """Return what is signed of it."""
        return ethereum.digest(ethereum.message_payload(self.message))


@dataclass(frozen=True, slots=True)
class TransactionPayload:
    """A transaction with nonce and fee, to be signed and not sent."""

    transaction: UnsignedTransaction

    @property
    def digest(self) -> bytes:
        """Return what is signed of it."""
        return ethereum.digest(self.transaction.payload())


@dataclass(frozen=True, slots=True)
class DigestPayload:
    """32 bytes that nobody at the custody can read: only for keys that allow it. Raises FieldInvalidError."""

    digest: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.digest, bytes) or len(self.digest) != 32:
            raise FieldInvalidError("digest", "must be 32 bytes")


Payload = TypedDataPayload | MessagePayload | TransactionPayload | DigestPayload


@dataclass(frozen=True, slots=True)
class Pending:
    """There is no signature yet. awaits_people: the custody's own people must approve it."""

    awaits_people: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """There will be none: the custody's rules, its people or a failure there. reason: in its words."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotThere:
    """The custody itself says that it has no such request."""


Outcome = bytes | Pending | Refused  # bytes: r, s, recovery id


class RemoteSigner(Protocol):
    """A custody that signs. Each call returns within `timeout_seconds` or raises CustodyUnreachableError: look it up then.

    SignatureInvalidError means that what it returned is no signature of the pinned key over the payload: the key is to
    be suspended.
    """

    def submit(self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float) -> Outcome:
        """Ask for the signature once; under an id that the custody knows this asks for nothing new."""

    def find(
        self, key: Key, external_id: str, payload: Payload, *, timeout_seconds: float
    ) -> Outcome | NotThere:
        """Return how it stands. Asks for nothing."""


REMOTE_SIGNERS: dict[str, Callable[[], RemoteSigner]] = {}


def register_remote_signer(backend: str, make: Callable[[], RemoteSigner]) -> None:
    """Have signatures by the keys of this backend be made by what `make` returns."""
    REMOTE_SIGNERS[backend] = make


def remote_signer_of(backend: str) -> RemoteSigner:
    """Return the signer of this backend, or raise BackendUnknownError."""
    if backend not in REMOTE_SIGNERS:
        names = ", ".join(sorted(REMOTE_SIGNERS))
        raise BackendUnknownError(f"remote signer {backend[:20]!r}: not one of: {names}")
    return REMOTE_SIGNERS[backend]()


def checked(r: str, s: str, v: int, payload: Payload, key: Key) -> bytes:
    """Return the signature, 65 bytes with a low s, when it is the pinned key's over the payload.

    r, s: hex, with or without 0x. v: 0, 1, 27 or 28. Raises SignatureInvalidError.
    """
    try:
        if v not in (0, 1, 27, 28):
            raise ValueError("v is none of 0, 1, 27 and 28")
        given = b"".join(bytes.fromhex(part.removeprefix("0x").rjust(64, "0")) for part in (r, s))
        signature = curve.low_s(given + bytes([v % 27]))
        if curve.recover(signature, payload.digest) != bytes(key.public_key):
            raise ValueError("recovers to another key")
    except (ValueError, TypeError, AttributeError) as error:
        text = str(error) if type(error) is ValueError else "malformed"
        raise SignatureInvalidError(f"the custody's signature by {key.address}: {text}") from None
    return signature


def checked_transaction(raw: str, payload: TransactionPayload, key: Key) -> bytes:
    """Return the signature in a signed transaction when that is the one asked for, field by field, and the key's.

    raw: hex. Raises SignatureInvalidError.
    """
    try:
        transaction, signature = ethereum.decode_signed(bytes.fromhex(raw.removeprefix("0x")))
    except (ValueError, TypeError, AttributeError):
        raise SignatureInvalidError(f"{key.address}: what the custody returned is no transaction") from None
    if transaction != payload.transaction:
        raise SignatureInvalidError(f"{key.address}: the custody signed another transaction than was asked")
    return checked(signature[:32].hex(), signature[32:64].hex(), signature[64], payload, key)
