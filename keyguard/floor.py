"""The hard floor: what keyguard signs for nobody, whatever is configured. Pure.

It takes the structured transaction apart itself and reads every fact from there. eth-account would sign a transaction
without a chain id (valid on every chain) and drop what it doesn't know; nothing like that passes here.
"""

import re
from collections.abc import Mapping
from typing import Any

from keyguard import blobs
from keyguard.authorizations import Authorization, SignedAuthorization, signature_of
from keyguard.blobs import MAX_BLOBS, Proofs, Sidecar
from keyguard.calls import Call
from keyguard.curve import HALF_ORDER, ORDER, checksummed
from keyguard.errors import (
    AddressInvalidError,
    AuthorizationInvalidError,
    BlobInvalidError,
    ChainIdError,
    DataTooLargeError,
    FeesInvalidError,
    FieldInvalidError,
    FieldMissingError,
    FieldUnknownError,
    SenderMismatchError,
    TransactionTypeError,
)
from keyguard.ethereum import (
    ACCESS_LIST,
    BLOB,
    DYNAMIC_FEE,
    GAS_PRICED,
    LEGACY,
    SET_CODE,
    AccessList,
    UnsignedTransaction,
)

MAX_CHAIN_ID = 2**63 - 37  # EIP-2294: (2^64 - 1) // 2 - 36
MAX_NONCE = 2**64 - 2  # EIP-2681
MAX_GAS = 2**64 - 1
MIN_GAS = 21_000
MAX_UINT256 = 2**256 - 1
MAX_DATA_BYTES = 128 * 1024  # geth's txMaxSize
MAX_INIT_CODE_BYTES = 48 * 1024  # EIP-3860
MAX_ACCESS_LIST_ITEMS = 4096  # addresses and slots together; more would not fit into txMaxSize
MAX_AUTHORIZATIONS = 256
MAX_MESSAGE_BYTES = 64 * 1024

_COMMON = frozenset({"type", "chainId", "nonce", "gas", "to", "value", "data", "from"})
_GAS_PRICE = frozenset({"gasPrice"})
_FEES = frozenset({"maxFeePerGas", "maxPriorityFeePerGas"})
_FIELDS = {
    LEGACY: _COMMON | _GAS_PRICE,
    ACCESS_LIST: _COMMON | _GAS_PRICE | {"accessList"},
    DYNAMIC_FEE: _COMMON | _FEES | {"accessList"},
    BLOB: _COMMON | _FEES | {"accessList", "maxFeePerBlobGas", "blobs", "wrapperVersion"},
    SET_CODE: _COMMON | _FEES | {"accessList", "authorizationList"},
}
_TYPES = {f"0x{kind}": kind for kind in _FIELDS}
_CALL_FIELDS = frozenset({"chainId", "from", "to", "value", "data", "gas", "maxFeePerGas"})
_AUTHORIZATION_FIELDS = frozenset({"authority", "chainId", "address", "nonce", "yParity", "r", "s"})
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_WORD = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)


def decode_transaction(fields: Mapping[str, Any], key_address: str) -> UnsignedTransaction:
    """Return the transaction that `fields` describe, or raise a FloorError that names the field.

    fields: the names of the JSON-RPC: chainId, nonce, gas, to (0x text, or None to create a contract), value, data
    (0x text); gasPrice (types 0 and 1) or maxFeePerGas and maxPriorityFeePerGas; accessList (all but type 0);
    maxFeePerBlobGas and blobs (type 3: 1 to 6 of 131072 bytes each) and, if the node is older than EIP-7594,
    wrapperVersion 0; authorizationList (type 4: what `SignedAuthorization.fields` returns). from is checked when it is
    there; type must be there for types 1, 3 and 4. Numbers are ints. Nothing else is accepted.
    key_address: the checksummed address of the key that is to sign.
    """
    _require_fields(fields, "transaction")
    kind = _type(fields)
    for name in fields:
        if name not in _FIELDS[kind]:
            raise FieldUnknownError(str(name)[:64])
    if "from" in fields and checked_address(fields["from"], "from") != key_address:
        raise SenderMismatchError("from")
    chain_id = _chain_id(fields, "chainId")
    transaction = UnsignedTransaction(
        type=kind,
        chain_id=chain_id,
        nonce=_integer(fields, "nonce", MAX_NONCE),
        gas=_integer(fields, "gas", MAX_GAS, least=MIN_GAS),
        to=_to(fields, kind),
        value=_integer(fields, "value", MAX_UINT256, default=0),
        data=_data(fields),
        access_list=_access_list(fields.get("accessList", ())),
        **_fees(fields, kind),
        **_own_parts(fields, kind, chain_id),
    )
    _check_sums(transaction)
    return transaction


