"""Waking runs when what they wait for has ended."""

from django.db import transaction

from workflows.commands import CommandResult, Sleep
from workflows.doorbell import ring_all
from workflows.leases import db_now
from workflows.models import Run, Wait
from workflows.states import WaitState


def resolve_commands(kind: str, results: dict[str, CommandResult]) -> int:
    """Record how commands ended and wake the runs that wait for nothing more; return how many commands that were.

    results: by the reference that the command's `submit` returned. Call it in the transaction that records the end of
    the thing itself: then a wait can neither miss its end nor see one that was rolled back. Calling it again, or with
    references nobody waits for, changes nothing.
    """
    with transaction.atomic():
        waits = list(Wait.objects.filter(kind=kind, reference__in=list(results), state=WaitState.PENDING))
        if not waits:
            return 0
        runs = _lock_runs({wait.run_id for wait in waits})
        for wait in waits:
            result = results[wait.reference]
            wait.state = WaitState.FAILED if result.error else WaitState.DONE
            wait.result = result.value
            wait.error = result.error.model_dump() if result.error else None
        Wait.objects.bulk_update(waits, ["state", "result", "error"], batch_size=200)
        pending = Wait.objects.filter(run__in=runs, state=WaitState.PENDING).exclude(kind=Sleep.kind)
        still_waiting = set(pending.values_list("run_id", flat=True))  # a sleep ends by the clock
        awake = [run for run in runs if run.pk not in still_waiting]
        Run.objects.filter(pk__in=[run.pk for run in awake]).update(wake_at=db_now())
        ring_all(awake)
    return len(waits)


def _lock_runs(ids: set[object]) -> list[Run]:
    """Lock the runs, always in the order of their ids.

    Two transactions that each settle one of a run's two last commands would otherwise both find the other's pending,
    and nobody would wake the run. SQLite needs no row lock: its writing transactions exclude each other.
    """
    return list(Run.objects.select_for_update().filter(pk__in=ids).order_by("pk"))
