"""Child workflows: runs that a step waits for."""

from typing import Any

from workflows.commands import Child, CommandError, CommandResult, Operation
from workflows.definition import find_definition
from workflows.engine.cycles import require_no_cycle
from workflows.engine.wake import resolve_commands
from workflows.errors import PermanentError
from workflows.models import Run
from workflows.states import RunState


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

    return stop_run(reference, actor="engine", reason="the run that waited for it no longer does")
