"""The servers and processes of a chaos run of the engine, and how its servers are restarted."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection

from dalp.local.processes import Process
from tests.chaos.servers import Servers

T = TypeVar("T")

LEASE_SECONDS = 2
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
    "DALP_APPS": "tests.chaos",
    "DALP_WORKFLOWS_LEASE_SECONDS": str(LEASE_SECONDS),
    "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1",
    # Nobody dies here of the run itself.
    "DALP_WORKFLOWS_MAX_RECOVERIES": "1000",
}


class Stage(Servers):
    """Everything that a chaos run strikes at."""

    def __init__(self, directory: Path, workers: int) -> None:
        super().__init__(directory, workers, SETTINGS)

    def start_worker(self, fault: str = "", pool: str = "") -> Process:
        return super().start_worker(fault, pool or ("prefork" if len(self.logs) % 4 == 3 else "threads"))

    def restart_postgres(self, how: signal.Signals) -> None:
        """What `pg_ctl restart` does: SIGINT is `-m fast`, SIGQUIT `-m immediate`, as after a crash."""
        process = self.postgres.process
        assert process is not None
        os.kill(process.pid, how)
        process.wait(30)
        self.postgres.start(60)

    def restart_redis(self) -> None:
        self.redis.kill()
        self.redis.start()


def patiently(work: Callable[[], T], seconds: float = 90) -> T:
    """Do something with the database, again while it is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return work()
        except (
            OperationalError,
            InterfaceError,
            InternalError,
        ):  # the last: it stood still within a transaction
            if time.monotonic() > deadline:
                raise
            connection.close()
            time.sleep(0.2)
