"""What the trail says of rows that people's acts leave behind: a digest of everything in them that never changes."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import models

from keyguard.audit.chaining import note
from keyguard.audit.codes import digest_of

# By the model's name: the columns that stay as they were written.
FIXED: dict[str, tuple[str, ...]] = {
    "Key": ("tenant", "address", "public_key", "backend", "backend_ref", "origin"),
    "KeyAct": ("key_id", "verb", "actor", "reason", "details"),
    "Kek": ("provider", "provider_ref", "kcv"),
    "KekDrill": ("kek_id", "kind", "threshold", "shares", "custodians", "actor"),
    "MembershipAct": ("group_id", "person_id", "verb", "actor", "reason"),
    "Policy": ("number", "body", "hash", "author", "note"),
    "Question": ("kind", "subject", "content_hash", "shown", "asked_by", "key_id"),
    "Vote": ("question_id", "person", "approves", "content_hash", "reason"),
    "HandOver": ("external_id", "key_id", "payload_hash", "chain_id", "to"),
}


def note_row(event: str, row: models.Model, key_id: UUID | None = None, **more: Any) -> None:
    """Append an entry about a row, in the transaction that writes it. more: what else happened, in words."""
    name = type(row).__name__
    body = {"row": name, "id": str(row.pk), "digest": digest_of([fixed(row)]), **more}
    note(event, body, key_id)


def fixed(row: models.Model) -> list[Any]:
    """Return what of a row never changes, as JSON has it."""
    return [_plain(getattr(row, column)) for column in FIXED[type(row).__name__]]


def found(name: str, ids: Iterable[str]) -> dict[str, models.Model]:
    """Return rows by their ids, as text."""
    model = apps.get_model("keyguard", name)
    return {str(row.pk): row for row in model._default_manager.filter(pk__in=list(ids))}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return str(value) if isinstance(value, UUID) else value
