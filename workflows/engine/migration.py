"""Whether a run that was started with an older definition can go on with the one that this process has.

What lies behind a run must be as it was: its outputs are what the rest is made of. What lies before it may change.
"""

from datetime import datetime
from itertools import groupby, takewhile
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q

from workflows.clock import in_seconds
from workflows.definition import Definition
from workflows.engine.plan import at_position, find_operation
from workflows.history import Chain
from workflows.models import DefinitionRecord, Run, Step
from workflows.states import StepState, WaitingFor

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


def overdue() -> Q:
    """What has been due for so long that no worker seems to have its own code any more."""
    then = in_seconds(-settings.WORKFLOWS["stranded_seconds"])
    return Q(wake_at__lte=then) & (Q(lease_until__isnull=True) | Q(lease_until__lte=then))


def is_newer(fingerprint: str, definition: Definition) -> bool:
    """Tell whether the definition of this fingerprint came after this process's."""
    both = DefinitionRecord.objects.filter(pk__in=[fingerprint, definition.fingerprint])
    first_seen = dict(both.values_list("pk", "first_seen_at"))
    return len(first_seen) == 2 and first_seen[fingerprint] > first_seen[definition.fingerprint]


def migrate(run: Run, definition: Definition, chain: Chain, at: datetime) -> None:
    """Have the run go on with this definition, and its history say so."""
    if run.fingerprint == definition.fingerprint:
        return
    remember(definition)  # no run may have been started with it yet
    chain.add("definition_migrated", at, old=run.fingerprint, new=definition.fingerprint)
    run.fingerprint, run.version = definition.fingerprint, definition.version


def obstacle(run: Run, definition: Definition) -> str | None:
    """Return why the run cannot go on with this definition, or None when it can."""
    shape = shape_of(run.fingerprint)
    if not shape:
        return f"nothing is known of the definition {run.fingerprint[:12]} that it was started with"
    old, new = {step["name"]: step for step in shape}, {step["name"]: step for step in definition.shape}
    planned = find_operation(definition, run.operation)
    if run.operation and planned is None:
        return f"it is at {run.operation}, which {definition.name} no longer has"
    position = planned.position if planned else 0
    own = _carried_out_together(shape, run.operation)
    behind = _names_behind(run) | _empty_lists(run, shape, own)
    order = [name for name in new if name in behind]
    if [name for name in old if name in behind] != order:
        gone = sorted(behind - set(new)) or "their order"
        return f"steps that it has behind it were changed: {gone}"
    for name in order:
        for part in ("output", "each", "undo"):
            if old[name][part] != new[name][part]:
                return f"the {part} of {name}, which it has behind it, was {old[name][part]} and is {new[name][part]}"
    if run.compensating:
        return None  # it only goes back over what it has behind it
    first = definition.groups[position][0]
    inserted = [name for name in list(new)[:first] if name not in behind]
    if inserted:
        return f"steps were added where it has already been: {inserted}"
    again = [name for name in order if definition.group_of[name] >= position and name not in own]
    if again:
        return f"steps that it has behind it would come once more: {again}"
    return _changed_group(run, definition, position, own)


def _changed_group(run: Run, definition: Definition, position: int, own: list[str]) -> str | None:
    """Return what has changed about the steps that are carried out together with the one that the run is at."""
    planned = at_position(definition, position)
    if planned and run.operation and not run.branch and planned.operation_id != run.operation:
        return f"it is at {run.operation}, in place of which {definition.name} now has {planned.operation_id}"
    members = [step.name for step in definition.members(position)]
    if run.waiting_for == WaitingFor.BRANCHES and set(members) != set(own):
        return f"it waits for {own}, which {definition.name} carries out together with others: {members}"
    return None


def _carried_out_together(shape: list[dict[str, Any]], operation: str) -> list[str]:
    """Return the names of the group of steps that an operation belongs to; none when there is no such step."""
    name = operation.partition("#")[0].removesuffix("*").partition(".")[0]
    for parallel, neighbours in groupby(shape, key=lambda step: bool(step["parallel"])):
        names = [step["name"] for step in neighbours]
        if name in names:
            return names if parallel else [name]
    return []


def _empty_lists(run: Run, shape: list[dict[str, Any]], own: list[str]) -> set[str]:
    """Return the steps that lie behind the run and have left no row, for their list had no items."""
    if run.compensating:
        return set()
    before = takewhile(lambda step: step["name"] not in own, shape)
    return {step["name"] for step in before if step["each"]} if own else set()


def _names_behind(run: Run) -> set[str]:
    rows = Step.objects.filter(run_id=run.home_id)
    done = rows.exclude(state__in=[StepState.PENDING, StepState.WAITING]).exclude(operation_id=run.operation)
    return {name for name in done.values_list("name", flat=True).distinct() if "." not in name}
