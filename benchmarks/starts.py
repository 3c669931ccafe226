"""How fast runs with idempotency keys are started, and started again. To be imported when Django is set up."""

import time
import uuid
from collections.abc import Iterator, Sequence

from django.db.transaction import atomic

from benchmarks.figures import Figures, Rows
from benchmarks.stage import Stage
from benchmarks.workflows import Nothing, Unattended
from workflows.clock import db_now
from workflows.models import Run
from workflows.states import RunState

RUNS = 1000
BATCH = 100
WARM_UP = 50


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare the measurement."""
    start_all(keys(WARM_UP), 1)
    yield Figures(
        title="Starts with idempotency keys",
        method=(
            f"{RUNS} starts in one process, each with a key of its own, one or {BATCH} in a commit, and their messages sent; then "
            "the same keys again, each of which returns the first run. Nobody carries the runs out, and beat stands still."
        ),
        settle=stage.settle,
        measure=lambda: measure(stage),
    )


def measure(stage: Stage) -> Rows:
    alone, together = keys(RUNS), keys(RUNS)
    with stage.quiet():
        first, seconds = start_all(alone, 1)
        again, seconds_again = start_all(alone, 1)
        _, seconds_together = start_all(together, BATCH)
        # Before beat goes on: its sweeps would ring for them, over and over.
        call_off(first[0].workflow)
    if [run.pk for run in first] != [run.pk for run in again]:
        raise RuntimeError("a repeated start did not return the first run")
    return {
        "new keys": rate(seconds),
        f"new keys, {BATCH} a commit": rate(seconds_together),
        "the same keys again": rate(seconds_again),
    }


def keys(count: int) -> list[str]:
    return [uuid.uuid4().hex for _ in range(count)]


def start_all(wanted: Sequence[str], batch: int) -> tuple[list[Run], float]:
    """Start a run for each key, so many in a commit; return the runs and the seconds it took."""
    runs: list[Run] = []
    began = time.perf_counter()
    for start in range(0, len(wanted), batch):
        if batch == 1:
            runs.append(Unattended.start(Nothing(), idempotency_key=wanted[start]))
            continue
        with atomic():
            runs += [
                Unattended.start(Nothing(), idempotency_key=key) for key in wanted[start : start + batch]
            ]
    return runs, time.perf_counter() - began


def rate(seconds: float) -> dict[str, float]:
    return {"starts_per_second": RUNS / seconds, "ms_each": seconds / RUNS * 1000}


def call_off(workflow: str) -> None:
    """End the runs of a workflow that nobody will carry out, past the engine: none of them is looked at again."""
    live = Run.objects.filter(workflow=workflow, finished_at__isnull=True)
    live.update(state=RunState.CANCELLED, finished_at=db_now(), wake_at=None, lease_until=None)
