"""The hard floor: what keyguard signs for nobody, whatever is configured. Pure.

It takes the structured transaction apart itself and reads every fact from there. eth-account would sign a transaction
without a chain id (valid on every chain) and drop what it doesn't know; nothing like that passes here.
"""

import re
from collections.abc import Mapping
from typing import Any

from keyguard.curve import checksummed
from keyguard.errors import (
    AddressInvalidError,
    AuthorizationRefusedError,
    BlobRefusedError,
    ChainIdError,
    DataTooLargeError,
    FeesInvalidError,
    FieldInvalidError,
    FieldMissingError,
    FieldUnknownError,
    SenderMismatchError,
    TransactionTypeError,
)
from keyguard.ethereum import DYNAMIC_FEE, LEGACY, UnsignedTransaction

MAX_CHAIN_ID = 2**63 - 37  # EIP-2294: (2^64 - 1) // 2 - 36
MAX_NONCE = 2**64 - 2  # EIP-2681
MAX_GAS = 2**64 - 1
MIN_GAS = 21_000
MAX_UINT256 = 2**256 - 1
MAX_DATA_BYTES = 128 * 1024  # geth's txMaxSize
MAX_INIT_CODE_BYTES = 48 * 1024  # EIP-3860
MAX_MESSAGE_BYTES = 64 * 1024

_COMMON = frozenset({"type", "chainId", "nonce", "gas", "to", "value", "data", "from"})
_FEES = {LEGACY: frozenset({"gasPrice"}), DYNAMIC_FEE: frozenset({"maxFeePerGas", "maxPriorityFeePerGas"})}
_FIELDS = {LEGACY: _COMMON | _FEES[LEGACY], DYNAMIC_FEE: _COMMON | _FEES[DYNAMIC_FEE] | {"accessList"}}
_BLOB = ("blobs", "blobVersionedHashes", "maxFeePerBlobGas", "sidecar")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)


def decode_transaction(fields: Mapping[str, Any], key_address: str) -> UnsignedTransaction:
    """Return the transaction that `fields` describe, or raise a FloorError that names the field.

    fields: the names of the JSON-RPC: chainId, nonce, gas, to (0x text, or None to create a contract), value, data
    (0x text), and gasPrice (legacy) or maxFeePerGas and maxPriorityFeePerGas (type 2); type and from are checked when
    they are there, accessList must be empty. Numbers are ints. Nothing else is accepted.
    key_address: the checksummed address of the key that is to sign.
    """
    kind = _type(fields)
    for name in fields:
        if name not in _FIELDS[kind]:
            raise FieldUnknownError(str(name)[:64])
    if fields.get("accessList"):
        raise FieldInvalidError("accessList", "must be empty")
    if "from" in fields and checked_address(fields["from"], "from") != key_address:
        raise SenderMismatchError("from")
    transaction = UnsignedTransaction(
        type=kind,
        chain_id=_chain_id(fields),
        nonce=_integer(fields, "nonce", MAX_NONCE),
        gas=_integer(fields, "gas", MAX_GAS, least=MIN_GAS),
        to=_to(fields),
        value=_integer(fields, "value", MAX_UINT256, default=0),
        data=_data(fields),
        **_fees(fields, kind),
    )
    _check_sums(transaction)
    return transaction


def checked_address(value: object, field: str) -> str:
    """Return the checksummed address, or raise AddressInvalidError. A wrong checksum is a typing error: refused."""
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value):
        raise AddressInvalidError(field)
    right = checksummed(value)
    if value not in (right, value.lower()):
        raise AddressInvalidError(field, "the checksum is wrong")
    return right


def checked_message(message: object) -> bytes:
    """Return the message, or raise FieldInvalidError unless it is bytes of a sensible size."""
    if not isinstance(message, bytes):
        raise FieldInvalidError("message", "must be bytes")
    if len(message) > MAX_MESSAGE_BYTES:
        raise FieldInvalidError("message", "must not exceed 64 KiB")
    return message


def checked_idempotency_key(value: object) -> str:
    """Return the idempotency key, or raise FieldInvalidError unless it is 1 to 255 printable ASCII characters."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,255}", value):
        raise FieldInvalidError(
            "idempotency_key", "must be 1 to 255 printable ASCII characters without spaces"
        )
    return value


def _type(fields: Mapping[str, Any]) -> int:
    if "authorizationList" in fields:
        raise AuthorizationRefusedError("authorizationList")
    for name in _BLOB:
        if name in fields:
            raise BlobRefusedError(name)
    kind = fields.get("type", LEGACY if "gasPrice" in fields else DYNAMIC_FEE)
    if isinstance(kind, str):
        kind = {"0x0": 0, "0x1": 1, "0x2": 2, "0x3": 3, "0x4": 4}.get(kind)
    if kind == 3:
        raise BlobRefusedError("type")
    if kind == 4:
        raise AuthorizationRefusedError("type")
    if type(kind) is not int or kind not in (LEGACY, DYNAMIC_FEE):  # a bool is an int to isinstance
        raise TransactionTypeError("type")
    return kind


def _chain_id(fields: Mapping[str, Any]) -> int:
    chain_id = fields.get("chainId")
    if type(chain_id) is not int or not 0 < chain_id <= MAX_CHAIN_ID:
        raise ChainIdError("chainId")
    return chain_id


def _integer(
    fields: Mapping[str, Any], name: str, most: int, least: int = 0, default: int | None = None
) -> int:
    value = fields.get(name, default)
    if name not in fields and default is None:
        raise FieldMissingError(name)
    if type(value) is not int:  # a bool is an int to isinstance
        raise FieldInvalidError(name, "must be an integer")
    if not least <= value <= most:
        raise FieldInvalidError(name, f"must be from {least} to {most}")
    return value


def _to(fields: Mapping[str, Any]) -> bytes:
    if "to" not in fields:
        raise FieldMissingError("to", "required; None creates a contract")
    if fields["to"] is None:
        return b""
    return bytes.fromhex(checked_address(fields["to"], "to")[2:])


def _data(fields: Mapping[str, Any]) -> bytes:
    text = fields.get("data", "0x")
    if not isinstance(text, str):
        raise FieldInvalidError("data", "must be 0x text")
    if len(text) > 2 + 2 * MAX_DATA_BYTES:  # before the costly look at each digit
        raise DataTooLargeError("data")
    if not _HEX.fullmatch(text):
        raise FieldInvalidError("data", "must be 0x text of whole bytes")
    return bytes.fromhex(text[2:])


def _fees(fields: Mapping[str, Any], kind: int) -> dict[str, int]:
    if kind == LEGACY:
        return {"gas_price": _integer(fields, "gasPrice", MAX_UINT256)}
    return {
        "max_fee_per_gas": _integer(fields, "maxFeePerGas", MAX_UINT256),
        "max_priority_fee_per_gas": _integer(fields, "maxPriorityFeePerGas", MAX_UINT256),
    }


def _check_sums(transaction: UnsignedTransaction) -> None:
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        raise FeesInvalidError("maxPriorityFeePerGas", "exceeds maxFeePerGas")
    fee = transaction.gas * max(transaction.max_fee_per_gas, transaction.gas_price)
    if transaction.value + fee > MAX_UINT256:
        raise FeesInvalidError("value", "value and fees exceed 2^256 - 1")
    if not transaction.to and not transaction.data:
        raise FieldMissingError("data", "a contract needs its init code")
    if not transaction.to and len(transaction.data) > MAX_INIT_CODE_BYTES:
        raise DataTooLargeError("data", "init code exceeds 48 KiB (EIP-3860)")
