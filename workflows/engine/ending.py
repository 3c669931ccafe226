"""Ending a run as it stands: nothing more of it is carried out, and nothing is undone."""

from typing import Any

from django.db import transaction
from django.db.models import F

from workflows.clock import now
from workflows.commands import command_of
from workflows.definition import find_definition
from workflows.engine.keys import release_key
from workflows.engine.letters import lock_run, resolve_letters
from workflows.engine.plan import find_operation
from workflows.engine.unbegun import leave_out, leave_out_siblings
from workflows.history import Chain
from workflows.models import Run, Step, Wait
from workflows.states import TERMINAL, Control, RunState, StepState, WaitingFor, WaitState

ENDED_WELL = frozenset({StepState.SUCCEEDED, StepState.SKIPPED})


def failure(code: str, actor: str, reason: str, run: Run) -> dict[str, Any]:
    """Return what a run shows as its error when a person ended it."""
    return {"code": code, "message": f"{actor}: {reason}", "step": run.operation.partition("#")[0]}


def end_at_once(
    run: Run, state: RunState, event: str, error: dict[str, Any], actor: str, reason: str, **data: Any
) -> None:
    """End a locked run, and the branches and children below it. The epoch rises: who holds them is fenced.

    What a worker is doing for it goes on to its end, unrecorded. What it waits for is called off where that is
    possible; what was sent stays sent.
    """
    from workflows.engine.branches import join_branches
    from workflows.engine.children import tell_parent

    _end_below(run, actor, f"its parent was ended: {reason}")
    if run.branch:
        _show_parent(run, error)
    _end(run, state, event, error, {**data, "actor": actor, "reason": reason})
    tell_parent(run)
    if run.branch:
        leave_out_siblings(run)
        join_branches(run.parent_id)
        # Again, for a sibling that ended meanwhile has not seen this one's end.
        transaction.on_commit(lambda: join_branches(run.parent_id), robust=True)


def _end_below(run: Run, actor: str, reason: str) -> None:
    leave_out(run.pk, reason)
    for child in Run.objects.filter(parent=run, finished_at__isnull=True).order_by("pk"):
        locked = lock_run(child.pk)
        if locked.state in TERMINAL:
            continue
        _end_below(locked, actor, reason)
        error = failure("RUN_KILLED", actor, reason, locked)
        _end(locked, RunState.CANCELLED, "run_killed", error, {"actor": actor, "reason": reason})
        resolve_letters(locked, "kill", actor, reason)


def _end(run: Run, state: RunState, event: str, error: dict[str, Any], data: dict[str, Any]) -> None:
    call_off(run)
    Wait.objects.filter(run=run, state=WaitState.PENDING).update(state=WaitState.WITHDRAWN)
    _write_end(run, state, event, error, data)
    run.refresh_from_db()
    release_key(run)


def _write_end(run: Run, state: RunState, event: str, error: dict[str, Any], data: dict[str, Any]) -> None:
    at = now()
    chain = Chain(run)
    chain.add(event, at, **data)
    chain.add("run_finished", at, state=state)
    Run.objects.filter(pk=run.pk).update(
        epoch=F("epoch") + 1,
        state=state,
        error=error,
        control=Control.NONE,
        asked=False,
        waiting_for=WaitingFor.NOTHING,
        wake_at=None,
        lease_until=None,
        finished_at=at,
        **chain.head(),
    )
    chain.save()


def call_off(run: Run) -> list[Wait]:
    """Withdraw what the run waits for; return what happens all the same, and nobody can stop."""
    unstoppable = []
    for wait in Wait.objects.filter(run=run, state=WaitState.PENDING):
        if command_of(wait.kind).withdraw(wait.reference):
            Wait.objects.filter(pk=wait.pk).update(state=WaitState.WITHDRAWN)
        else:
            unstoppable.append(wait)
    return unstoppable


def note_half_done(run: Run) -> None:
    """Have the operation at which a locked run stopped undone, too, if a part of it has happened since."""
    done = Wait.objects.filter(run=run, operation_id=run.operation, state=WaitState.DONE)
    if done.exclude(kind__in=("sleep", "signal", "approval")).exists():
        rows = Step.objects.filter(run_id=run.home_id, operation_id=run.operation)
        rows.exclude(state__in=sorted(ENDED_WELL)).update(state=StepState.FAILED, uncertain=True)


def _show_parent(branch: Run, error: dict[str, Any]) -> None:
    """Leave a failed step with the parent, which looks at the steps when all its branches are over."""
    name, _, index = branch.branch.partition("#")
    definition = find_definition(branch.workflow)
    planned = find_operation(definition, branch.branch) if definition else None
    transactional = planned is not None and planned.step.effect == "transactional"
    row, _ = Step.objects.get_or_create(
        run_id=branch.parent_id,
        operation_id=branch.branch,
        defaults={
            "name": name,
            "index": int(index),
            "seq": planned.seq if planned else int(index),
            "attempt": branch.attempt,
            "started_at": branch.operation_at,
        },
    )
    if row.state in ENDED_WELL:
        return
    row.uncertain = row.uncertain or (branch.lease_until is not None and not transactional)
    row.state, row.error, row.finished_at = StepState.FAILED, row.error or error, now()
    row.save(update_fields=["state", "error", "uncertain", "finished_at"])
    note_half_done(branch)
