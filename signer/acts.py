"""What people did, and why: written in the transaction in which they did it, and never changed."""

from collections.abc import Mapping
from typing import Any

from signer.models import Act, Lane, Transaction


def note(
    actor: str,
    verb: str,
    reason: str,
    *,
    lane: Lane | None = None,
    transaction: Transaction | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Put on record what a person did. Joins the caller's transaction."""
    Act.objects.create(
        actor=actor, verb=verb, reason=reason, lane=lane, transaction=transaction, details=dict(details or {})
    )
