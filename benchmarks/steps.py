"""Steps that do nothing: in runs through the workers beside bare Celery chains, and driven in one process.

To be imported when Django is set up.
"""

import time
import uuid
from collections.abc import Callable, Iterator

from celery import chain
from django.db import connection

from benchmarks.config import RUNS
from benchmarks.contest import Contest, Peer, Sample
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.tasks import client, noop
from benchmarks.workflows import STEPS, STEPS_IN_PROCESS, ManySteps, Nothing, TenSteps
from dalp.local.processes import wait_until
from workflows.engine.drive import advance
from workflows.models import Run
from workflows.states import RunState

COMMITS = RUNS
TIMEOUT_SECONDS = 300


def contests(stage: Stage) -> Iterator[Contest]:
    """Prepare the contests, one after the other, with warm workers."""
    run_durably(stage, 20)
    run_bare(stage, 20)
    yield Contest(
        title="Steps through workers",
        unit="steps",
        method=(
            f"{RUNS} runs of {STEPS} no-op steps, beside {RUNS} Celery chains of {STEPS} no-op tasks (acks_late, ignore_result). "
            f"One worker, {POOL} with {CONCURRENCY} processes, and one submitting process. From the first start to the "
            "last finished run (in the database) or chain (in Redis). Beat runs, and stands still during the chains."
        ),
        settle=stage.settle,
        peers=[
            Peer("DALP", lambda: run_durably(stage, RUNS)),
            Peer("bare Celery chains", lambda: run_bare(stage, RUNS)),
        ],
    )
    drive_in_process(stage)
    yield Contest(
        title="Steps in one process",
        unit="steps",
        method=(
            f"One run of {STEPS_IN_PROCESS} no-op steps driven by one process without a broker, one commit per step; "
            f"beside {COMMITS} commits of a single UPDATE each, over the same connection."
        ),
        settle=stage.settle,
        peers=[
            Peer("DALP", lambda: drive_in_process(stage)),
            Peer("single UPDATEs", lambda: commit_bare(stage)),
        ],
    )


def run_durably(stage: Stage, runs: int) -> Sample:
    label = uuid.uuid4().hex
    finished = Run.objects.filter(correlation_id=label, state=RunState.SUCCEEDED)
    began = time.perf_counter()
    for _ in range(runs):
        TenSteps.start(Nothing(), correlation_id=label)
    submitted = time.perf_counter()
    _wait(stage, lambda: finished.count() == runs)
    return Sample(runs * STEPS, time.perf_counter() - began, {"submitting_seconds": submitted - began})


def run_bare(stage: Stage, chains: int) -> Sample:
    counter = uuid.uuid4().hex
    with stage.quiet():
        began = time.perf_counter()
        for _ in range(chains):
            links = [noop.si() for _ in range(STEPS - 1)] + [noop.si(counter)]
            chain(*(link.set(queue="workflows") for link in links)).apply_async()
        submitted = time.perf_counter()
        _wait(stage, lambda: int(client().get(counter) or 0) == chains)
        return Sample(chains * STEPS, time.perf_counter() - began, {"submitting_seconds": submitted - began})


def drive_in_process(stage: Stage) -> Sample:
    with stage.quiet():
        run = ManySteps.start(Nothing())
        began = time.perf_counter()
        while (session := advance(run.pk)) and session.handed_over:
            pass
        seconds = time.perf_counter() - began
    run.refresh_from_db()
    if run.state != RunState.SUCCEEDED:
        raise RuntimeError(f"the run ended {run.state}: {run.error}")
    return Sample(STEPS_IN_PROCESS, seconds)


def commit_bare(stage: Stage) -> Sample:
    run = Run.objects.order_by("id")[0]  # ended long ago
    with stage.quiet(), connection.cursor() as cursor:
        began = time.perf_counter()
        for number in range(COMMITS):
            cursor.execute("UPDATE workflows_run SET recoveries = %s WHERE id = %s", [number, run.pk])
        return Sample(COMMITS, time.perf_counter() - began)


def _wait(stage: Stage, is_over: Callable[[], bool]) -> None:
    wait_until(is_over, TIMEOUT_SECONDS, every=0.02, what="all is finished", alive=[stage.worker, stage.beat])
