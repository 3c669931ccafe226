"""What the tests run on: a real Redis, PostgreSQL or SQLite, anvil and worker processes, each ours and on a free port.

The addresses are settled when pytest starts, since Django's settings want them; the servers start when first asked for.
"""

import base64
import itertools
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dalp.local import processes, servers
from dalp.local.processes import LocalError, Process, wait_until

T = TypeVar("T")

# What the tests sign with is no secret, and the same on every run so that a failure can be repeated.
TEST_KEK = base64.b64encode(b"a key-encryption key for tests!!").decode()


def chosen_database() -> tuple[str, str]:
    """Return "postgresql" or "sqlite", and a line to print when that is not what was wanted."""
    wanted = os.environ.get("DALP_TEST_DATABASE", "postgresql")
    if wanted not in ("postgresql", "sqlite"):
        raise LocalError(f"DALP_TEST_DATABASE is {wanted!r}: it must be postgresql or sqlite.")
    if wanted == "sqlite":
        return wanted, ""
    try:
        servers.postgres_bin()
    except LocalError as error:
        return "sqlite", f"WARNING: NOTHING IS TESTED ON POSTGRESQL, SQLITE STANDS IN. {error}"
    return wanted, ""


class Services:
    """The addresses of one pytest process and the servers behind them."""

    def __init__(self) -> None:
        self.database, self.warning = chosen_database()
        self.directory = Path(tempfile.mkdtemp(prefix="dalp-tests-", dir=servers.memory()))
        self.redis_port, self.postgres_port = servers.free_port(), servers.free_port()
        self.postgres_password = "tests"
        self.redis: servers.RedisServer | None = None
        self.postgres: servers.PostgresServer | None = None
        self.counter = itertools.count(1)

    @property
    def redis_url(self) -> str:
        return f"redis://{servers.HOST}:{self.redis_port}/0"

    def database_url(self, name: str) -> str:
        if self.database == "sqlite":
            return f"sqlite:///{self.directory / name}.sqlite3"
        return f"postgres://dalp:{self.postgres_password}@{servers.HOST}:{self.postgres_port}/{name}"

    def database_name(self, name: str) -> str:
        """What Django calls it: a path on SQLite."""
        return str(self.directory / f"{name}.sqlite3") if self.database == "sqlite" else name

    def environment(self, database: str = "dalp") -> dict[str, str]:
        """The settings of a process that works on `database`."""
        return {
            "DJANGO_SETTINGS_MODULE": "dalp.settings",
            "DATABASE_URL": self.database_url(database),
            "REDIS_URL": self.redis_url,
            "SECRET_KEY": "a secret key for tests and for nothing else than tests",
            "KEYGUARD_KEK": TEST_KEK,
            # The test-only settings are refused in production mode.
            "DEBUG": "true",
            "EMAIL_URL": "consolemail://",
            "PYTHONUNBUFFERED": "1",
            # Made once by the tests, they need not be made by each of some hundred workers.
            "CELERY_SKIP_CHECKS": "true",
            # A team's own app, with the workflows that the tests of the engine run.
            "DALP_APPS": "tests.sample",
        }

    def start_redis(self) -> servers.RedisServer:
        if self.redis is None:
            self.redis = servers.start_redis(self.redis_port)
        return self.redis

    def start_database(self) -> None:
        if self.database == "postgresql" and self.postgres is None:
            self.postgres = servers.start_postgres(
                self.postgres_port, fsync=False, password=self.postgres_password
            )

    def create_database(self, name: str) -> None:
        if self.postgres:
            self.postgres.create_database(name)

    def copy_database(self, source: str, target: str) -> None:
        """Make `target` a copy of `source`, to which nobody may be connected."""
        if self.postgres:
            self.postgres.create_database(target, template=source)
            return
        # Through SQLite itself: a plain copy of the file would miss what is still in its write-ahead log.
        with (
            sqlite3.connect(self.database_name(source)) as old,
            sqlite3.connect(self.database_name(target)) as new,
        ):
            old.backup(new)
        old.close()
        new.close()

    def drop_database(self, name: str) -> None:
        if self.postgres:
            self.postgres.drop_database(name)
            return
        for suffix in ("", "-wal", "-shm"):
            Path(self.database_name(name) + suffix).unlink(missing_ok=True)

    def stop(self) -> None:
        for server in (self.redis, self.postgres):
            if server:
                server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def switched_to(name: str) -> Iterator[None]:
    """Point this process's Django, all its threads, at another database."""
    from django.db import connections

    configuration = connections.settings["default"]
    before = configuration["NAME"]
    connections["default"].close()
    configuration["NAME"] = connections["default"].settings_dict["NAME"] = name
    try:
        yield
    finally:
        connections["default"].close()
        configuration["NAME"] = connections["default"].settings_dict["NAME"] = before


