"""RLP: encoded here, taken apart by pyrlp, so that an error in one of the two cannot hide. Pure.

Source: Yellow Paper, appendix B.
"""

from collections.abc import Iterable
from typing import Any

import rlp

# Half of what is encoded is short: looked up, not worked out, which saves a tenth of a signature.
_SMALL = [b"\x80", *(bytes([value]) for value in range(1, 0x80))]
_SHORT = [bytes([0x80 + size]) for size in range(56)]


def string(value: bytes) -> bytes:
    """Return the item of a byte string."""
    if len(value) == 1 and value[0] < 0x80:
        return value
    return (_SHORT[len(value)] if len(value) < 56 else _prefix(len(value), 0x80)) + value


def integer(value: int) -> bytes:
    """Return the item of an integer: big-endian, without leading zeros, nothing for 0."""
    if value < 0x80:
        return _SMALL[value]
    size = (value.bit_length() + 7) // 8
    return _SHORT[size] + value.to_bytes(size)


def sequence(items: Iterable[bytes]) -> bytes:
    """Return the item of a list whose items are encoded already."""
    body = b"".join(items)
    return _prefix(len(body), 0xC0) + body


def decode_list(encoded: bytes) -> list[Any]:
    """Return the items of a list as pyrlp reads them: bytes and lists of bytes. Raises ValueError."""
    try:
        items = rlp.decode(encoded)  # strict: trailing bytes and long forms are errors
    except rlp.exceptions.RLPException:
        raise ValueError("not RLP") from None
    return as_list(items)


def as_list(item: Any) -> list[Any]:
    """Return a decoded item that must be a list. Raises ValueError."""
    if not isinstance(item, list):
        raise ValueError("not a list")  # noqa: TRY004 - the bytes are wrong, not their type
    return item


def as_integer(item: Any) -> int:
    """Return the integer of a decoded item. Raises ValueError for a list or a leading zero."""
    if not isinstance(item, bytes) or item[:1] == b"\x00":
        raise ValueError("not an integer")
    return int.from_bytes(item)


def as_bytes(item: Any, *sizes: int) -> bytes:
    """Return the bytes of a decoded item, of one of `sizes` where any are given. Raises ValueError."""
    if not isinstance(item, bytes) or (sizes and len(item) not in sizes):
        raise ValueError("not bytes of the right length")
    return item


def _prefix(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([offset + 55 + len(length)]) + length
