"""Branches that nobody has begun: taken up by those who have finished one, or left out, all at once."""

from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet

from workflows.clock import db_now, now
from workflows.definition import find_definition
from workflows.engine.plan import find_operation
from workflows.history import Chain
from workflows.models import Event, Run, Step
from workflows.states import RunState, StepState, WaitingFor

CHUNK = 500


def unbegun(parent_id: Any) -> "QuerySet[Run]":
    """Return the branches of a run that nobody has begun, the first one first."""
    free = Run.objects.filter(
        parent_id=parent_id,
        finished_at__isnull=True,
        lease_until__isnull=True,
        state__in=[RunState.READY, RunState.PAUSED],
        waiting_for=WaitingFor.NOTHING,
        attempt=0,
    )
    return free.exclude(branch="").order_by("id")


def next_siblings(branch: Run, count: int) -> list[Run]:
    """Return some of the siblings that may be taken up now, on the same queue."""
    due = unbegun(branch.parent_id).filter(queue=branch.queue, state=RunState.READY, wake_at__lte=db_now())
    return list(due.only("id", "queue", "priority", "workflow", "branch")[:count])


def leave_out_siblings(failed: Run) -> int:
    """Leave the siblings out that have not begun, if the step of a branch that has failed says so."""
    definition = find_definition(failed.workflow)
    planned = find_operation(definition, failed.branch) if definition else None
    if planned is None or not planned.step.fail_fast:
        return 0
    return leave_out(failed.parent_id, f"{failed.branch} failed")


def leave_out(parent_id: Any, reason: str) -> int:
    """End the branches of a run that nobody has begun: CANCELLED, and their steps SKIPPED. Return how many.

    Belongs into the transaction of what is the reason. Those that somebody takes up just now are not waited for: they
    have begun.
    """
    left_out = 0
    with transaction.atomic():
        while rows := list(unbegun(parent_id).select_for_update(no_key=True, skip_locked=True)[:CHUNK]):
            _end(rows, reason)
            left_out += len(rows)
    return left_out


def _end(runs: list[Run], reason: str) -> None:
    at, events = now(), []
    for run in runs:
        chain = Chain(run)
        chain.add("run_finished", at, state=RunState.CANCELLED, reason=reason)
        run.history_seq, run.history_hash = chain.seq, chain.hash
        events += chain.take()
    Run.objects.bulk_update(runs, ["history_seq", "history_hash"], batch_size=100)
    Run.objects.filter(pk__in=[run.pk for run in runs]).update(
        epoch=F("epoch") + 1,
        state=RunState.CANCELLED,
        error={"code": "BRANCH_LEFT_OUT", "message": reason, "step": runs[0].branch.partition("#")[0]},
        wake_at=None,
        finished_at=at,
    )
    Event.objects.bulk_create(events)
    Step.objects.bulk_create([_skipped(run, at) for run in runs], ignore_conflicts=True)


def _skipped(run: Run, at: Any) -> Step:
    name, _, index = run.branch.partition("#")
    definition = find_definition(run.workflow)
    planned = find_operation(definition, run.branch) if definition else None
    return Step(
        run_id=run.parent_id,  # type: ignore[misc]
        operation_id=run.branch,
        name=name,
        index=int(index),
        seq=planned.seq if planned else int(index),
        state=StepState.SKIPPED,
        finished_at=at,
    )
