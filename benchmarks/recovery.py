"""How long it takes until all work is done after every worker was killed. To be imported when Django is set up."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.transaction import atomic

from benchmarks.figures import Figures
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.workflows import BLOCK_SECONDS, Blocking, Nothing
from dalp.local.processes import wait_until
from workflows.clock import db_now
from workflows.models import Run, Step, Wait
from workflows.states import RunState, WaitingFor

RUNS = 1000
ROUNDS_MAX = 3
TIMEOUT_SECONDS = 300


def contests(stage: Stage) -> Iterator[Figures]:
    lease = settings.WORKFLOWS["lease_seconds"]
    yield Figures(
        title=f"Recovery of {RUNS} runs, lease {lease:g} s",
        method=(
            f"{RUNS} runs of 4 steps, all of which have done one and sleep; then all are due at once, and the sweep finds them; the third step takes "
            f"{BLOCK_SECONDS * 1000:g} ms. As soon as every process of the worker holds one, the worker is killed with SIGKILL, all "
            "of its processes, and a new one is started at once. Seconds from that instant to the last finish, "
            "by the database's clock; the same without the kill. Held: claimed by the killed worker, so that nobody may take "
            f"them before the lease of {lease:g} s is over; due: nobody has claimed them yet. Nothing lost: each ran to its end, "
            f"with 4 steps recorded. One worker, {POOL} with {CONCURRENCY} processes, and beat. At most {ROUNDS_MAX} rounds."
        ),
        settle=stage.settle,
        measure=lambda: {
            "without a kill": measure(stage, kill=False),
            "all workers killed": measure(stage, kill=True),
        },
        rounds_max=ROUNDS_MAX,
        details={"lease_seconds": lease},
    )


def measure(stage: Stage, *, kill: bool) -> dict[str, float]:
    runs = start_runs(stage)
    held = runs.filter(lease_until__isnull=False)
    _wait(stage, lambda: held.count() >= CONCURRENCY, "every process holds a run")
    at = database_time()
    if kill:
        stage.worker.kill()
    found = Found.of(runs)
    if kill:
        stage.start_worker()
    _wait(stage, lambda: runs.filter(state=RunState.SUCCEEDED).count() == RUNS, "all runs are finished")
    if kill:
        forget_unacknowledged(stage)
    steps = Step.objects.filter(run__in=runs).count()
    if steps != 4 * RUNS:
        raise RuntimeError(f"{RUNS} runs of 4 steps have left {steps} of them")
    last = {True: 0.0, False: 0.0}
    for pk, finished_at in runs.values_list("pk", "finished_at"):
        assert finished_at is not None
        last[pk in found.held] = max(last[pk in found.held], (finished_at - at).total_seconds())
    return {
        "all_done_s": max(last.values()),
        "all_but_held_done_s": last[False],
        "held": len(found.held),
        "due": found.due,
        "done_before": found.finished,
    }


def start_runs(stage: Stage) -> "QuerySet[Run]":
    """Start the runs, wait until all of them sleep, and end their sleep for all at once."""
    label = uuid.uuid4().hex
    for _ in range(RUNS):
        Blocking.start(Nothing(), correlation_id=label)
    runs = Run.objects.filter(correlation_id=label)
    asleep = runs.filter(waiting_for=WaitingFor.SLEEP, lease_until__isnull=True)
    _wait(stage, lambda: asleep.count() == RUNS, "all runs sleep")
    stage.settle()
    with atomic():
        Wait.objects.filter(run__in=runs).update(due_at=db_now())
        runs.update(wake_at=db_now())
    return runs


@dataclass(frozen=True)
class Found:
    """What the runs were at just after the kill."""

    held: frozenset[Any]
    due: int
    finished: int

    @classmethod
    def of(cls, runs: "QuerySet[Run]") -> "Found":
        held = frozenset(runs.filter(lease_until__isnull=False).values_list("pk", flat=True))
        finished = runs.filter(finished_at__isnull=False).count()
        due = runs.filter(Q(lease_until__isnull=True), finished_at__isnull=True).count()
        return cls(held, due, finished)


def forget_unacknowledged(stage: Stage) -> None:
    """Remove the messages that the killed worker had fetched: the broker would deliver them in some minutes, to no effect."""
    with stage.redis.client() as client:
        client.delete("unacked", "unacked_index")


def database_time() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        found: datetime = cursor.fetchone()[0]
    return found


def _wait(stage: Stage, is_over: Any, what: str) -> None:
    wait_until(is_over, TIMEOUT_SECONDS, every=0.02, what=what, alive=[stage.worker, stage.beat])
