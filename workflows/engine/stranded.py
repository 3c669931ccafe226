"""Runs that no worker's code can carry on: found after a while, and handed to people."""

from typing import Any

from django.db import transaction
from django.db.models import Q

from workflows.commands import CommandError
from workflows.definition import definitions, find_definition
from workflows.doorbell import ring
from workflows.engine import migration
from workflows.engine.keys import pass_key_on
from workflows.engine.plan import seq_of
from workflows.engine.troubles import fingerprint_of
from workflows.history import Chain
from workflows.leases import Claim, claim, release
from workflows.models import DeadLetter, Run, Step
from workflows.states import CLAIMABLE, RESUMING, DeadLetterReason, RunState, StepState

UNCERTAIN = "a worker died in this step, and nobody knows whether it happened: find out before you replay; "


def park_stranded(limit: int = 100) -> int:
    """Open a dead letter for runs that have been due for long and that this process's code may not carry on.

    While old and new workers run side by side, the old ones take what only they know before that time is over.
    """
    known = [definition.fingerprint for definition in definitions()]
    due = Run.objects.filter(migration.overdue(), state__in=sorted(CLAIMABLE))
    return sum(_park(run) for run in due.exclude(fingerprint__in=known).order_by("wake_at")[:limit])


def _park(run: Run) -> int:
    definition = find_definition(run.workflow)
    why = "no worker knows this workflow" if definition is None else migration.obstacle(run, definition)
    if why is None:
        return 0  # it may go on: only nobody was free
    with transaction.atomic():
        # As it was looked at: meanwhile a worker may have come that knows it, or another sweeper.
        held = claim(Run, run.pk, 30, Q(epoch=run.epoch, state=run.state))
        if held is None:
            return 0
        chain, died_in = Chain(held.row), _step_cut_off(run)
        text = f"{why}; {UNCERTAIN if died_in else ''}deploy code that suits it and replay, or end it"
        described = CommandError(code="WORKFLOW_CHANGED", message=text).model_dump()
        if died_in:
            _fail(held, died_in, chain, described)
        reason, step = DeadLetterReason.DEFINITION_CHANGED, run.operation.partition("#")[0]
        chain.add("dead_letter_opened", held.now(), step=run.operation, reason=reason, **described)
        chain.save()
        error = {**described, "step": step}
        DeadLetter.objects.create(
            run=run,
            workflow=run.workflow,
            operation_id=run.operation,
            reason=reason,
            error=error,
            fingerprint=fingerprint_of(run.workflow, step, reason, error),
        )
        columns = {} if run.compensating else {"error": error}
        release(held, state=RunState.DEAD_LETTER, wake_at=None, **columns, **chain.head())
        heir = pass_key_on(run) if definition and definition.on_dead_letter == "release" else None
        if heir is not None:
            ring(heir)
    return 1


def _step_cut_off(run: Run) -> dict[str, Any] | None:
    """Return the step in the middle of which a worker died, of which nobody can tell whether it happened."""
    if run.lease_until is None or run.waiting_for in RESUMING:
        return None
    name, _, index = run.operation.partition("#")
    for place, step in enumerate(migration.shape_of(run.fingerprint)):
        if step["name"] == name and step["effect"] != "transactional" and index:
            return {"name": name, "index": int(index), "seq": seq_of(place, int(index))}
    return None


def _fail(held: Claim[Run], step: dict[str, Any], chain: Chain, error: dict[str, Any]) -> None:
    """Write the step down as one that has to be undone should the run be given up."""
    run, at = held.row, held.now()
    chain.add("step_failed", at, step=run.operation, attempt=run.attempt, **error)
    outcome = {
        "state": StepState.FAILED,
        "uncertain": True,
        "attempt": run.attempt,
        "error": error,
        "finished_at": at,
    }
    which = {"run_id": run.home_id, "operation_id": run.operation}
    if Step.objects.filter(**which).update(**outcome) == 0:
        Step.objects.create(**which, **step, **outcome)
