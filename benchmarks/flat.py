"""Whether the cost of a step grows with the finished runs in the tables. To be imported when Django is set up."""

import itertools
import time
import uuid
from collections.abc import Iterator
from statistics import median
from typing import Any

from django.core.management import call_command
from django.db import connection

from benchmarks import plans
from benchmarks.config import RUNS
from benchmarks.figures import Figures, Rows
from benchmarks.fill import EVENTS_PER_RUN, SLEEPERS, fill
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.starts import call_off
from benchmarks.steps import run_durably
from benchmarks.workflows import STEPS, Nothing, Unattended
from workflows.engine.claiming import claim_run

SIZES = (0, 100_000, 1_000_000)
CLAIMS = 300
WARM_UP = 60


def contests(stage: Stage) -> Iterator[Figures]:
    """Prepare a database of each size, and the measurements."""
    databases = {size: f"finished_{size}" for size in SIZES}
    first = connection.settings_dict["NAME"]
    filled = {name: prepare(stage, name, size) for size, name in databases.items()}
    turns = itertools.count()
    yield Figures(
        title="Cost beside finished runs",
        method=(
            "A database for each number of finished runs (2 steps and "
            f"{EVENTS_PER_RUN} events each, by SQL) and {SLEEPERS} runs that sleep; each round measures all of them in turn, with a worker "
            f"started anew and {WARM_UP} runs to warm it up. Steps: {RUNS} runs of {STEPS} no-op steps through one worker, {POOL} with "
            f"{CONCURRENCY} processes, as in the first table. Claim: the median of {CLAIMS} calls of claim_run by this process, each of a "
            "due run and with its commit, beat standing still. Beside the empty one: 1.00 is flat."
        ),
        settle=stage.settle,
        measure=lambda: measure(stage, databases, next(turns)),
        details={"databases": filled},
    )
    stage.work_on(databases[SIZES[-1]])
    yield plans.figures(stage, SIZES[-1])
    stage.work_on(first)


def prepare(stage: Stage, name: str, size: int) -> dict[str, float]:
    """Create and fill a database; return how long that took and what it takes on the disk."""
    began = time.perf_counter()
    stage.postgres.create_database(name)
    stage.turn_to(name)
    call_command("migrate", verbosity=0)
    fill(size)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        size_bytes = cursor.fetchone()[0]
    return {"filled_in_seconds": round(time.perf_counter() - began, 1), "bytes": size_bytes}


def measure(stage: Stage, databases: dict[int, str], turn: int) -> Rows:
    turn %= len(databases)
    found: dict[int, dict[str, float]] = {}
    for size in SIZES[turn:] + SIZES[:turn]:
        stage.work_on(databases[size])
        run_durably(stage, WARM_UP)
        stage.settle()
        steps = run_durably(stage, RUNS).per_second
        stage.settle()
        found[size] = {"steps_per_second": steps, "claim_ms": claim_ms(stage)}
    empty = found[SIZES[0]]
    return {
        f"{size:,} finished runs": {
            **found[size],
            "steps_beside_empty": found[size]["steps_per_second"] / empty["steps_per_second"],
            "claim_beside_empty": found[size]["claim_ms"] / empty["claim_ms"],
        }
        for size in SIZES
    }


def claim_ms(stage: Stage) -> float:
    """Return the median of the ms that a claim of a due run takes."""
    with stage.quiet():
        label = uuid.uuid4().hex
        runs = [Unattended.start(Nothing(), correlation_id=label) for _ in range(CLAIMS)]
        took = [_claim(run.pk) for run in runs]
        call_off(Unattended.definition.name)
    return median(took) * 1000


def _claim(run_id: Any) -> float:
    began = time.perf_counter()
    held = claim_run(run_id)
    seconds = time.perf_counter() - began
    if held is None:
        raise RuntimeError(f"run {run_id} could not be claimed")
    return seconds