def _require_fields(given: object, name: str) -> None:
    if not isinstance(given, Mapping):
        raise FieldInvalidError(name, "must be a mapping of fields")


def decode_call(fields: Mapping[str, Any], key_address: str) -> Call:
    """Return the call that a custody is to execute with its own nonce and fee, or raise a FloorError.

    fields: chainId, from (must be the key's), to, value, data; gas and maxFeePerGas are hints. Nothing else is accepted.
    """
    _require_fields(fields, "call")
    for name in fields:
        if name not in _CALL_FIELDS:
            raise FieldUnknownError(str(name)[:64])
    if checked_address(fields.get("from"), "from") != key_address:
        raise SenderMismatchError("from")
    call = Call(
        chain_id=_chain_id(fields, "chainId"),
        to=_to(fields, DYNAMIC_FEE),
        value=_integer(fields, "value", MAX_UINT256, default=0),
        data=_data(fields),
        gas_limit=_integer(fields, "gas", MAX_GAS, least=MIN_GAS) if "gas" in fields else None,
        max_fee_per_gas_wei=_integer(fields, "maxFeePerGas", MAX_UINT256)
        if "maxFeePerGas" in fields
        else None,
    )
    _check_creation(call.to, call.data)
    return call


def decode_authorization(chain_id: object, delegate: object, nonce: object) -> Authorization:
    """Return the authorisation, or raise a FloorError: a chain id of 0 would make it valid on every chain (EIP-7702)."""
    given = {"chainId": chain_id, "nonce": nonce}
    address = checked_address(delegate, "delegate")
    return Authorization(
        _chain_id(given, "chainId"), bytes.fromhex(address[2:]), _integer(given, "nonce", MAX_NONCE)
    )


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
    kind = fields.get("type", LEGACY if "gasPrice" in fields else DYNAMIC_FEE)
    if isinstance(kind, str):
        kind = _TYPES.get(kind)
    if type(kind) is not int or kind not in _FIELDS:  # a bool is an int to isinstance
        raise TransactionTypeError("type")
    return kind


def _chain_id(fields: Mapping[str, Any], name: str) -> int:
    chain_id = fields.get("chainId")
    if type(chain_id) is not int or not 0 < chain_id <= MAX_CHAIN_ID:
        raise ChainIdError(name)
    return chain_id


def _integer(
    fields: Mapping[str, Any],
    name: str,
    most: int,
    least: int = 0,
    default: int | None = None,
    within: str = "",
) -> int:
    value = fields.get(name, default)
    path = f"{within}.{name}" if within else name
    if name not in fields and default is None:
        raise FieldMissingError(path)
    if type(value) is not int:  # a bool is an int to isinstance
        raise FieldInvalidError(path, "must be an integer")
    if not least <= value <= most:
        raise FieldInvalidError(path, f"must be from {least} to {most}")
    return value


def _to(fields: Mapping[str, Any], kind: int) -> bytes:
    if "to" not in fields:
        raise FieldMissingError("to", "required; None creates a contract")
    if fields["to"] is None:
        if kind in (BLOB, SET_CODE):
            raise FieldInvalidError("to", "a transaction of this type cannot create a contract")
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


def _fees(fields: Mapping[str, Any], kind: int) -> dict[str, Any]:
    if kind in GAS_PRICED:
        return {"gas_price": _integer(fields, "gasPrice", MAX_UINT256)}
    return {
        "max_fee_per_gas": _integer(fields, "maxFeePerGas", MAX_UINT256),
        "max_priority_fee_per_gas": _integer(fields, "maxPriorityFeePerGas", MAX_UINT256),
    }


def _own_parts(fields: Mapping[str, Any], kind: int, chain_id: int) -> dict[str, Any]:
    """Return what only a type 3 or a type 4 has."""
    if kind == BLOB:
        # At least 1: no blob is free, and a node would refuse it.
        blob_fee = _integer(fields, "maxFeePerBlobGas", MAX_UINT256, least=1)
        return {"max_fee_per_blob_gas": blob_fee, "sidecar": _sidecar(fields)}
    if kind == SET_CODE:
        return {"authorizations": _authorizations(fields, chain_id)}
    return {}


