"""How long one short run takes on an idle system, from the call that starts it to its end. To be imported when Django is set up."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection

from benchmarks.figures import Figures, Rows
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.workflows import STEPS_SHORT, Nothing, ThreeSteps

RUNS = 200
WARM_UP = 40
POLL_SECONDS = 0.001
TIMEOUT_SECONDS = 30


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare the measurement, with warm workers."""
    for _ in range(WARM_UP):
        run_once()
    yield Figures(
        title="Latency of one run",
        method=(
            f"{RUNS} runs of {STEPS_SHORT} no-op steps, one after the other, on a system that does nothing else; beat runs. "
            "Seen by the caller: from the call of start (which commits, and sends the message) until a query by "
            f"primary key, repeated every {POLL_SECONDS * 1000:g} ms, shows the end. In the rows: from created_at to finished_at. "
            f"One worker, {POOL} with {CONCURRENCY} processes."
        ),
        settle=stage.settle,
        measure=measure,
    )


def measure() -> Rows:
    found = [run_once() for _ in range(RUNS)]
    return {
        "seen by the caller": spread([seen for seen, _ in found]),
        "in the rows": spread([recorded for _, recorded in found]),
    }


def run_once() -> tuple[float, float]:
    """Start a run and wait for its end; return the seconds seen here, and those between the row's instants."""
    began = time.perf_counter()
    run = ThreeSteps.start(Nothing())
    with connection.cursor() as cursor:
        while (recorded := _recorded(cursor, run.pk)) is None:
            if time.perf_counter() - began > TIMEOUT_SECONDS:
                raise RuntimeError(f"run {run.pk} is not finished after {TIMEOUT_SECONDS} s")
            time.sleep(POLL_SECONDS)
    return time.perf_counter() - began, recorded


def _recorded(cursor: Any, run_id: Any) -> float | None:
    cursor.execute(
        "SELECT extract(epoch FROM finished_at - created_at) FROM workflows_run WHERE id = %s", [run_id]
    )
    found = cursor.fetchone()[0]
    return None if found is None else float(found)


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99 (the nearest rank) and the largest, in ms."""
    ordered = [each * 1000 for each in sorted(seconds)]
    ranks = {f"p{percent}_ms": ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 99)}
    return {**ranks, "max_ms": ordered[-1]}
