"""Typed data as custodies take it: JSON in which nothing is lost on the way. Pure."""

from collections.abc import Mapping
from typing import Any

from keyguard.typed_data import DOMAIN, DOMAIN_TYPES

MAX_SAFE_INTEGER = 2**53 - 1  # beyond it JavaScript rounds


def as_json(typed_data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data with the type of its domain written out, and with large integers as decimal text."""
    domain = typed_data["domain"]
    derived = [{"name": name, "type": type_} for name, type_ in DOMAIN_TYPES.items() if name in domain]
    return {
        "types": {DOMAIN: derived, **_plain(typed_data["types"])},
        "primaryType": typed_data["primaryType"],
        "domain": _plain(domain),
        "message": _plain(typed_data["message"]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if type(value) is int and abs(value) > MAX_SAFE_INTEGER:
        return str(value)
    return value
