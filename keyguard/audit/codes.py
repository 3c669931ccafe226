"""Authentication codes of entries, and digests of the rows that an entry speaks of. Pure but for the settings."""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings

from keyguard.errors import AuditKeyError

KEY_BYTES = 32


def canonical(value: Any) -> str:
    """Return the one text that JSON has for this value here."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(rows: Iterable[Any]) -> str:
    """Return what tells these rows, in this order, from any others."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(hashlib.sha256(canonical(row).encode()).digest())
    return whole.hexdigest()


def current_key() -> tuple[str, bytes]:
    """Return the name and the key of new codes. Raises AuditKeyError."""
    return next(iter(_keys(*_given()).items()))


def code(key: bytes, before: bytes, chain: str, seq: int, at: str, event: str, body: str) -> bytes:
    """Return the code of an entry. before: the code of the entry before it; empty for the first."""
    text = canonical([chain, seq, at, event, body])
    return hmac.digest(key, len(before).to_bytes(1) + before + text.encode(), "sha256")


def key_named(name: str) -> bytes | None:
    """Return the key that a code was made with, if the settings still have it. Raises AuditKeyError."""
    return _keys(*_given()).get(name)


def _given() -> tuple[tuple[str, ...], tuple[str, ...]]:
    own = (settings.KEYGUARD_AUDIT_KEY, *settings.KEYGUARD_AUDIT_KEY_FALLBACKS)
    return tuple(filter(None, own)), (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)


@lru_cache(maxsize=4)
def _keys(own: tuple[str, ...], general: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return the keys by their names, the one for new codes first."""
    keys = [_decoded(text) for text in own]
    # Without one of its own, from what every installation has: it is not in the database either.
    keys += [hmac.digest(text.encode(), b"keyguard audit trail", "sha256") for text in general]
    return {hashlib.sha256(b"name of " + key).hexdigest()[:8]: key for key in keys}


def _decoded(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise AuditKeyError
    return key
