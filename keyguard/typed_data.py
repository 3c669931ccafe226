"""Typed data as EIP-712 has it: checked whole, encoded here and by eth-account, and signed only when both agree. Pure.

Upholds: what is signed is what the message says, all of it, for one contract on one chain. A field that the types do
not name would not be part of the signature, so it is refused; so is a value that two readers could read in two ways.
Source: EIP-712.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eth_hash.auto import keccak

from keyguard.errors import TypedDataError
from keyguard.floor import MAX_CHAIN_ID, checked_address

DOMAIN = "EIP712Domain"
# In this order: it is part of what is hashed.
DOMAIN_TYPES = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}
ATOMS = ("address", "bool", "string", "bytes")  # and those with a size: uint256, int8, bytes32
MAX_TYPES = 64
MAX_DEPTH = 32
MAX_VALUES = 20_000
MAX_TEXT = 2 * 64 * 1024  # characters of a string, or of 64 KiB in hex

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)
_ARRAY = re.compile(r"(.+)\[([1-9][0-9]*)?\]", re.ASCII)
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,77})", re.ASCII)
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*", re.ASCII)
_SIZED = re.compile(r"(u?int|bytes)([1-9][0-9]*)", re.ASCII)

Types = Mapping[str, tuple[tuple[str, str], ...]]  # the fields of each type: name and type


@dataclass(frozen=True, slots=True)
class TypedData:
    """Typed data that may be signed, and what its domain says."""

    chain_id: int
    verifying_contract: bytes
    encoded: bytes = field(repr=False)  # 0x19 0x01, the domain's hash, the message's hash
    primary_type: str
    domain: Mapping[str, Any] = field(repr=False)
    message: Mapping[str, Any] = field(repr=False)  # integers as ints, bytes as bytes
    source: Mapping[str, Any] = field(repr=False, compare=False)  # as it was given

    def payload(self) -> bytes:
        """Return the bytes whose keccak is signed."""
        return self.encoded


def decode_typed_data(typed_data: object, chain_id: int | None = None) -> TypedData:
    """Return the data to be signed, or raise a TypedDataError (or AddressInvalidError) that names the part.

    typed_data: types, primaryType, domain and message, as of eth_signTypedData_v4, and nothing else. The domain must
    name chainId and verifyingContract. Integers are ints or decimal text, bytes are 0x text of their exact length.
    chain_id: the chain that the caller means, where it says so; another one in the domain is refused.
    """
    if not isinstance(typed_data, Mapping) or set(typed_data) != {
        "types",
        "primaryType",
        "domain",
        "message",
    }:
        raise TypedDataError(
            "typed_data", "must have types, primaryType, domain and message and nothing else"
        )
    types, domain = _types(typed_data["types"]), typed_data["domain"]
    domain_type = _domain_type(types, domain)
    if chain_id is not None and domain["chainId"] != chain_id:
        raise TypedDataError("domain.chainId", f"is not {chain_id}")
    primary = typed_data["primaryType"]
    if not isinstance(primary, str) or primary not in types or primary == DOMAIN:
        raise TypedDataError("primaryType", "is not among the types")
    needed = _needed(primary, types)
    message_encoder = _Encoder({name: types[name] for name in needed})
    domain_hash = _Encoder({DOMAIN: domain_type}).hash_struct(DOMAIN, domain, "domain")
    message_hash = message_encoder.hash_struct(primary, typed_data["message"], "message")
    encoded = b"\x19\x01" + domain_hash + message_hash
    if encoded != _encoded_by_eth_account(message_encoder, primary, domain):
        raise TypedDataError("message", "two encoders do not agree on it")
    return TypedData(
        domain["chainId"],
        bytes.fromhex(domain["verifyingContract"][2:]),
        encoded,
        primary,
        domain,
        message_encoder.values,
        typed_data,
    )


# --- Types ------------------------------------------------------------------------------------------------


def _types(given: object) -> Types:
    if not isinstance(given, Mapping) or not 1 <= len(given) <= MAX_TYPES:
        raise TypedDataError("types", f"must be a mapping of 1 to {MAX_TYPES} types")
    for name in given:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or _is_reserved(name):
            raise TypedDataError("types", f"{str(name)[:64]!r} cannot be the name of a type")
    types = {name: _fields(name, fields) for name, fields in given.items()}
    for name, fields in types.items():
        for field_name, type_ in fields:
            if not _is_atomic(_core(type_)) and (_core(type_) not in types or _core(type_) == DOMAIN):
                raise TypedDataError(f"types.{name}.{field_name}", f"there is no type {type_[:64]!r}")
    return types


def _fields(name: str, given: object) -> tuple[tuple[str, str], ...]:
    fields = []
    for entry in given if isinstance(given, list | tuple) else [None]:
        if not isinstance(entry, Mapping) or set(entry) != {"name", "type"}:
            raise TypedDataError(f"types.{name}", "must be a list of fields, each with name and type")
        field_name, type_ = entry["name"], entry["type"]
        if not isinstance(field_name, str) or not _NAME.fullmatch(field_name) or not isinstance(type_, str):
            raise TypedDataError(f"types.{name}", "the name or the type of a field is malformed")
        fields.append((field_name, type_))
    if len({field_name for field_name, _ in fields}) != len(fields):
        raise TypedDataError(f"types.{name}", "has a field twice")
    return tuple(fields)


def _domain_type(types: Types, domain: object) -> tuple[tuple[str, str], ...]:
    """Return the domain's type: that of the fields which the domain has, in the order of the standard."""
    if not isinstance(domain, Mapping) or not set(domain) <= set(DOMAIN_TYPES):
        raise TypedDataError("domain", f"may have {', '.join(DOMAIN_TYPES)} and nothing else")
    chain_id = domain.get("chainId")
    if type(chain_id) is not int or not 0 < chain_id <= MAX_CHAIN_ID:
        raise TypedDataError(
            "domain.chainId", "is required: without it the signature is valid on every chain"
        )
    if "verifyingContract" not in domain:
        raise TypedDataError(
            "domain.verifyingContract", "is required: without it the signature is valid for every contract"
        )
    derived = tuple((name, type_) for name, type_ in DOMAIN_TYPES.items() if name in domain)
    if types.get(DOMAIN, derived) != derived:
        raise TypedDataError(f"types.{DOMAIN}", "must list the domain's fields in the standard's order")
    return derived


