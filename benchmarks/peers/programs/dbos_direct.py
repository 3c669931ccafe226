"""DBOS: processes that start runs and run them themselves, without a queue; each has its share of the runs."""

import time
from multiprocessing import Queue, get_context
from multiprocessing.synchronize import Barrier

from dbos import DBOS

from benchmarks.peers.programs import dbos_engine
from benchmarks.peers.programs.task import START_SECONDS, Task, answer


def main() -> None:
    task = Task.from_command_line()
    dbos_engine.prepare(task.url)
    context = get_context("spawn")
    together, spans = context.Barrier(task.processes, timeout=START_SECONDS), context.Queue()
    starters = [
        context.Process(target=start, args=(task, number, together, spans), daemon=True)
        for number in range(task.processes)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    began, submitted, ended = zip(*(spans.get(timeout=1) for _ in starters), strict=True)
    answer(max(ended) - min(began), max(submitted) - min(began))


def start(task: Task, number: int, together: Barrier, spans: Queue) -> None:
    """Do one process's share; answer with three instants of the clock that all processes see."""
    ten_steps = dbos_engine.define(task.steps)
    dbos_engine.launch(task.url, f"starter-{number}", queues=[])
    share = range(number, task.runs, task.processes)
    for runs in (task.warm_up // task.processes, len(share)):
        together.wait()
        began = time.monotonic()
        handles = [DBOS.start_workflow(ten_steps) for _ in range(runs)]
        submitted = time.monotonic()
        for handle in handles:
            handle.get_result()
        ended = time.monotonic()
    spans.put((began, submitted, ended))
    DBOS.destroy()


if __name__ == "__main__":
    main()
