"""Authorisations as EIP-7702 has them: an address lets the code of another one act for it. Pure.

Whoever has a signed authorisation may use it once, in any transaction, while the authority's nonce is the one it
names. So it says on which chain it holds, and keyguard makes none for chain id 0, which means all of them.
"""

from dataclasses import dataclass, field
from typing import Any

from eth_hash.auto import keccak

from keyguard import curve
from keyguard.rlp_items import as_bytes, as_integer, as_list, integer, sequence, string

MAGIC = b"\x05"
# The delegate that takes a delegation back.
NOBODY = bytes(20)


@dataclass(frozen=True, slots=True)
class Authorization:
    """What an authority signs: from its nonce `nonce` on, the code of `delegate` (20 bytes) acts for it."""

    chain_id: int
    delegate: bytes
    nonce: int

    def payload(self) -> bytes:
        """Return the bytes whose keccak is signed; the first one keeps them apart from every transaction."""
        return MAGIC + sequence([integer(self.chain_id), string(self.delegate), integer(self.nonce)])


@dataclass(frozen=True, slots=True)
class SignedAuthorization:
    """An authorisation with the signature of its authority, as a set-code transaction carries it."""

    chain_id: int
    delegate: bytes
    nonce: int
    signature: bytes = field(repr=False)  # r, s, recovery id

    @property
    def authorization(self) -> Authorization:
        return Authorization(self.chain_id, self.delegate, self.nonce)

    def authority(self) -> str:
        """Return the address whose key signed. Raises ValueError when the signature is of no key."""
        return curve.address_of(curve.recover(self.signature, keccak(self.authorization.payload())))

    def item(self) -> bytes:
        """Return the RLP item in a transaction's list."""
        r, s, parity = numbers(self.signature)
        facts = [integer(self.chain_id), string(self.delegate), integer(self.nonce)]
        return sequence([*facts, integer(parity), integer(r), integer(s)])

    def fields(self) -> dict[str, Any]:
        """Return the names and values that `keyguard.floor.decode_transaction` takes in authorizationList."""
        r, s, parity = numbers(self.signature)
        return {
            "authority": self.authority(),
            "chainId": self.chain_id,
            "address": curve.checksummed(f"0x{self.delegate.hex()}"),
            "nonce": self.nonce,
            "yParity": parity,
            "r": r,
            "s": s,
        }

    @classmethod
    def of_item(cls, item: Any) -> "SignedAuthorization":
        """Return what a decoded RLP item holds. Raises ValueError."""
        parts = as_list(item)
        if len(parts) != 6:
            raise ValueError("not an authorisation")
        chain_id, delegate, nonce, parity, r, s = parts
        signature = signature_of(as_integer(r), as_integer(s), as_integer(parity))
        return cls(as_integer(chain_id), as_bytes(delegate, 20), as_integer(nonce), signature)


def numbers(signature: bytes) -> tuple[int, int, int]:
    """Return r, s and the recovery id of a signature of 65 bytes."""
    return int.from_bytes(signature[:32]), int.from_bytes(signature[32:64]), signature[64]


def signature_of(r: int, s: int, parity: int) -> bytes:
    """Return the 65 bytes r, s, recovery id. Raises ValueError when a number does not fit."""
    if parity not in (0, 1) or max(r, s).bit_length() > 256:
        raise ValueError("not a signature")
    return r.to_bytes(32) + s.to_bytes(32) + bytes([parity])
