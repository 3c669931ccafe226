"""The contest of the engines. To be imported when Django is set up."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.config import RUNS
from benchmarks.contest import Contest, Peer, Sample
from benchmarks.peers import restate
from benchmarks.peers.dbos import Dbos
from benchmarks.peers.load import busy_share
from benchmarks.peers.program import WARM_UP
from benchmarks.peers.programs.task import SENDERS
from benchmarks.stage import CONCURRENCY, POOL, Stage
from benchmarks.steps import run_durably
from benchmarks.workflows import STEPS


def contests(stage: Stage) -> Iterator[Contest]:
    dbos = Dbos(stage)
    yield Contest(
        title="Steps of durable engines",
        unit="steps",
        method=(
            f"{RUNS} runs of {STEPS} no-op steps, from the first start to the last run's end, after {WARM_UP} runs to warm up; "
            f"each engine alone, with {CONCURRENCY} processes for the runs, the end of a step on the disk before the next begins. "
            f"DALP: a Celery worker, {POOL}, and one submitting process. "
            f"DBOS, on the same PostgreSQL: from a queue, one DBOSClient enqueuing in {SENDERS} threads for the workers, "
            "which poll every 0.1 s and have at most 20 runs each; or without a queue, each process starting its share of "
            "the runs and running it. Restate: one node with its defaults, which sync its log; a service of coroutines under "
            f"hypercorn; one client that sends all runs over {SENDERS} connections, then waits for each."
        ),
        settle=stage.settle,
        peers=[
            beside_others("DALP", lambda: run_warmed_up(stage)),
            beside_others("DBOS, from a queue", lambda: dbos.measure("dbos_queue")),
            beside_others("DBOS, started directly", lambda: dbos.measure("dbos_direct")),
            beside_others("Restate", lambda: restate.measure(stage)),
        ],
    )


def beside_others(name: str, measure: Callable[[], Sample]) -> Peer:
    """Have each sample say how busy the machine was just before it: above a few percent, others slowed it."""

    def measure_and_tell() -> Sample:
        busy = busy_share()
        sample = measure()
        return replace(sample, details={**sample.details, "busy_before": busy})

    return Peer(name, measure_and_tell)


def run_warmed_up(stage: Stage) -> Sample:
    run_durably(stage, WARM_UP)
    return run_durably(stage, RUNS)
