"""Looking at the heads of a chain's endpoints now and then, to see who is behind, and writing it down for all processes.

Done by the chain's watcher with the looks that it takes anyway.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import DatabaseError

from signer.errors import RpcError
from signer.models import Endpoint
from signer.rpc.answers import quantity
from signer.rpc.contacts import Contact
from signer.rpc.freshness import Head, behind
from workflows import in_seconds

# How long at least lies between two looks at all, and between two writes that change nothing of importance.
SURVEY_SECONDS = 10.0


def is_due(contacts: Sequence[Contact], now: float) -> bool:
    """Return whether the heads of all these endpoints should be looked at."""
    return any(now - contact.health.written_at >= SURVEY_SECONDS for contact in contacts)


def record(headers: Mapping[Contact, Any], block_seconds: float, now: float) -> None:
    """Take note of the newest headers (or RpcErrors) of endpoints; who is behind is compared among them."""
    heads = {}
    for contact, header in headers.items():
        number = _number(header)
        if number is not None:
            contact.health.saw_head(number, now)
            heads[contact] = Head(number, now - contact.health.head_moved_at)
    late = behind(heads, block_seconds)
    for contact, head in heads.items():
        is_behind = contact in late
        if is_behind != contact.is_behind or now - contact.health.written_at >= SURVEY_SECONDS:
            contact.is_behind, contact.health.written_at = is_behind, now
            _write(contact, head)


def _number(header: Any) -> int | None:
    if not isinstance(header, dict):
        return None
    try:
        return quantity(header.get("number"))
    except RpcError:
        return None


def _write(contact: Contact, head: Head) -> None:
    latency = contact.health.latency()
    try:
        Endpoint.objects.filter(pk=contact.pk).update(
            head_number=head.number,
            head_seen_at=in_seconds(-head.still_seconds),
            latency_ms=None if latency is None else round(latency * 1000),
            is_behind=contact.is_behind,
        )
    except DatabaseError:  # the next look writes it
        contact.health.written_at = 0.0
