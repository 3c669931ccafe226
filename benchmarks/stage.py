"""What is measured on: PostgreSQL with fsync on, Redis, one worker and beat, as a small production would run them."""

import base64
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import django

from dalp.local.processes import start_beat, start_worker, wait_until
from dalp.local.servers import HOST, start_postgres, start_redis

# Celery's own default pool and number of processes.
POOL, CONCURRENCY = "prefork", os.cpu_count() or 1
# As their keys in Redis begin; each chain's is beneath signer.
QUEUES = ("workflows", "signer", "webhooks", "ops")


class Stage:
    """The servers and processes of one whole measurement. A context: leaving it stops all of them."""

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self.directory = Path(
                opened.enter_context(tempfile.TemporaryDirectory(prefix="dalp-benchmarks-"))
            )
            self.postgres = start_postgres()
            opened.callback(self.postgres.stop)
            self.redis = start_redis()
            opened.callback(self.redis.stop)
            self.prepare_database()
            self.start_worker()
            opened.callback(self.stop_worker)
            self.start_beat()
            opened.callback(self.stop_beat)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def prepare_database(self) -> None:
        """Set this process's Django up on a fresh database."""
        self.env = self._environment(self.postgres.create_database("dalp"))
        os.environ.update(self.env)
        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

    def _environment(self, database_url: str) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "dalp.settings",
            # Production mode: with DEBUG Django keeps every query.
            "DEBUG": "false",
            "HTTPS": "false",
            "ALLOWED_HOSTS": HOST,
            "SECRET_KEY": secrets.token_urlsafe(48),
            "KEYGUARD_KEK": base64.b64encode(secrets.token_bytes(32)).decode(),
            "DATABASE_URL": database_url,
            "REDIS_URL": self.redis.url,
            "DALP_APPS": "benchmarks",
            # Two lines per task would slow the bare chains, with their ten tasks, most of all.
            "LOG_LEVEL": "WARNING",
            "SENTRY_DSN": "",
        }

    def start_worker(self, processes: int = CONCURRENCY) -> None:
        from benchmarks.workflows import QUEUE_IN_PROCESS

        log = self.directory / "worker.log"
        self.worker = start_worker(
            self.env, log, without=[QUEUE_IN_PROCESS], concurrency=processes, pool=POOL
        )

    def stop_worker(self) -> None:
        self.worker.stop()

    def start_beat(self) -> None:
        self.beat = start_beat(self.env, self.directory / "beat.log")

    def stop_beat(self) -> None:
        self.beat.stop()

    def work_on(self, database: str) -> None:
        """Turn to another database of the same server, this process and new ones of the platform."""
        self.settle()
        self.stop_beat()
        self.stop_worker()
        self.turn_to(database)
        self.env["DATABASE_URL"] = self.postgres.url(database)
        self.start_worker()
        self.start_beat()

    def turn_to(self, database: str) -> None:
        """Have this process alone use another database of the same server."""
        from django.db import connection

        connection.close()
        connection.settings_dict["NAME"] = database

    def settle(self) -> None:
        """Wait until no message is left: the sweep sends some twice, and the next measurement must not pay for them."""
        with self.redis.client() as client:
            wait_until(
                # A queue is several lists, one for each priority; a colon is in the signer's own keys.
                lambda: (
                    not any(client.keys(queue) + client.keys(f"{queue}[^:]*") for queue in QUEUES)
                    and not client.hlen("unacked")
                ),
                60,
                what="the queues are empty",
                alive=[self.worker, self.beat],
            )

    @contextmanager
    def worked_by(self, processes: int) -> Iterator[None]:
        """Have a worker with so many processes for the block."""
        self.settle()
        self.stop_worker()
        self.start_worker(processes)
        try:
            yield
        finally:
            self.settle()
            self.stop_worker()
            self.start_worker()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hold beat still: its sweeps are the platform's own work, and no peer has to bear them."""
        self.beat.freeze()
        try:
            yield
        finally:
            self.beat.thaw()
