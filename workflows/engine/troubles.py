"""Dead letters: a run that cannot go on without a person, and why."""

import hashlib
import re
from datetime import datetime
from typing import Any

from workflows.definition import find_definition
from workflows.engine.keys import pass_key_on
from workflows.engine.outcomes import Parked
from workflows.engine.session import Session
from workflows.models import DeadLetter

# What differs between two occurrences of one trouble: numbers, hashes, identifiers, what stands in quotes.
_PARTICULARS = re.compile(r"0x[0-9a-fA-F]+|[0-9a-fA-F-]{32,}|\d+(\.\d+)?|'[^']*'|\"[^\"]*\"")


def open_dead_letter(session: Session, outcome: Parked, at: datetime) -> None:
    """Insert the dead letter, in the transaction that stops the run."""
    run = session.run
    step = run.operation.partition("#")[0]
    error = {**outcome.error.model_dump(), "step": step}
    DeadLetter.objects.create(
        run=run,
        workflow=run.workflow,
        operation_id=run.operation,
        reason=outcome.reason,
        error=error,
        fingerprint=fingerprint_of(run.workflow, step, outcome.reason, error),
    )
    definition = find_definition(run.workflow)
    if definition is not None and definition.on_dead_letter == "release":
        session.heir = pass_key_on(run)


def fingerprint_of(workflow: str, step: str, reason: str, error: dict[str, Any]) -> str:
    """Return the same digest for errors that differ only in their particulars."""
    message = _PARTICULARS.sub("·", str(error.get("message", "")))
    text = "\n".join([workflow, step, reason, str(error.get("code", "")), message[:300]])
    return hashlib.sha256(text.encode()).hexdigest()
