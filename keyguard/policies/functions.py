"""Functions of contracts as a policy names them, and the arguments of a call. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import ABITypeError, DecodingError, EncodingError
from eth_hash.auto import keccak

from keyguard.errors import PolicyInvalidError
from keyguard.policies.facts import Facts
from keyguard.policies.values import strings

_SIGNATURE = re.compile(r"([A-Za-z_$][\w$]*)\((.*)\)", re.ASCII)
_PARAMETER = re.compile(
    r"(address|bool|string|bytes(?:[1-9]|[12]\d|3[012])?|u?int(?:8|16|24|32|40|48|56|64|72|80|88|96|1[0-9][0-9]|2[0-5][0-9])?)"
    r"((?:\[\d*\])*)(?:\s+([A-Za-z_]\w*))?",
    re.ASCII,
)
_WORD = re.compile(r"(address|bool|bytes(?=[1-9])|u?int)(\d*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of a contract: `transfer(address to, uint256 amount)`. An argument without a name has its place."""

    text: str
    selector: bytes
    types: tuple[str, ...]
    names: tuple[str, ...]
    words: "tuple[Word, ...] | None"  # how to read each argument, where all of them have a word of 32 bytes

    @classmethod
    def of(cls, text: str, path: str) -> "Signature":
        """Return the function of this text. Raises PolicyInvalidError."""
        match = _SIGNATURE.fullmatch(text.strip())
        parts = [part.strip() for part in match[2].split(",")] if match and match[2].strip() else []
        found = [_PARAMETER.fullmatch(part) for part in parts]
        if match is None or None in found:
            raise PolicyInvalidError(
                path,
                f"{text[:80]!r} is no signature like transfer(address to, uint256 amount), without tuples",
            )
        types = tuple(_full(one[1]) + one[2] for one in found if one)
        names = tuple(one[3] or str(place) for place, one in enumerate(found) if one)
        if len(set(names)) != len(names):
            raise PolicyInvalidError(path, f"{text[:80]!r} has two arguments of one name")
        canonical = f"{match[1]}({','.join(types)})"
        words = [word_of(type_) for type_ in types]
        known = tuple(word for word in words if word is not None)
        return cls(
            text, keccak(canonical.encode())[:4], types, names, known if len(known) == len(words) else None
        )

    def decode(self, data: bytes) -> dict[str, Any] | None:
        """Return the arguments by name, None when the data is not exactly those."""
        if self.words is not None:
            return self._of_words(self.words, data)
        try:
            values = decode(self.types, data[4:])
            # A contract's decoder may be more patient than this one, and read something else.
            if encode(self.types, values) != data[4:]:
                return None
        except (ABITypeError, DecodingError, EncodingError, ValueError, OverflowError):
            return None
        return dict(zip(self.names, values, strict=True))

    def _of_words(self, words: "tuple[Word, ...]", data: bytes) -> dict[str, Any] | None:
        if len(data) != 4 + 32 * len(words):
            return None
        values = {
            name: read(data[4 + 32 * place : 36 + 32 * place])
            for place, (name, read) in enumerate(zip(self.names, words, strict=True))
        }
        return None if None in values.values() else values


Word = Callable[[bytes], Any]


def word_of(type_: str) -> Word | None:
    """Return what reads a word of this type, and gives None for one that no encoder makes; None: it has no one word."""
    match = _WORD.fullmatch(type_)
    if match is None:
        return None
    kind, size = match[1], int(match[2] or 0)
    if kind == "address":
        return lambda word: f"0x{word[12:].hex()}" if not any(word[:12]) else None
    if kind == "bool":
        return lambda word: {0: False, 1: True}.get(int.from_bytes(word))
    if kind == "bytes":
        return lambda word: word[:size] if not any(word[size:]) else None
    signed, half = kind == "int", 1 << (size - 1)
    least, most = (-half, half - 1) if signed else (0, 2 * half - 1)

    def number(word: bytes) -> int | None:
        value = int.from_bytes(word, signed=signed)
        return value if least <= value <= most else None

    return number


def _full(type_: str) -> str:
    return f"{type_}256" if type_ in ("int", "uint") else type_


def signatures(when: Mapping[str, Any], path: str) -> dict[bytes, Signature]:
    """Return the functions that a rule is about, by selector. Raises PolicyInvalidError where it names none."""
    given = when.get("function", "any")
    if given == "any":
        raise PolicyInvalidError(path, "needs the functions whose arguments are meant")
    found = [Signature.of(one, path) for one in strings(given, path)]
    return {signature.selector: signature for signature in found}


def arguments(known: Mapping[bytes, Signature], facts: Facts) -> dict[str, Any] | None:
    """Return the call's arguments by name, None when it is none of these functions or its data is malformed."""
    signature = known.get(facts.selector)
    if signature is None:
        return None
    found: dict[str, Any] | None = facts.read.get(signature.text, _UNREAD)
    if found is _UNREAD:
        found = facts.read[signature.text] = signature.decode(facts.data)
    return found


_UNREAD: Any = object()