def _needed(primary: str, types: Types) -> list[str]:
    """Return the types that the primary type is made of, itself first, the others by name."""
    found, left = {primary}, [primary]
    while left:
        for _, type_ in types[left.pop()]:
            core = _core(type_)
            if core == primary:
                raise TypedDataError("primaryType", "is a part of itself")
            if core in types and core not in found:
                found.add(core)
                left.append(core)
    return [primary, *sorted(found - {primary})]


def _core(type_: str) -> str:
    """Return what an array, of whatever dimensions, is made of."""
    while match := _ARRAY.fullmatch(type_):
        type_ = match[1]
    return type_


def _is_reserved(name: str) -> bool:
    """Tell whether the name is, or looks like, that of a type of Solidity's."""
    return name in (*ATOMS, "int", "uint") or bool(_SIZED.fullmatch(name))


def _is_atomic(type_: str) -> bool:
    """Tell whether the type is one of Solidity's; the aliases int and uint are not (EIP-712: encodeType)."""
    if type_ in ATOMS:
        return True
    match = _SIZED.fullmatch(type_)
    if match is None:
        return False
    size = int(match[2])
    return size <= 32 if match[1] == "bytes" else size <= 256 and size % 8 == 0


# --- Values -----------------------------------------------------------------------------------------------


