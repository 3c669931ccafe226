"""Check values of KEKs: they tell which KEK it is and say nothing about it. Pure."""

import hashlib
import hmac


def check_value(secret: bytes | bytearray) -> str:
    """Return 16 hex digits that only this secret gives."""
    return hmac.new(secret, b"keyguard kek check value 1", hashlib.sha256).hexdigest()[:16]


def same(one: str, other: str) -> bool:
    """Say whether two check values are the same, in a time that tells nothing."""
    return hmac.compare_digest(one, other)