def _access_list(entries: object) -> AccessList:
    if not isinstance(entries, list | tuple):
        raise FieldInvalidError("accessList", "must be a list")
    size, decoded = 0, []
    for place, entry in enumerate(entries):
        name = f"accessList[{place}]"
        if not isinstance(entry, Mapping) or set(entry) != {"address", "storageKeys"}:
            raise FieldInvalidError(name, "must have address and storageKeys and nothing else")
        address, keys = checked_address(entry["address"], f"{name}.address"), entry["storageKeys"]
        if not isinstance(keys, list | tuple):
            raise FieldInvalidError(f"{name}.storageKeys", "must be a list")
        size += 1 + len(keys)
        if size > MAX_ACCESS_LIST_ITEMS:
            raise DataTooLargeError("accessList", f"more than {MAX_ACCESS_LIST_ITEMS} addresses and slots")
        decoded.append((bytes.fromhex(address[2:]), tuple(_word(key, f"{name}.storageKeys") for key in keys)))
    return tuple(decoded)


def _word(value: object, name: str) -> bytes:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise FieldInvalidError(name, "must be 0x text of 32 bytes each")
    return bytes.fromhex(value[2:])


def _sidecar(fields: Mapping[str, Any]) -> Sidecar:
    given = fields.get("blobs")
    if given is None:
        raise FieldMissingError("blobs")
    if not isinstance(given, list | tuple) or not all(isinstance(blob, bytes) for blob in given):
        raise FieldInvalidError("blobs", "must be a list of bytes")
    if not 1 <= len(given) <= MAX_BLOBS:
        raise FieldInvalidError("blobs", f"must be 1 to {MAX_BLOBS}")
    version = _integer(fields, "wrapperVersion", max(Proofs), default=Proofs.CELLS.value)
    try:
        return blobs.make_sidecar(given, Proofs(version))
    except ValueError as error:
        raise BlobInvalidError("blobs", str(error)) from None


def _authorizations(fields: Mapping[str, Any], chain_id: int) -> tuple[SignedAuthorization, ...]:
    given = fields.get("authorizationList")
    if given is None:
        raise FieldMissingError("authorizationList")
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= MAX_AUTHORIZATIONS:
        raise FieldInvalidError("authorizationList", f"must be a list of 1 to {MAX_AUTHORIZATIONS}")
    return tuple(
        _authorization(one, chain_id, f"authorizationList[{place}]") for place, one in enumerate(given)
    )


def _authorization(given: object, chain_id: int, name: str) -> SignedAuthorization:
    """Return an authorisation that chains would accept, signed by the authority that it names.

    Chains pass over a bad one in silence, and execute the transaction all the same.
    """
    if not isinstance(given, Mapping) or set(given) != _AUTHORIZATION_FIELDS:
        raise FieldInvalidError(
            name, f"must have {', '.join(sorted(_AUTHORIZATION_FIELDS))} and nothing else"
        )
    if _chain_id(given, f"{name}.chainId") != chain_id:
        raise AuthorizationInvalidError(f"{name}.chainId", "is not the transaction's")
    authority = checked_address(given["authority"], f"{name}.authority")
    delegate = checked_address(given["address"], f"{name}.address")
    nonce = _integer(given, "nonce", MAX_NONCE, within=name)
    parity = _integer(given, "yParity", 1, within=name)
    r = _integer(given, "r", ORDER - 1, least=1, within=name)
    s = _integer(given, "s", HALF_ORDER, least=1, within=name)
    signed = SignedAuthorization(chain_id, bytes.fromhex(delegate[2:]), nonce, signature_of(r, s, parity))
    try:
        signer = signed.authority()
    except ValueError:
        signer = ""
    if signer != authority:
        raise AuthorizationInvalidError(name, "its signature is not its authority's")
    return signed


def _check_sums(transaction: UnsignedTransaction) -> None:
    if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
        raise FeesInvalidError("maxPriorityFeePerGas", "exceeds maxFeePerGas")
    fee = transaction.gas * max(transaction.max_fee_per_gas, transaction.gas_price)
    if transaction.sidecar is not None:
        fee += len(transaction.sidecar.blobs) * blobs.GAS_PER_BLOB * transaction.max_fee_per_blob_gas
    if transaction.value + fee > MAX_UINT256:
        raise FeesInvalidError("value", "value and fees exceed 2^256 - 1")
    _check_creation(transaction.to, transaction.data)


def _check_creation(to: bytes, data: bytes) -> None:
    if not to and not data:
        raise FieldMissingError("data", "a contract needs its init code")
    if not to and len(data) > MAX_INIT_CODE_BYTES:
        raise DataTooLargeError("data", "init code exceeds 48 KiB (EIP-3860)")
