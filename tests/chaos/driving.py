"""A worker in this process: no broker, no Celery worker, the engine and its tasks as they are.

For a child that is to die at a crash point, and for whoever finishes what it has left behind.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from django.db.models import Q, QuerySet

from tests.chaos.programs import Program
from tests.chaos.signals import answer_waits
from tests.chaos.workflows import CLASSES
from workflows import db_now
from workflows.models import Run
from workflows.states import CLAIMABLE, RunState
from workflows.sweeper import sweep
from workflows.tasks import advance

LOOK_SECONDS = 0.01


@contextmanager
def without_broker() -> Iterator[None]:
    """Have nobody told of a run: it is looked for."""
    with ExitStack() as patches:
        for module in ("doorbell", "tasks", "sweeper"):
            patches.enter_context(mock.patch(f"workflows.{module}.send", lambda run: None))
        yield


def start(program: Program, **options: Any) -> Run:
    """Start a program; the same one again is the same run."""
    run: Run = CLASSES[program.workflow].start(program, idempotency_key=program.path, **options)
    return run


def unfinished(**family: Any) -> "QuerySet[Run]":
    """Return the runs that are neither over nor with a person."""
    return Run.objects.filter(finished_at__isnull=True, **family).exclude(state=RunState.DEAD_LETTER)


def drive(patience: float, **family: Any) -> None:
    """Carry out whatever may be carried out until nothing is left, sweeping and answering as it goes.

    patience: how many seconds may pass without anything to do. family: of which runs, by columns of theirs.
    """
    idle = 0  # looks in vain, and no clock: this process may itself have been stopped meanwhile
    with without_broker():
        while unfinished(**family).exists():
            if idle * LOOK_SECONDS > patience:
                left = "\n".join(map(_described, unfinished(**family)))
                raise AssertionError(f"nothing to do for {patience:g} s, and not over:\n{left}")
            idle += 1
            if _drive_due(family):
                idle = 0
            else:
                answer_waits(**{f"run__{name}": value for name, value in family.items()})
                sweep()
                time.sleep(LOOK_SECONDS)


def _described(run: Run) -> str:
    return f"{run} {run.pk} {run.state} {run.waiting_for} {run.operation} {run.wake_at} {run.lease_until}"


def _drive_due(family: dict[str, Any]) -> int:
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=db_now())
    due = Run.objects.filter(free, wake_at__lte=db_now(), state__in=sorted(CLAIMABLE), **family)
    found = list(due.order_by("wake_at").values_list("pk", flat=True)[:200])
    for pk in found:
        advance.apply(args=[str(pk)], throw=True)
    return len(found)
