"""Letting a person send a stopped run on its way again."""

from typing import Any

from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from workflows.definition import Definition, find_definition
from workflows.doorbell import ring
from workflows.engine.plan import operation_id
from workflows.errors import NotReplayableError
from workflows.history import Chain
from workflows.leases import claim, release
from workflows.models import DeadLetter, Run, Step, Wait
from workflows.states import DeadLetterState, RunState, StepState, WaitState


def replay_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """Try the stopped operation again, with its attempts counted anew. Who did it and why goes into the history.

    Raises DeadLetter.DoesNotExist, or NotReplayableError when somebody has dealt with it already (so a double click
    replays once) or the workflow has lost steps that this run has behind it.
    """
    with transaction.atomic():
        letter = DeadLetter.objects.select_related("run").get(pk=dead_letter_id)
        resolved = DeadLetter.objects.filter(pk=letter.pk, state=DeadLetterState.OPEN).update(
            state=DeadLetterState.RESOLVED,
            resolution="replay",
            resolved_by=actor,
            note=reason,
            resolved_at=Now(),
        )
        if resolved == 0:
            raise NotReplayableError(
                f"dead letter {letter.pk} was resolved already ({letter.resolution or 'just now'})"
            )
        _send_on(letter, actor, reason)
    letter.refresh_from_db()
    return letter


def _send_on(letter: DeadLetter, actor: str, reason: str) -> None:
    definition = _definition_for(letter.run)
    held = claim(Run, letter.run_id, 30)
    if held is None or held.row.state != RunState.DEAD_LETTER:
        raise NotReplayableError(f"run {letter.run_id} is {letter.run.state}, not waiting for a person")
    run = held.row
    for row in Step.objects.filter(run=run, operation_id=letter.operation_id):
        Step.objects.filter(pk=row.pk).update(state=_state_to_resume(row), attempts_forgiven=F("attempt"))
    chain = Chain(run)
    chain.add("dead_letter_replayed", held.now(), step=letter.operation_id, actor=actor, reason=reason)
    chain.save()
    release(
        held,
        state=RunState.COMPENSATING if run.compensating else RunState.READY,
        error=F("error") if run.compensating else None,
        fingerprint=definition.fingerprint,
        recoveries=0,
        wake_at=Now(),
        **chain.head(),
    )
    ring(run)


def _state_to_resume(row: Step) -> StepState:
    """Return WAITING where commands of the last attempt are under way or have succeeded: asking again would do it twice."""
    waits = Wait.objects.filter(run_id=row.run_id, operation_id=row.operation_id, attempt=row.attempt)
    states = set(waits.values_list("state", flat=True))
    return StepState.WAITING if states and WaitState.FAILED not in states else StepState.PENDING


def _definition_for(run: Run) -> Definition:
    definition = find_definition(run.workflow)
    if definition is None:
        raise NotReplayableError(f"no workflow named {run.workflow!r} is known here; deploy it first")
    known = {operation_id(step) for step in definition.steps} | {f"{s.name}.undo#0" for s in definition.steps}
    lost = set(Step.objects.filter(run=run).values_list("operation_id", flat=True)) - known
    if lost:
        raise NotReplayableError(f"{run.workflow} no longer has the steps {sorted(lost)} of this run")
    return definition
