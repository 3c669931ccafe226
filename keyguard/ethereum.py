"""Transactions and messages as Ethereum signs them. Pure: no key, no database, no clock.

Upholds: what is encoded here can be taken apart again by another implementation (pyrlp) and compared field by field
with what was asked, so an error in either cannot go out unnoticed.
Does not judge whether a transaction may be signed: that is `floor`.
"""

from dataclasses import dataclass
from typing import Any

import rlp
from eth_utils.crypto import keccak

LEGACY, DYNAMIC_FEE = 0, 2


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A transaction to be signed. Legacy ones have `gas_price`, type 2 ones the two maximum fees (wei per gas)."""

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

    def fields(self) -> list[bytes]:
        """Return the RLP items that come before the signature, in order."""
        fees = [self.gas_price]
        if self.type == DYNAMIC_FEE:
            fees = [self.max_priority_fee_per_gas, self.max_fee_per_gas]
        items = [_integer(number) for number in (self.nonce, *fees, self.gas)]
        items += [_string(self.to), _integer(self.value), _string(self.data)]
        return [_integer(self.chain_id), *items, _list([])] if self.type == DYNAMIC_FEE else items

    def payload(self) -> bytes:
        """Return the bytes whose keccak is signed. Sources: EIP-155 (legacy), EIP-1559 and EIP-2718 (type 2)."""
        if self.type == DYNAMIC_FEE:
            return b"\x02" + _list(self.fields())
        return _list([*self.fields(), _integer(self.chain_id), _integer(0), _integer(0)])

    def signed(self, signature: bytes) -> bytes:
        """Return the raw transaction. signature: 65 bytes r, s, recovery id (0 or 1)."""
        r, s = (_integer(int.from_bytes(part)) for part in (signature[:32], signature[32:64]))
        if self.type == DYNAMIC_FEE:
            return b"\x02" + _list([*self.fields(), _integer(signature[64]), r, s])
        return _list([*self.fields(), _integer(35 + 2 * self.chain_id + signature[64]), r, s])


def decode_signed(raw: bytes) -> tuple[UnsignedTransaction, bytes]:
    """Take a raw transaction apart with pyrlp: the transaction and its 65 signature bytes (r, s, recovery id).

    Raises ValueError for anything but a well-formed, replay-protected transaction of the two types.
    """
    typed = raw[:1] == b"\x02"
    items = _decode_list(raw[1:] if typed else raw)
    if typed and len(items) == 12 and items[8] == []:
        chain_id, nonce, tip, cap, gas, to, value, data, _, v, r, s = items
        fees = {"max_fee_per_gas": _number(cap), "max_priority_fee_per_gas": _number(tip)}
        chain, parity = _number(chain_id), _number(v)
    elif not typed and len(items) == 9:
        nonce, price, gas, to, value, data, v, r, s = items
        fees = {"gas_price": _number(price)}
        chain, parity = divmod(_number(v) - 35, 2)
    else:
        raise ValueError("not a legacy or type 2 transaction")
    if parity not in (0, 1) or chain <= 0 or len(to) not in (0, 20):
        raise ValueError("no replay protection, no recovery id or no address")
    transaction = UnsignedTransaction(
        type=DYNAMIC_FEE if typed else LEGACY,
        chain_id=chain,
        nonce=_number(nonce),
        gas=_number(gas),
        to=bytes(to),
        value=_number(value),
        data=bytes(data),
        **fees,
    )
    return transaction, _number(r).to_bytes(32) + _number(s).to_bytes(32) + bytes([parity])


def message_payload(message: bytes) -> bytes:
    """Return what is hashed for a personal message, prefix included, so that it can never be a transaction.

    Source: EIP-191, version 0x45.
    """
    return b"\x19Ethereum Signed Message:\n%d" % len(message) + message


def digest(payload: bytes) -> bytes:
    """Return the 32 bytes that are signed."""
    return keccak(payload)


def _string(value: bytes) -> bytes:
    if len(value) == 1 and value[0] < 0x80:
        return value
    return _prefix(len(value), 0x80) + value


def _integer(value: int) -> bytes:
    return _string(value.to_bytes((value.bit_length() + 7) // 8))


def _list(items: list[bytes]) -> bytes:
    body = b"".join(items)
    return _prefix(len(body), 0xC0) + body


def _prefix(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([offset + 55 + len(length)]) + length


def _decode_list(encoded: bytes) -> list[Any]:
    try:
        items = rlp.decode(encoded)  # strict: trailing bytes and long forms are errors
    except rlp.exceptions.RLPException:
        raise ValueError("not RLP") from None
    if not isinstance(items, list):
        raise ValueError("not a list")  # noqa: TRY004 - the bytes are wrong, not their type
    return items


def _number(item: object) -> int:
    if not isinstance(item, bytes) or item[:1] == b"\x00":
        raise ValueError("not an integer")
    return int.from_bytes(item)