class Live:
    """One test's own database with real worker processes on it; this process's Django looks at the same one."""

    def __init__(self, services: Services, redis: servers.RedisServer, name: str, directory: Path) -> None:
        self.database = services.database
        self.redis = redis
        self.env: dict[str, str] = services.environment(name)
        self.directory = directory
        self.given: dict[str, str] = {}  # beside `env`, to some of the processes
        self.processes: list[Process] = []
        self.chains: list[servers.AnvilServer] = []

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}{len(self.processes)}.log"

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        self.given.update(more or {})
        return {**self.env, **(more or {})}

    def _started(self, process: Process) -> Process:
        self.processes.append(process)
        return process

    def start_worker(
        self,
        queues: str | Sequence[str] | None = None,
        fault: str | None = None,
        env: Mapping[str, str] | None = None,
        *,
        concurrency: int = 4,
        pool: str = "threads",
        ready: bool = True,
    ) -> Process:
        """Start a Celery worker and (unless ready=False) wait until it takes messages."""
        worker = self._started(
            processes.start_worker(
                self._environment(env),
                self._log("worker"),
                queues=queues,
                concurrency=concurrency,
                pool=pool,
                fault=fault,
            )
        )
        if ready:
            wait_until(lambda: "ready." in worker.output(), 60, what="the worker is ready", alive=[worker])
        return worker

    def start_beat(self, env: Mapping[str, str] | None = None) -> Process:
        return self._started(processes.start_beat(self._environment(env), self._log("beat")))

    def start_web(self, env: Mapping[str, str] | None = None) -> tuple[Process, str]:
        """Start gunicorn; return it and its address."""
        port = servers.free_port()
        web = self._started(processes.start_web(self._environment(env), self._log("web"), port))
        wait_until(lambda: "Listening at" in web.output(), 30, what="the web server listens", alive=[web])
        return web, f"http://{servers.HOST}:{port}"

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> Process:
        """Run `python ARGUMENTS` on this database to its end."""
        import sys

        process = self._started(
            Process(
                arguments[0],
                [sys.executable, *arguments],
                log=self._log("run"),
                env=self._environment(env),
            )
        )
        process.wait(timeout)
        return process

    def anvil(self, **options: Any) -> servers.AnvilServer:
        """Start a chain of this test's own; options as of `start_anvil`."""
        chain = servers.start_anvil(**options)
        self.chains.append(chain)
        return chain

    def wait_until(
        self, predicate: Callable[[], T], timeout: float = 30, what: str | Callable[[], str] = ""
    ) -> T:
        """As `wait_until`, with the log ends of the processes that still run when it fails."""
        running = [process for process in self.processes if process.alive]
        try:
            return wait_until(predicate, timeout, what=what)
        except LocalError as error:
            tails = "".join(f"\n--- {process.log.name} ---\n{process.tail()}" for process in running)
            raise LocalError(f"{error}{tails}") from None

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            # Captured, so shown only for a test that failed.
            print(f"--- {process.log.name} ({process.returncode}) ---\n{process.tail(40)}")
        for chain in self.chains:
            chain.stop()
        self.find_no_secret()

    def find_no_secret(self) -> None:
        """K55, over every test with processes: no log holds a secret setting, or hex as long as a signed transaction."""
        names = ("SECRET_KEY", "KEYGUARD_KEK", "KEYGUARD_HSM_PIN", "KEYGUARD_VAULT_SECRET_ID")
        given = {place.get(name, "") for place in (self.env, self.given) for name in names}
        secrets = [re.escape(secret) for secret in sorted(given - {""})]
        pattern = re.compile("|".join([*secrets, r"\b(?:0x)?[0-9a-fA-F]{130,}\b"]))
        for process in self.processes:
            assert not pattern.search(process.output()), f"a secret stands in {process.log}"
