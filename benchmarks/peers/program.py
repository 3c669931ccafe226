"""A program of `programs`, in a process of the peers' Python: asked on its command line, it answers with a line of JSON."""

import json
from pathlib import Path

from benchmarks.config import RUNS
from benchmarks.contest import Sample
from benchmarks.peers.environment import python
from benchmarks.stage import CONCURRENCY
from benchmarks.workflows import STEPS
from dalp.local.processes import LocalError, Process

# Unmeasured, in the same processes: connections are open then, and every module is imported.
WARM_UP = 60
TIMEOUT_SECONDS = 300


def measure(name: str, url: str, log: Path) -> Sample:
    """Have a program do the runs and return what it measured. Its processes are gone afterwards, whatever happened."""
    numbers = {"steps": STEPS, "runs": RUNS, "warm-up": WARM_UP, "processes": CONCURRENCY}
    options = [f"--{option}={number}" for option, number in numbers.items()]
    command = [python(), "-m", f"benchmarks.peers.programs.{name}", url, *options]
    log.unlink(missing_ok=True)
    process = Process(name, command, log=log)
    try:
        if process.wait(TIMEOUT_SECONDS):
            raise LocalError(f"{name} failed.\n{process.tail()}")
        answer = json.loads(process.tail(1))
    finally:
        process.stop()
    return Sample(RUNS * STEPS, answer["seconds"], {"submitting_seconds": answer["submitting_seconds"]})
