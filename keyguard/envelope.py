"""The envelope around a stored key: a random DEK encrypts the key, the KEK encrypts the DEK. AES-256-GCM, both bound.

Upholds: what opens is the key of this row and no other. The key is bound to its tenant, its id and its address, the
DEK beside those to the row's number and the KEK; so a ciphertext copied to another row, or a row whose address was
edited, does not open, and a new KEK needs the DEK wrapped anew and the key itself not decrypted.
Does not keep anything: the DEK and the secret live in buffers that are wiped before the call returns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from os import urandom
from typing import Protocol
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyguard.curve import random_bytes, wipe
from keyguard.errors import MaterialTamperedError

NONCE_BYTES = 12
SECRET_BYTES = DEK_BYTES = 32


@dataclass(frozen=True, slots=True)
class Binding:
    """What a stored key is bound to. A required argument everywhere, so it can never be forgotten."""

    tenant: str
    key_id: UUID
    address: str
    seq: int
    kek_id: UUID

    def of_secret(self) -> bytes:
        """Return the canonical form that the key is bound to; `kg2` is its version."""
        return f"kg2|secret|{self.tenant}|{self.key_id}|{self.address}|secp256k1".encode()

    def of_dek(self) -> bytes:
        """Return the canonical form that the DEK is bound to."""
        return (
            f"kg2|dek|{self.tenant}|{self.key_id}|{self.address}|secp256k1|{self.seq}|{self.kek_id}".encode()
        )


@dataclass(frozen=True, slots=True, repr=False)
class WrappedDek:
    """A DEK as its KEK has encrypted it. nonce: empty where the keeper of the KEK puts it into the ciphertext."""

    nonce: bytes
    ciphertext: bytes


class KekCipher(Protocol):
    """A KEK at work: many DEKs in one call, because some KEKs are far away. The caller wipes the DEKs."""

    def wrap(self, deks: Sequence[tuple[bytearray, bytes]]) -> list[WrappedDek]:
        """Encrypt DEKs, each with what it is bound to."""

    def unwrap(self, wrapped: Sequence[tuple[WrappedDek, bytes]]) -> list[bytearray]:
        """Decrypt DEKs. Raises MaterialTamperedError when one of them is not what was bound."""


class LocalCipher:
    """A KEK in this process's memory."""

    def __init__(self, kek: bytes) -> None:
        self._cipher = AESGCM(kek)

    def wrap(self, deks: Sequence[tuple[bytearray, bytes]]) -> list[WrappedDek]:
        # Random nonces of one KEK are safe for 2^32 wraps (NIST SP 800-38D).
        nonces = [urandom(NONCE_BYTES) for _ in deks]
        return [
            WrappedDek(nonce, self._cipher.encrypt(nonce, dek, bound))
            for nonce, (dek, bound) in zip(nonces, deks, strict=True)
        ]

    def unwrap(self, wrapped: Sequence[tuple[WrappedDek, bytes]]) -> list[bytearray]:
        deks = [bytearray(DEK_BYTES) for _ in wrapped]
        try:
            for dek, (one, bound) in zip(deks, wrapped, strict=True):
                _decrypt(self._cipher, one.nonce, one.ciphertext, bound, dek)
        except MaterialTamperedError:
            wipe(*deks)
            raise
        return deks


@dataclass(frozen=True, slots=True, repr=False)
class Envelope:
    """An encrypted key, as it is stored."""

    wrapped_dek: bytes
    dek_nonce: bytes
    nonce: bytes
    ciphertext: bytes


def seal(secret: bytearray, kek: KekCipher, binding: Binding) -> Envelope:
    """Encrypt a secret under a new random DEK, which encrypts nothing else. The caller wipes the secret."""
    dek, nonce = random_bytes(DEK_BYTES), urandom(NONCE_BYTES)
    try:
        ciphertext = AESGCM(dek).encrypt(nonce, secret, binding.of_secret())
        (wrapped,) = kek.wrap([(dek, binding.of_dek())])
        return Envelope(wrapped.ciphertext, wrapped.nonce, nonce, ciphertext)
    finally:
        wipe(dek)


@contextmanager
def opened(envelope: Envelope, kek: KekCipher, binding: Binding) -> Iterator[bytearray]:
    """Give the secret for the length of the block, then wipe it. Raises MaterialTamperedError when it doesn't open."""
    wrapped = WrappedDek(envelope.dek_nonce, envelope.wrapped_dek)
    (dek,) = kek.unwrap([(wrapped, binding.of_dek())])
    secret = bytearray(SECRET_BYTES)
    try:
        _decrypt(AESGCM(dek), envelope.nonce, envelope.ciphertext, binding.of_secret(), secret)
        wipe(dek)
        yield secret
    finally:
        wipe(dek, secret)


def _decrypt(cipher: AESGCM, nonce: bytes, ciphertext: bytes, bound: bytes, into: bytearray) -> None:
    try:
        cipher.decrypt_into(nonce, ciphertext, bound, into)
    except (InvalidTag, ValueError):  # ValueError: a nonce or a ciphertext of another length
        raise MaterialTamperedError from None
    finally:
        # The cipher's code leaves the last block on the stack. One more of the same size, of nothing, takes its place.
        nothing, sealed = _nothing()
        nothing.decrypt_into(bytes(NONCE_BYTES), sealed, None, bytearray(SECRET_BYTES))


@lru_cache(maxsize=1)
def _nothing() -> tuple[AESGCM, bytes]:
    cipher = AESGCM(bytes(DEK_BYTES))
    return cipher, cipher.encrypt(bytes(NONCE_BYTES), bytes(SECRET_BYTES), None)
