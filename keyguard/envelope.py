"""The envelope around a stored key: a random DEK encrypts the key, the KEK encrypts the DEK. AES-256-GCM, both bound.

Upholds: what opens is the key of this row and no other. Every layer is bound to the key's id, the row's number, the
address and the KEK, so a ciphertext copied to another row, or a row whose address was edited, does not open.
Does not keep anything: the DEK and the secret live in buffers that are wiped before the call returns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import urandom
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyguard.curve import random_bytes, wipe
from keyguard.errors import MaterialTamperedError

NONCE_BYTES = 12
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Binding:
    """What a stored key is bound to. A required argument everywhere, so it can never be forgotten."""

    key_id: UUID
    seq: int
    address: str
    kek_id: UUID

    def associated_data(self) -> bytes:
        """Return the canonical form; `kg1` is its version."""
        return f"kg1|{self.key_id}|{self.seq}|{self.address}|secp256k1|{self.kek_id}".encode()


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """An encrypted key, as it is stored."""

    wrapped_dek: bytes
    dek_nonce: bytes
    nonce: bytes
    ciphertext: bytes


def seal(secret: bytearray, kek: AESGCM, binding: Binding) -> Envelope:
    """Encrypt a secret under a new random DEK. The caller wipes the secret.

    Fresh random nonces: each DEK encrypts once, and a KEK's random nonces are safe for 2^32 wraps (NIST SP 800-38D).
    """
    bound = binding.associated_data()
    dek, nonce, dek_nonce = random_bytes(32), urandom(NONCE_BYTES), urandom(NONCE_BYTES)
    try:
        ciphertext = AESGCM(dek).encrypt(nonce, secret, bound)
        return Envelope(kek.encrypt(dek_nonce, dek, bound), dek_nonce, nonce, ciphertext)
    finally:
        wipe(dek)


@contextmanager
def opened(envelope: Envelope, kek: AESGCM, binding: Binding) -> Iterator[bytearray]:
    """Give the secret for the length of the block, then wipe it. Raises MaterialTamperedError when it doesn't open."""
    bound = binding.associated_data()
    dek, secret = bytearray(32), bytearray(SECRET_BYTES)
    try:
        _decrypt(kek, envelope.dek_nonce, envelope.wrapped_dek, bound, dek)
        _decrypt(AESGCM(dek), envelope.nonce, envelope.ciphertext, bound, secret)
        wipe(dek)
        yield secret
    finally:
        wipe(dek, secret)


def _decrypt(cipher: AESGCM, nonce: bytes, ciphertext: bytes, bound: bytes, into: bytearray) -> None:
    try:
        cipher.decrypt_into(nonce, ciphertext, bound, into)
    except (InvalidTag, ValueError):  # ValueError: a nonce or a ciphertext of another length
        raise MaterialTamperedError from None
