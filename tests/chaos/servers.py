"""What every chaos run strikes at: a PostgreSQL that keeps what it has committed, a Redis that keeps nothing, processes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dalp.local import processes, servers
from dalp.local.processes import Process
from tests.services import TEST_KEK

PASSWORD = "chaos"
COLOURS = re.compile(r"\x1b\[\d+m")


class Servers:
    """The servers of one chaos run, its workers and its beat, and what they say."""

    def __init__(self, directory: Path, workers: int, settings: Mapping[str, str]) -> None:
        """workers: how many there are to be. settings: of all processes, beside the servers' addresses."""
        self.directory, self.wanted = directory, workers
        self.postgres = servers.start_postgres(servers.free_port(), password=PASSWORD)
        self.redis = servers.start_redis(servers.free_port())
        self.env = self._environment() | dict(settings)
        self.workers: list[Process] = []
        self.beat: Process | None = None
        self.logs: list[Path] = []

    def _environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": f"postgres://dalp:{PASSWORD}@{servers.HOST}:{self.postgres.port}/chaos",
            "REDIS_URL": f"redis://{servers.HOST}:{self.redis.port}/0",
            "SECRET_KEY": "a secret key for chaos and for nothing else than chaos",
            "KEYGUARD_KEK": TEST_KEK,
            "DEBUG": "true",
            "LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
        }

    def set_django_up(self, **settings: str) -> None:
        """Set this process's Django up on a new database; settings: where they differ from the other processes'."""
        import django
        from django.core.management import call_command

        os.environ.update({**self.env, **settings})
        self.postgres.create_database("chaos")
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)

    def _log(self, name: str) -> Path:
        self.logs.append(self.directory / f"{name}{len(self.logs)}.log")
        return self.logs[-1]

    def start_worker(self, fault: str = "", pool: str = "threads") -> Process:
        worker = processes.start_worker(self.env, self._log("worker"), pool=pool, fault=fault)
        self.workers.append(worker)
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

    def count_in_logs(self, pattern: str) -> int:
        """Return how many lines of the processes' logs match; colours are left out."""
        wanted = re.compile(pattern)
        lines = (line for log in self.logs for line in log.open(errors="replace"))
        return sum(1 for line in lines if wanted.search(COLOURS.sub("", line)))

    def stop(self) -> None:
        for process in [*self.workers, self.beat]:
            if process is not None:
                process.kill()
        self.redis.stop()
        self.postgres.stop()
