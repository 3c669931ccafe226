"""A worker in this process: no broker, no Celery worker, the engine and its tasks as they are.

For a child that is to die at a crash point, and for whoever finishes what it has left behind.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from django.db.models import Q

from tests.chaos.programs import Program
from tests.chaos.signals import answer_waits
from tests.chaos.workflows import CLASSES
from workflows import db_now
from workflows.models import Run
from workflows.states import CLAIMABLE, RunState
from workflows.sweeper import sweep
from workflows.tasks import advance


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


def unfinished() -> list[Run]:
    """Return the runs that are neither over nor with a person."""
    return list(Run.objects.filter(finished_at__isnull=True).exclude(state=RunState.DEAD_LETTER))


def drive(enough: Callable[[], bool], seconds: float) -> None:
    """Carry out whatever may be carried out until that is enough, sweeping and answering as it goes."""
    deadline = time.monotonic() + seconds
    with without_broker():
        while not enough():
            if time.monotonic() > deadline:
                left = "\n".join(f"{run} {run.pk} {run.state} {run.waiting_for} {run.operation}" for run in unfinished())
                raise AssertionError(f"not over after {seconds:g} s:\n{left}")
            answer_waits()
            sweep()
            if not _drive_due():
                time.sleep(0.02)


def _drive_due() -> int:
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=db_now())
    due = Run.objects.filter(free, wake_at__lte=db_now(), state__in=sorted(CLAIMABLE))
    found = list(due.order_by("wake_at").values_list("pk", flat=True)[:200])
    for pk in found:
        advance.apply(args=[str(pk)], throw=True)
    return len(found)
