"""Whether a run that was started with an older definition can go on with the one that this process has.

What lies behind a run must be as it was: its outputs are what the rest is made of. What lies before it may change.
"""

from typing import Any

from django.db import connection, transaction

from workflows.definition import Definition
from workflows.engine.plan import find_operation
from workflows.models import DefinitionRecord, Run, Step
from workflows.states import StepState

_recorded: set[tuple[str, str]] = set()


def remember(definition: Definition) -> None:
    """Keep the shape of a definition that a run is about to be started with."""
    known = (str(connection.settings_dict["NAME"]), definition.fingerprint)
    if known in _recorded:
        return
    record = DefinitionRecord(
        fingerprint=definition.fingerprint,
        workflow=definition.name,
        version=definition.version,
        shape=definition.shape,
    )
    DefinitionRecord.objects.bulk_create([record], ignore_conflicts=True)
    transaction.on_commit(lambda: _recorded.add(known))


def shape_of(fingerprint: str) -> list[dict[str, Any]]:
    """Return the shape of a definition that runs were started with; empty when it was never noted."""
    record = DefinitionRecord.objects.filter(pk=fingerprint).first()
    return list(record.shape) if record else []


def obstacle(run: Run, definition: Definition) -> str | None:
    """Return why the run cannot go on with this definition, or None when it can."""
    old = {step["name"]: step for step in shape_of(run.fingerprint)}
    if not old:
        return f"nothing is known of the definition {run.fingerprint[:12]} that it was started with"
    new = {step["name"]: step for step in definition.shape}
    if run.operation and find_operation(definition, run.operation) is None:
        return f"it is at {run.operation}, which {definition.name} no longer has"
    behind = _names_behind(run)
    order = [name for name in new if name in behind]
    if [name for name in old if name in behind] != order:
        gone = sorted(behind - set(new)) or "their order"
        return f"steps that it has behind it were changed: {gone}"
    for name in order:
        for part in ("output", "each", "undo"):
            if old[name][part] != new[name][part]:
                return f"the {part} of {name}, which it has behind it, was {old[name][part]} and is {new[name][part]}"
    position = _position(run, definition)
    inserted = [
        name
        for name in list(new)[: definition.groups[position][0] if position < len(definition.groups) else None]
        if name not in behind
    ]
    if inserted and not run.compensating:
        return f"steps were added where it has already been: {inserted}"
    return None


def _names_behind(run: Run) -> set[str]:
    rows = Step.objects.filter(run_id=run.home_id)
    done = rows.exclude(state__in=[StepState.PENDING, StepState.WAITING]).exclude(operation_id=run.operation)
    return {name for name in done.values_list("name", flat=True).distinct() if "." not in name}


def _position(run: Run, definition: Definition) -> int:
    planned = find_operation(definition, run.operation)
    return planned.position if planned else 0
