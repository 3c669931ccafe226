"""Taking secrets out of what is logged or reported. Pure.

Upholds: no run of 64 or more hex digits leaves (a private key, a raw transaction, call data), except a hash in a field
that is named as one; no base64 of 32 bytes, no PEM private key, no JWT, no bytes. Losing a hash from a free text is the price:
a key cannot be told from a hash by its looks.
"""

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

_HEX = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64,}")
_HASH = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")
_HASH_NAME = re.compile(
    r"(?:^|_)(?:hash|hashes|sha256|fingerprint|topics?|salt|root)$|(?:Hash|^transactionHash)$"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# A JWT, or what begins as one: credentials of custodies and their users' actions.
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}")
_BEARER = re.compile(r"\b(bearer) +[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# whsec_: the secret of a webhook.
_BASE64_32 = re.compile(r"(?:whsec_|(?<![A-Za-z0-9+/_-]))[A-Za-z0-9+/_-]{43}=(?![A-Za-z0-9+/=_-])")
# Tokens of Vault and OpenBao.
_VAULT_TOKEN = re.compile(r"\b(?:hv[sbr]\.[A-Za-z0-9_-]{20,}|[sbr]\.[A-Za-z0-9]{24,})")
_BYTES_TEXT = re.compile(r"""\bb(?:'(?:[^'\\]|\\.){16,}'|"(?:[^"\\]|\\.){16,}")""")
_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:secret|secret[_-]key|private[_-]key|priv_key|mnemonic|seed_phrase|kek|dek|wrapped_dek|passphrase|pin|user_pin|raw"
    r"|raw_transaction|authorization|api[_-]?key|auth[_-]?token|access[_-]?token|bearer|user_?action|credential_key|secret_id|client_token"
    r"|vault_token|password|one_time_code|first_code|backup_codes)$",
    re.IGNORECASE,
)
_MAX_DEPTH = 12
_HARMLESS = (bool, int, float, Decimal, UUID, date, time, timedelta)

REDACTED = "[redacted]"


def scrub(value: Any) -> Any:
    """Return a copy of a log event, a Sentry event or a text without secrets.

    Goes into mappings, lists and tuples. Objects of other types become text, since what writes the log would make them
    text after this has looked; numbers, dates, decimals and UUIDs stay as they are.
    """
    return _scrub(value, "", 0)


def _scrub(value: Any, name: str, depth: int) -> Any:
    if value is None or isinstance(value, _HARMLESS):
        return value
    if _SECRET_NAME.search(name) or depth > _MAX_DEPTH:
        return REDACTED
    if isinstance(value, str):
        return _scrub_text(value, name)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping):
        return {_scrub_name(key): _scrub(item, str(key), depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_scrub(item, name, depth + 1) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return _scrub_text(str(value), name)


def _scrub_text(text: str, name: str) -> str:
    if len(text) < 18 or (_HASH_NAME.search(name) and _HASH.fullmatch(text)):
        return text
    text = _PEM.sub(REDACTED, text)
    text = _JWT.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    text = _VAULT_TOKEN.sub(REDACTED, text)
    text = _HEX.sub(REDACTED, text)
    text = _BASE64_32.sub(REDACTED, text)
    return _BYTES_TEXT.sub(REDACTED, text)


def _scrub_name(name: Any) -> Any:
    return _scrub_text(name, "") if isinstance(name, str) else name
