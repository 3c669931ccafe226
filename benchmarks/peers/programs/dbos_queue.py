"""DBOS: one process puts runs into a queue, and workers take them from it.

DBOSClient enqueues; it has no engine, so it runs none of them.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Barrier

from dbos import DBOSClient

from benchmarks.peers.programs import dbos_engine
from benchmarks.peers.programs.task import SENDERS, START_SECONDS, Task, answer


def main() -> None:
    task = Task.from_command_line()
    dbos_engine.prepare(task.url)
    context = get_context("spawn")
    ready = context.Barrier(task.processes + 1, timeout=START_SECONDS)
    for number in range(task.processes):
        context.Process(target=work, args=(task, number, ready), daemon=True).start()
    client = DBOSClient(system_database_url=task.url, application_name=dbos_engine.APPLICATION)
    ready.wait()
    with ThreadPoolExecutor(SENDERS) as senders:
        run(client, senders, task.warm_up)
        answer(*run(client, senders, task.runs))
    client.destroy()


def work(task: Task, number: int, ready: Barrier) -> None:
    """Run what is in the queue until the parent process ends."""
    dbos_engine.define(task.steps)
    dbos_engine.launch(task.url, f"worker-{number}", queues=[dbos_engine.QUEUE])
    ready.wait()
    parent_process().join()


def run(client: DBOSClient, senders: ThreadPoolExecutor, runs: int) -> tuple[float, float]:
    """Return the seconds until all are finished, and until all were enqueued."""
    options = {"queue_name": dbos_engine.QUEUE, "workflow_name": dbos_engine.WORKFLOW}
    began = time.perf_counter()
    list(senders.map(lambda _: client.enqueue(options), range(runs)))
    submitted = time.perf_counter()
    # One question for all: asking every handle for its result would poll the database once per run.
    unfinished = {"status": ["ENQUEUED", "PENDING"], "limit": 1, "load_input": False, "load_output": False}
    while client.list_workflows(**unfinished):
        time.sleep(0.02)
    return time.perf_counter() - began, submitted - began


if __name__ == "__main__":
    main()
