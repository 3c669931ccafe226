"""Transactions and messages as Ethereum signs them. Pure: no key, no database, no clock.

Upholds: what is encoded here can be taken apart again by another implementation (pyrlp) and compared field by field
with what was asked, so an error in either cannot go out unnoticed.
Does not judge whether a transaction may be signed: that is `floor`.
"""

from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from keyguard.authorizations import SignedAuthorization, numbers, signature_of
from keyguard.blobs import COMMITMENT_BYTES, PROOF_BYTES, Proofs, Sidecar
from keyguard.rlp_items import as_bytes, as_integer, as_list, decode_list, integer, sequence, string

LEGACY, ACCESS_LIST, DYNAMIC_FEE, BLOB, SET_CODE = range(5)
GAS_PRICED = (LEGACY, ACCESS_LIST)

# Addresses, each with the storage slots of 32 bytes that will be touched there.
AccessList = tuple[tuple[bytes, tuple[bytes, ...]], ...]

# How many items a signed transaction of each type has. Sources: EIP-155, 2930, 1559, 4844, 7702.
_LENGTHS = {LEGACY: 9, ACCESS_LIST: 11, DYNAMIC_FEE: 12, BLOB: 14, SET_CODE: 13}
# ... and where, once the chain id is taken out, those end that all types have.
_DATA_END = {LEGACY: 6, ACCESS_LIST: 6, DYNAMIC_FEE: 7, BLOB: 7, SET_CODE: 7}
_TYPE_BYTES = {bytes([kind]) for kind in (ACCESS_LIST, DYNAMIC_FEE, BLOB, SET_CODE)}


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A transaction to be signed. Types 0 and 1 have `gas_price`, the others the two maximum fees (wei per gas)."""

    type: int
    chain_id: int
    nonce: int
    gas: int
    to: bytes  # 20 bytes; empty creates a contract
    value: int
    data: bytes
    gas_price: int = 0
    max_fee_per_gas: int = 0
    max_priority_fee_per_gas: int = 0
    access_list: AccessList = ()
    max_fee_per_blob_gas: int = 0  # type 3
    sidecar: Sidecar | None = None  # type 3
    authorizations: tuple[SignedAuthorization, ...] = ()  # type 4

    def fields(self) -> list[bytes]:
        """Return the RLP items that come before the signature, in order."""
        fees: tuple[int, ...] = (self.max_priority_fee_per_gas, self.max_fee_per_gas)
        if self.type in GAS_PRICED:
            fees = (self.gas_price,)
        items = [integer(number) for number in (self.nonce, *fees, self.gas)]
        items += [string(self.to), integer(self.value), string(self.data)]
        if self.type == LEGACY:
            return items
        return [integer(self.chain_id), *items, _access_list(self.access_list), *self._own_fields()]

    def _own_fields(self) -> list[bytes]:
        """Return what only a type 3 or a type 4 has."""
        if self.type == BLOB:
            assert self.sidecar is not None
            hashes = sequence(string(one) for one in self.sidecar.versioned_hashes)
            return [integer(self.max_fee_per_blob_gas), hashes]
        if self.type == SET_CODE:
            return [sequence(one.item() for one in self.authorizations)]
        return []

    def payload(self) -> bytes:
        """Return the bytes whose keccak is signed. Sources: EIP-155 (legacy), EIP-2718 (the others)."""
        if self.type == LEGACY:
            return sequence([*self.fields(), integer(self.chain_id), integer(0), integer(0)])
        return bytes([self.type]) + sequence(self.fields())

    def signed(self, signature: bytes) -> bytes:
        """Return the raw transaction as a node takes it. signature: 65 bytes r, s, recovery id (0 or 1)."""
        body = self._body(signature)
        if self.type == LEGACY:
            return body
        return bytes([self.type]) + (body if self.sidecar is None else _wrapped(body, self.sidecar))

    def hash(self, signature: bytes, raw: bytes) -> bytes:
        """Return the hash by which chains know it; raw: what `signed` has returned. A block holds no sidecar."""
        if self.sidecar is None:
            return keccak(raw)
        return keccak(bytes([self.type]) + self._body(signature))

    def _body(self, signature: bytes) -> bytes:
        r, s, parity = numbers(signature)
        v = 35 + 2 * self.chain_id + parity if self.type == LEGACY else parity
        return sequence([*self.fields(), integer(v), integer(r), integer(s)])


def decode_signed(raw: bytes) -> tuple[UnsignedTransaction, bytes]:
    """Take a raw transaction apart with pyrlp: the transaction and its 65 signature bytes (r, s, recovery id).

    Raises ValueError for anything but a well-formed, replay-protected transaction of the five types.
    """
    kind = raw[0] if raw[:1] in _TYPE_BYTES else LEGACY
    items = decode_list(raw[1:] if kind else raw)
    sidecar = None
    if kind == BLOB:
        items, sidecar = _unwrapped(items)
    if len(items) != _LENGTHS[kind]:
        raise ValueError("another number of fields than the type has")
    chain_id, parity = _chain_and_parity(kind, items)
    nonce, *fees, gas, to, value, data = items[: _DATA_END[kind]]
    transaction = UnsignedTransaction(
        type=kind,
        chain_id=chain_id,
        nonce=as_integer(nonce),
        gas=as_integer(gas),
        to=as_bytes(to, 0, 20),
        value=as_integer(value),
        data=as_bytes(data),
        sidecar=sidecar,
        **_decoded_fees(fees),
        **_decoded_rest(kind, items[_DATA_END[kind] : -3], sidecar),
    )
    return transaction, signature_of(as_integer(items[-2]), as_integer(items[-1]), parity)


def message_payload(message: bytes) -> bytes:
    """Return what is hashed for a personal message, prefix included, so that it can never be a transaction.

    Source: EIP-191, version 0x45.
    """
    return b"\x19Ethereum Signed Message:\n%d" % len(message) + message


def digest(payload: bytes) -> bytes:
    """Return the 32 bytes that are signed."""
    return keccak(payload)


def _chain_and_parity(kind: int, items: list[Any]) -> tuple[int, int]:
    """Return the chain id, taken out of the items of a typed transaction, and the recovery id."""
    v = as_integer(items[-3])
    chain_id, parity = divmod(v - 35, 2) if kind == LEGACY else (as_integer(items.pop(0)), v)
    if chain_id <= 0:
        raise ValueError("no replay protection")
    return chain_id, parity


def _decoded_fees(items: list[Any]) -> dict[str, Any]:
    if len(items) == 1:
        return {"gas_price": as_integer(items[0])}
    tip, cap = items
    return {"max_fee_per_gas": as_integer(cap), "max_priority_fee_per_gas": as_integer(tip)}


def _decoded_rest(kind: int, items: list[Any], sidecar: Sidecar | None) -> dict[str, Any]:
    """Return what stands between the data and the signature."""
    if kind == LEGACY:
        return {}
    rest: dict[str, Any] = {"access_list": _decoded_access_list(items[0])}
    if sidecar is not None:
        if tuple(as_list(items[2])) != sidecar.versioned_hashes:
            raise ValueError("the sidecar holds other blobs than the transaction names")
        rest["max_fee_per_blob_gas"] = as_integer(items[1])
    if kind == SET_CODE:
        rest["authorizations"] = tuple(SignedAuthorization.of_item(item) for item in as_list(items[1]))
    return rest


def _access_list(entries: AccessList) -> bytes:
    return sequence(
        sequence([string(address), sequence(string(key) for key in keys)]) for address, keys in entries
    )


def _decoded_access_list(item: Any) -> AccessList:
    entries = []
    for entry in as_list(item):
        if len(as_list(entry)) != 2:
            raise ValueError("not an access list")
        address, keys = entry
        entries.append((as_bytes(address, 20), tuple(as_bytes(key, 32) for key in as_list(keys))))
    return tuple(entries)


def _wrapped(body: bytes, sidecar: Sidecar) -> bytes:
    """Return the form for the network. Sources: EIP-4844 (blob proofs), EIP-7594 (cell proofs, with a version)."""
    version = [integer(sidecar.proofs_kind)] if sidecar.proofs_kind is Proofs.CELLS else []
    beside = [sidecar.blobs, sidecar.commitments, sidecar.proofs]
    return sequence([body, *version, *(sequence(string(one) for one in part) for part in beside)])


def _unwrapped(items: list[Any]) -> tuple[list[Any], Sidecar]:
    """Take the network form apart: the transaction's own items, and the sidecar. Raises ValueError."""
    kind = Proofs.BLOB
    if len(items) == 5:
        kind = Proofs(as_integer(items.pop(1)))
    if len(items) != 4:
        raise ValueError("not the network form of a blob transaction")
    body, blobs, commitments, proofs = (as_list(item) for item in items)
    sidecar = Sidecar(
        kind,
        tuple(as_bytes(blob) for blob in blobs),
        tuple(as_bytes(one, COMMITMENT_BYTES) for one in commitments),
        tuple(as_bytes(one, PROOF_BYTES) for one in proofs),
    )
    return body, sidecar
