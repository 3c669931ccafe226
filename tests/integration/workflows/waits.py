"""What the tests of waits share: their simplest inputs, and what they do at the same moment as a worker."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar

from django.db import connection, connections
from pydantic import BaseModel

from workflows import (
    Command,
    Operation,
)
from workflows.engine.drive import advance
from workflows.models import Run, Wait

BY = {"actor": "ops", "reason": "because"}


class Nothing(BaseModel):
    """No input."""


class Payment(BaseModel):
    amount: int


class Asked(Command):
    """Something that another app carries out, and cannot call off."""

    kind: ClassVar[str] = "waits.asked"
    result_type: ClassVar[Any] = str

    def submit(self, operation: Operation, index: int) -> str:
        return f"{operation.key}/{operation.attempt}/{index}"


def meanwhile(work: Callable[[], Any]) -> None:
    """Have another worker do something to its end, in a transaction that the one that is open here doesn't see.

    Not on SQLite: while one transaction writes, no other does.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: (work(), connections.close_all())).result(20)


def is_postgresql() -> bool:
    return connection.vendor == "postgresql"


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def consumers(run: Run) -> list[str]:
    """Return by whom the run's signals were taken, the oldest signal first; "" for one that is still there."""
    return list(run.signals.values_list("consumed_by", flat=True))


def overdue(run: Run) -> Run:
    """Carry a run on until it waits, and let the time for that be over."""
    advance(run.pk)
    over = run.created_at - timedelta(seconds=1)
    assert Wait.objects.filter(run=run, state="PENDING", due_at__isnull=False).update(due_at=over)
    Run.objects.filter(pk=run.pk).update(wake_at=over)
    run.refresh_from_db()
    return run


def somebody_waits_for_a_lock() -> bool:
    if not is_postgresql():
        return True  # everybody waits for the one writer
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
        return bool(cursor.fetchone()[0])
