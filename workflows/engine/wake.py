"""Waking runs when what they wait for has ended."""

from django.db import transaction

from workflows.clock import db_now
from workflows.commands import CommandResult
from workflows.doorbell import ring_all
from workflows.models import Run, Wait
from workflows.states import Join, WaitState


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
        runs = lock_runs({wait.run_id for wait in waits})
        for wait in waits:
            settle(wait, results[wait.reference])
        # Before the runs were locked, a worker may have ended some of the waits by the clock: that stands.
        pending = Wait.objects.filter(state=WaitState.PENDING)
        pending.bulk_update(waits, ["state", "result", "error"], batch_size=200)
        wake(runs)
    return len(waits)


def settle(wait: Wait, result: CommandResult) -> None:
    """Set how a command ended; the caller saves it."""
    wait.state = WaitState.FAILED if result.error else WaitState.DONE
    wait.result = result.value
    wait.error = result.error.model_dump() if result.error else None


def wake(runs: list[Run]) -> None:
    """Make those of the runs claimable whose commands have ended as far as it takes; their rows are locked."""
    waits: dict[object, list[Wait]] = {run.pk: [] for run in runs}
    for wait in Wait.objects.filter(run__in=runs).only(
        "run_id", "operation_id", "attempt", "state", "kind", "join", "due_at"
    ):
        run = next(run for run in runs if run.pk == wait.run_id)
        if (wait.operation_id, wait.attempt) == (run.operation, run.attempt):
            waits[run.pk].append(wait)
    now = db_now()
    awake = [run for run in runs if waits[run.pk] and _has_enough(waits[run.pk])]
    Run.objects.filter(pk__in=[run.pk for run in awake], finished_at__isnull=True).update(wake_at=now)
    ring_all(awake)


def _has_enough(waits: list[Wait]) -> bool:
    """Tell whether nothing but clocks is left to wait for, or what has come is enough."""
    return all(wait.kind == "sleep" for wait in waits if wait.state == WaitState.PENDING) or (
        waits[0].join == Join.ANY and any(wait.state == WaitState.DONE for wait in waits)
    )


def lock_runs(ids: set[object]) -> list[Run]:
    """Lock the runs, always in the order of their ids.

    Two transactions that each settle one of a run's two last commands would otherwise both find the other's pending,
    and nobody would wake the run. SQLite needs no row lock: its writing transactions exclude each other.
    """
    return list(Run.objects.select_for_update().filter(pk__in=ids).order_by("pk"))
