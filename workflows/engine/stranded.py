"""Runs that no worker's code can carry on: found after a while, and handed to people."""

from django.conf import settings
from django.db import transaction

from workflows.clock import in_seconds
from workflows.commands import CommandError
from workflows.definition import definitions, find_definition
from workflows.engine import migration
from workflows.engine.outcomes import Parked
from workflows.engine.troubles import fingerprint_of
from workflows.history import Chain
from workflows.leases import claim, release
from workflows.models import DeadLetter, Run
from workflows.states import CLAIMABLE, DeadLetterReason, RunState


def park_stranded(limit: int = 100) -> int:
    """Open a dead letter for runs that have been due for long and that this process's code may not carry on.

    While old and new workers run side by side, the old ones take what only they know before that time is over.
    """
    known = [definition.fingerprint for definition in definitions()]
    overdue = in_seconds(-settings.WORKFLOWS["stranded_seconds"])
    due = Run.objects.filter(wake_at__lte=overdue, lease_until__isnull=True, state__in=sorted(CLAIMABLE))
    return sum(_park(run) for run in due.exclude(fingerprint__in=known).order_by("wake_at")[:limit])


def _park(run: Run) -> int:
    definition = find_definition(run.workflow)
    why = "no worker knows this workflow" if definition is None else migration.obstacle(run, definition)
    if why is None:
        return 0  # it may go on: only nobody was free
    text = f"{why}; deploy code that suits it and replay, or end it"
    parked = Parked(DeadLetterReason.DEFINITION_CHANGED, CommandError(code="WORKFLOW_CHANGED", message=text))
    with transaction.atomic():
        held = claim(Run, run.pk, 30)
        if held is None:
            return 0
        step = run.operation.partition("#")[0]
        error = {**parked.error.model_dump(), "step": step}
        chain = Chain(held.row)
        described = parked.error.model_dump()
        chain.add("dead_letter_opened", held.now(), step=run.operation, reason=parked.reason, **described)
        chain.save()
        DeadLetter.objects.create(
            run=run,
            workflow=run.workflow,
            operation_id=run.operation,
            reason=parked.reason,
            error=error,
            fingerprint=fingerprint_of(run.workflow, step, parked.reason, error),
        )
        columns = {} if run.compensating else {"error": error}
        release(held, state=RunState.DEAD_LETTER, wake_at=None, **columns, **chain.head())
    return 1
