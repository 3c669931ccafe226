"""What the tests of virtual objects look at."""

from workflows.engine.drive import advance
from workflows.models import Run, VirtualObjectState


def row(key: str) -> VirtualObjectState:
    return VirtualObjectState.objects.get(key=key)


def holder(key: str) -> Run | None:
    return row(key).holder


def drive_all(*first: Run) -> None:
    """Drive every run that can go on, until none can."""
    for _ in range(20):
        for run in Run.objects.filter(finished_at__isnull=True).order_by("id"):
            advance(run.pk)
    for run in first:
        run.refresh_from_db()
