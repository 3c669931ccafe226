"""What is hashed, and how: the same text for the same content, whichever database it comes back from. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# A number with a fraction or an exponent, where one may begin; rarely, the middle of a string that looks like it.
_PERHAPS_FLOAT = re.compile(r"(?:^|[\[ ])-?\d+(?:\.|e[+-])")

# What a seal says, in the order in which it is hashed; `sealed_at` as text.
SEALED = (
    "number", "first_event", "last_event", "event_count", "first_act", "last_act", "act_count", "root",
    "previous_hash", "sealed_at",
)  # fmt: skip

_encode = json.JSONEncoder(sort_keys=True).encode


def canonical(value: Any) -> str:
    """Return JSON text that depends on nothing but the value.

    PostgreSQL gives back 1e22 as 10000000000000000000000 and 1.0 as either: a float without a fraction is written as
    the whole number with the digits of its shortest text.
    """
    text = _encode(value)
    # Three plain searches spare nearly everybody the expression.
    if ("." in text or "e+" in text or "e-" in text) and _PERHAPS_FLOAT.search(text):
        text = _encode(_without_whole_floats(value))
    return text


def _without_whole_floats(value: Any) -> Any:
    if isinstance(value, float):
        return int(Decimal(repr(value))) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _without_whole_floats(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_whole_floats(item) for item in value]
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def output_digest(value: Any) -> str:
    """Return the digest of an output or input: the history proves it without holding it twice."""
    return _sha256(canonical(value))


def instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()


def event_digest(run_id: str, seq: int, kind: str, at: datetime, data: Any, previous: str) -> str:
    """Return the hash of an event: of its content, its place, and the hash of the event before it."""
    return _sha256(_encode([run_id, seq, kind, instant(at), previous]) + canonical(data))


def act_digest(
    number: int, actor: str, action: str, target: str, reason: str, details: Any, at: datetime
) -> str:
    """Return the hash by which an act is sealed. Acts are not chained: their numbers order them under the seal."""
    return _sha256(_encode(["act", number, actor, action, target, reason, instant(at)]) + canonical(details))


def seal_digest(seal: Mapping[str, Any]) -> str:
    """Return the hash of a seal: of what it covers, its root, and the hash of the seal before it."""
    return _sha256(_encode(["seal", *(seal[name] for name in SEALED)]))