class _Encoder:
    """Encodes one struct and counts what it holds. `values`: the same with integers as ints, for the other encoder."""

    def __init__(self, types: Types) -> None:
        self.types = types
        self.values: Any = None
        self._count = 0
        self._type_hashes: dict[str, bytes] = {}

    def hash_struct(self, type_: str, value: object, path: str) -> bytes:
        """Return hashStruct of the value, and keep it in `values`."""
        word, self.values = self._struct(type_, value, path, 0)
        return word

    def _struct(self, type_: str, value: object, path: str, depth: int) -> tuple[bytes, Any]:
        if not isinstance(value, Mapping):
            raise TypedDataError(path, f"must be a {type_}")
        names = [name for name, _ in self.types[type_]]
        for name in value:
            if name not in names:
                raise TypedDataError(
                    f"{path}.{str(name)[:64]}", f"is no field of {type_}: it would not be signed"
                )
        for name in names:
            if name not in value:
                raise TypedDataError(f"{path}.{name}", "is missing")
        parts = {
            name: self._word(field_type, value[name], f"{path}.{name}", depth + 1)
            for name, field_type in self.types[type_]
        }
        if type_ not in self._type_hashes:
            self._type_hashes[type_] = keccak(self._encode_type(type_).encode())
        encoded = self._type_hashes[type_] + b"".join(word for word, _ in parts.values())
        return keccak(encoded), {name: plain for name, (_, plain) in parts.items()}

    def _encode_type(self, type_: str) -> str:
        """Return encodeType: the type, then those that it is made of by name, each with its fields."""
        found, left = {type_}, [type_]
        while left:
            cores = {_core(field_type) for _, field_type in self.types[left.pop()]}
            fresh = (cores & set(self.types)) - found
            found |= fresh
            left += fresh
        names = [type_, *sorted(found - {type_})]
        return "".join(
            f"{name}({','.join(f'{field_type} {field_name}' for field_name, field_type in self.types[name])})"
            for name in names
        )

    def _word(self, type_: str, value: object, path: str, depth: int) -> tuple[bytes, Any]:
        """Return the 32 bytes that stand for a value, and the value as the other encoder takes it."""
        self._count += 1
        if depth > MAX_DEPTH or self._count > MAX_VALUES:
            raise TypedDataError(
                path, f"nested deeper than {MAX_DEPTH}, or more than {MAX_VALUES} values in all"
            )
        if match := _ARRAY.fullmatch(type_):
            return self._array(match[1], match[2], value, path, depth)
        if type_ in self.types:
            return self._struct(type_, value, path, depth)
        return _atom(type_, value, path)

    def _array(
        self, type_: str, length: str | None, value: object, path: str, depth: int
    ) -> tuple[bytes, list[Any]]:
        if not isinstance(value, list | tuple) or (length is not None and len(value) != int(length)):
            raise TypedDataError(path, f"must be a list of {length or ''} {type_}".replace("  ", " "))
        if len(value) > MAX_VALUES:
            raise TypedDataError(path, f"more than {MAX_VALUES} values")
        parts = [self._word(type_, one, f"{path}[{place}]", depth + 1) for place, one in enumerate(value)]
        return keccak(b"".join(word for word, _ in parts)), [plain for _, plain in parts]


def _atom(type_: str, value: object, path: str) -> tuple[bytes, Any]:
    if type_ == "address":
        address = checked_address(value, path)
        return bytes(12) + bytes.fromhex(address[2:]), address
    if type_ == "bool":
        if type(value) is not bool:
            raise TypedDataError(path, "must be true or false")
        return int(value).to_bytes(32), value
    if type_ == "string":
        text = _text(value, path)
        return keccak(text.encode()), text
    if type_.startswith("bytes"):
        return _bytes(type_, value, path)
    return _number(type_, value, path)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise TypedDataError(path, "must be text of a sensible size")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise TypedDataError(path, "holds half a surrogate pair, which has no encoding")
    return value


def _bytes(type_: str, value: object, path: str) -> tuple[bytes, bytes]:
    if not isinstance(value, str) or len(value) > 2 + MAX_TEXT or not _HEX.fullmatch(value):
        raise TypedDataError(path, "must be 0x text of whole bytes")
    data = bytes.fromhex(value[2:])
    if type_ == "bytes":
        return keccak(data), data
    if len(data) != int(type_[5:]):
        raise TypedDataError(path, f"must be {type_[5:]} bytes")
    return data.ljust(32, b"\x00"), data


def _number(type_: str, value: object, path: str) -> tuple[bytes, int]:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is not int:  # a bool is an int to isinstance
        raise TypedDataError(path, "must be an integer, or decimal text")
    signed = type_.startswith("int")
    bits = int(type_.removeprefix("u")[3:])
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not least <= value <= most:
        raise TypedDataError(path, f"is no {type_}")
    return value.to_bytes(32, signed=signed), value


def _encoded_by_eth_account(encoder: _Encoder, primary: str, domain: Mapping[str, Any]) -> bytes:
    from eth_account.messages import encode_typed_data  # slow to load, and few processes need it

    types = {
        name: [{"name": field_name, "type": type_} for field_name, type_ in fields]
        for name, fields in encoder.types.items()
    }
    whole = {"types": types, "primaryType": primary, "domain": dict(domain), "message": encoder.values}
    try:
        signable = encode_typed_data(full_message=whole)
    except Exception as error:  # noqa: BLE001 - of many kinds; what the other encoder does not take is not signed
        raise TypedDataError("message", f"eth-account does not take it ({type(error).__name__})") from None
    return b"\x19" + bytes(signable.version) + bytes(signable.header) + bytes(signable.body)
