"""The record of what people did: who, what, to what, why."""

from typing import Any

from workflows.models import Act


def note_act(actor: str, action: str, target: str, reason: str, **details: Any) -> Act:
    """Insert an act, in the transaction that carries it out. target: `run:…`, `queue:…`, `workflow:…`, `key:…`."""
    return Act.objects.create(
        actor=actor[:100], action=action, target=target[:300], reason=reason, details=details
    )
