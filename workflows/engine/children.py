"""Child workflows: runs that a step waits for."""

import time
from typing import Any

from django.db import connection
from django.db.models import Exists, OuterRef, Q, UUIDField, Value
from django.db.models.functions import Cast, Replace

from workflows.clock import db_now
from workflows.commands import Child, CommandError, CommandResult, Operation
from workflows.definition import find_definition
from workflows.doorbell import ring_all
from workflows.engine.cycles import require_no_cycle
from workflows.engine.wake import resolve_commands, settle
from workflows.errors import PermanentError
from workflows.models import Run, Wait
from workflows.states import RunState, WaitingFor, WaitState

LOOK_SECONDS = 30.0
_looked_at: dict[str, float] = {}


def start_child(command: Child[Any], operation: Operation, index: int) -> str:
    """Start the run, in the transaction that suspends its parent; return its id."""
    from workflows.engine.start import parse_input, start_run

    definition = find_definition(command.workflow)
    if definition is None:
        raise PermanentError("WORKFLOW_UNKNOWN", f"there is no workflow named {command.workflow!r}")
    data = parse_input(definition, command.input)
    require_no_cycle(operation.holder_id or operation.run_id, definition.key_for(data))
    run, _ = start_run(
        definition,
        data,
        idempotency_key=f"{operation.key}:{operation.attempt}:{index}",
        scope="parent",
        correlation_id=operation.correlation_id,
        priority=command.priority,
        parent_id=operation.holder_id or operation.run_id,
    )
    return str(run.pk)


def tell_parent(run: Run) -> None:
    """Wake the run that waits for this one, in the transaction that ends it."""
    if run.parent_id is None or run.branch:
        return
    resolve_commands(Child.kind, {str(run.pk): result_of(run)})


def result_of(run: Run) -> CommandResult:
    """Return what a finished run means to the step that waits for it."""
    if run.state == RunState.SUCCEEDED:
        return CommandResult(value=run.output)
    error = run.error or {}
    text = f"run {run.pk} of {run.workflow} ended {run.state}: {error.get('message', '')}"
    return CommandResult(error=CommandError(code=error.get("code", f"RUN_{run.state}"), message=text[:2000]))


def cancel_child(reference: str) -> bool:
    """Ask a child to stop; it has ended only when it says so."""
    from workflows.engine.control import stop_run

    try:
        return stop_run(reference, actor="engine", reason="the run that waited for it no longer does")
    except Run.DoesNotExist:
        return True


def look_again(waits: list[Wait]) -> str | None:
    """Settle the waits for runs that have ended without telling; return the id of one that is not there any more.

    Neither happens by itself: somebody deleted rows, or has put archived ones back.
    """
    pending = [wait for wait in waits if wait.kind == Child.kind and wait.state == WaitState.PENDING]
    found = Run.objects.in_bulk([wait.reference for wait in pending]) if pending else {}
    runs = {str(pk): run for pk, run in found.items()}
    for wait in pending:
        run = runs.get(wait.reference)
        if run is not None and run.finished_at is not None:
            settle(wait, result_of(run))
            wait.save(update_fields=["state", "result", "error"])
    return next((wait.reference for wait in pending if wait.reference not in runs), None)


def wake_for_lost(limit: int = 500) -> int:
    """Wake the runs that wait for one that has ended without telling, or is gone: they will see. For the sweeper."""
    now = time.monotonic()
    if now - _looked_at.get("", -LOOK_SECONDS) < LOOK_SECONDS:
        return 0
    _looked_at[""] = now
    return find_waiting_for_lost(limit)


def find_waiting_for_lost(limit: int = 500) -> int:
    reference: Any = OuterRef("reference")
    if connection.vendor == "postgresql":
        identifier: Any = Cast(reference, UUIDField())
    else:
        identifier = Replace(reference, Value("-"), Value(""))
    live = Run.objects.filter(pk=identifier, finished_at__isnull=True)
    lost = Wait.objects.filter(~Exists(live), kind=Child.kind, state=WaitState.PENDING)
    asleep = Run.objects.filter(
        Q(wake_at__isnull=True) | Q(wake_at__gt=db_now()),
        pk__in=list(lost.values_list("run", flat=True)[:limit]),
        waiting_for=WaitingFor.COMMAND,
        lease_until__isnull=True,
        finished_at__isnull=True,
    )
    runs = list(asleep.exclude(state__in=[RunState.PAUSED, RunState.DEAD_LETTER]))
    Run.objects.filter(pk__in=[run.pk for run in runs], waiting_for=WaitingFor.COMMAND).update(
        wake_at=db_now()
    )
    ring_all(runs)
    return len(runs)
