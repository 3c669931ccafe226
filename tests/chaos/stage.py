"""The servers and processes of a chaos run: a PostgreSQL that keeps what it has committed, a Redis that keeps nothing."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from django.db import InterfaceError, InternalError, OperationalError, connection

from dalp.local import processes, servers
from dalp.local.processes import Process, wait_until
from tests.services import TEST_KEK

T = TypeVar("T")

LEASE_SECONDS = 2
PASSWORD = "chaos"


def environment(postgres_port: int, redis_port: int) -> dict[str, str]:
    """The settings of all processes, this one too."""
    return {
        "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
        "DALP_APPS": "tests.chaos",
        "DATABASE_URL": f"postgres://dalp:{PASSWORD}@{servers.HOST}:{postgres_port}/chaos",
        "REDIS_URL": f"redis://{servers.HOST}:{redis_port}/0",
        "SECRET_KEY": "a secret key for chaos and for nothing else than chaos",
        "KEYGUARD_KEK": TEST_KEK,
        "DEBUG": "true",
        "LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "DALP_WORKFLOWS_LEASE_SECONDS": str(LEASE_SECONDS),
        "DALP_WORKFLOWS_SWEEP_GRACE_SECONDS": "1",
        # Nobody dies here of the run itself.
        "DALP_WORKFLOWS_MAX_RECOVERIES": "1000",
    }


class Stage:
    """Everything that a chaos run strikes at."""

    def __init__(self, directory: Path, workers: int) -> None:
        self.directory, self.wanted = directory, workers
        self.postgres = servers.start_postgres(servers.free_port(), password=PASSWORD)
        self.redis = servers.start_redis(servers.free_port())
        self.env = environment(self.postgres.port, self.redis.port)
        self.workers: list[Process] = []
        self.beat: Process | None = None
        self.logs: list[Path] = []

    def prepare(self) -> None:
        """Set this process's Django up on a new database."""
        import django
        from django.core.management import call_command

        os.environ.update(self.env)
        self.postgres.create_database("chaos")
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)

    def _log(self, name: str) -> Path:
        self.logs.append(self.directory / f"{name}{len(self.logs)}.log")
        return self.logs[-1]

    def start_worker(self, fault: str = "", *, ready: bool = False) -> Process:
        pool = "prefork" if len(self.logs) % 4 == 3 else "threads"
        worker = processes.start_worker(self.env, self._log("worker"), pool=pool, fault=fault)
        self.workers.append(worker)
        if ready:
            wait_until(lambda: "ready." in worker.output(), 60, what="the worker is ready", alive=[worker])
        return worker

    def start_beat(self) -> None:
        self.beat = processes.start_beat(self.env, self._log("beat"))

    def bury(self) -> list[Process]:
        """Forget the workers that are dead, and return them."""
        dead = [worker for worker in self.workers if not worker.alive]
        for worker in dead:
            worker.kill()  # the children that a pool of processes leaves behind
            self.workers.remove(worker)
        return dead

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

    def count_in_logs(self, pattern: str) -> int:
        """Return how many lines of the workers' logs match."""
        wanted = re.compile(pattern)
        return sum(1 for log in self.logs for line in log.open(errors="replace") if wanted.search(line))

    def stop(self) -> None:
        for process in [*self.workers, self.beat]:
            if process is not None:
                process.kill()
        self.redis.stop()
        self.postgres.stop()


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
