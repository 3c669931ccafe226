"""Everything the demo runs on: Redis, a chain, an identity provider and our own processes against SQLite, in .demo/."""

import base64
import fcntl
import io
import json
import os
import secrets
import shutil
import urllib.request
from pathlib import Path
from typing import Any

from dalp.local.processes import (
    LocalError,
    Process,
    start_beat,
    start_module,
    start_web,
    start_worker,
    wait_until,
)
from dalp.local.servers import (
    HOST,
    AnvilServer,
    RedisServer,
    free_port,
    require_port,
    start_anvil,
    start_redis,
)

CHAIN_ID = 31337


class Stage:
    """The demo's processes. A fresh chain and a fresh database on each start; `stop` ends whatever was started."""

    def __init__(self, directory: Path, web_port: int | None = None) -> None:
        self.directory = directory
        self.web_port = require_port(web_port, "the web server") if web_port else free_port()
        self.identity_port = free_port()
        self.processes: dict[str, Process] = {}
        self.servers: list[RedisServer | AnvilServer] = []
        self.workers_started = 0
        self.password = secrets.token_urlsafe(12)
        self.token = ""
        self._lock = self._take_directory()

    def _take_directory(self) -> io.TextIOWrapper:
        """Hold the directory for us alone and empty it: a second demo would pull the database from under the first."""
        self.directory.mkdir(exist_ok=True)
        known = {
            "lock",
            "logs",
            "mail",
            "dalp.sqlite3",
            "dalp.sqlite3-wal",
            "dalp.sqlite3-shm",
        }
        if strange := {path.name for path in self.directory.iterdir()} - known:
            raise LocalError(f"{self.directory} holds what no demo made: {', '.join(sorted(strange))}.")
        lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise LocalError("Another demo runs in this directory: stop it with Ctrl-C first.") from None
        for path in self.directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        (self.directory / "logs").mkdir()
        return lock

    @property
    def web_url(self) -> str:
        return f"http://{HOST}:{self.web_port}"

    @property
    def identity_url(self) -> str:
        return f"http://{HOST}:{self.identity_port}"

    def log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def start_servers(self) -> None:
        """Start Redis, the chain (a block each second) and the identity provider."""
        self.redis = start_redis()
        self.servers.append(self.redis)
        self.chain = start_anvil(block_time=1, chain_id=CHAIN_ID)
        self.servers.append(self.chain)
        self.env = self._environment()
        arguments = ("--port", str(self.identity_port))
        module = "dalp.assets.identity_provider"
        log = self.log("identity-provider")
        self.processes["identity provider"] = start_module(
            "identity provider", module, self.env, log, *arguments
        )

    def _environment(self) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "dalp.settings",
            # Production mode with secrets of this run alone; only TLS is missing.
            "DEBUG": "false",
            "HTTPS": "false",
            "ALLOWED_HOSTS": f"{HOST},localhost",
            "SECRET_KEY": secrets.token_urlsafe(48),
            "KEYGUARD_KEK": base64.b64encode(secrets.token_bytes(32)).decode(),
            "DATABASE_URL": f"sqlite:///{self.directory / 'dalp.sqlite3'}",
            "REDIS_URL": self.redis.url,
            "IDENTITY_PROVIDER_URL": self.identity_url,
            "EMAIL_URL": f"filemail:///{self.directory / 'mail'}",
            # Short, so that a killed worker's work is taken over while somebody watches.
            "DALP_WORKFLOWS_LEASE_SECONDS": "5",
            "DALP_SIGNER_LEASE_SECONDS": "5",
            "SENTRY_DSN": "",
            "LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
        }

    def prepare_database(self) -> None:
        """Make the tables, the console's user and an API token, by the commands that an operator would use."""
        # In this process: one start of Django instead of five.
        os.environ.update({**self.env, "LOG_LEVEL": "ERROR", "DJANGO_SUPERUSER_PASSWORD": self.password})
        import django

        django.setup()
        run_command("migrate", verbosity=0)
        run_command(
            "createsuperuser", interactive=False, username="admin", email="admin@localhost", verbosity=0
        )
        self.token = run_command("create_api_token", name="demo", role="operator").split()[-1]
        run_command(
            "add_chain", chain_id=CHAIN_ID, name="anvil", rpc=[self.chain.url], confirmations=1, block_time=1
        )

    def create_key(self, alias: str, *, funded: bool) -> str:
        """Make a key in keyguard, give it ether if it is to pay for transactions, and return its address."""
        output = run_command("create_key", alias=alias, backend="database")
        address = next(word.strip(".,") for word in output.split() if word.startswith("0x"))
        if funded:
            self.chain.fund(address)
        return address

    def start_processes(self) -> None:
        self.start_worker()
        self.processes["beat"] = start_beat(self.env, self.log("beat"))
        self.processes["web"] = start_web(self.env, self.log("web"), self.web_port)
        wait_until(self._web_answers, 60, what="the web server answers", alive=list(self.processes.values()))

    def start_worker(self) -> Process:
        self.workers_started += 1
        worker = start_worker(self.env, self.log(f"worker{self.workers_started}"), concurrency=8)
        self.processes["worker"] = worker
        return worker

    def kill_worker(self) -> int:
        """SIGKILL the worker's process group, as the kernel or a power cut would; return its process id."""
        worker = self.processes["worker"]
        worker.kill()
        return worker.pid

    def _web_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.web_url}/healthz", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def registrations(self) -> list[Any]:
        """Return what the identity provider was told."""
        with urllib.request.urlopen(f"{self.identity_url}/registrations", timeout=5) as answer:  # noqa: S310
            found = json.load(answer)
        return list(found)

    def count_mails(self) -> int:
        """Return how many e-mails the platform has sent; here they become files."""
        texts = [path.read_text() for path in (self.directory / "mail").glob("*")]
        return sum(line.startswith("Message-ID:") for text in texts for line in text.splitlines())

    def restart_dead(self) -> list[str]:
        """Start again what has ended by itself; return the names."""
        dead = [name for name, process in self.processes.items() if not process.alive]
        for name in dead:
            if name == "worker":
                self.start_worker()
            elif name == "beat":
                self.processes[name] = start_beat(self.env, self.log(name))
            elif name == "web":
                self.processes[name] = start_web(self.env, self.log(name), self.web_port)
        return dead

    def stop(self) -> None:
        """End everything that was started: our processes first, that none of them misses a server."""
        for process in self.processes.values():
            if process.alive:
                process.popen.terminate()
        for process in self.processes.values():
            process.stop(timeout=5)
        for server in self.servers:
            server.stop()
        self._lock.close()


def run_command(command: str, /, **options: Any) -> str:
    """Run one of manage.py's commands in this process and return what it printed."""
    from django.core.management import call_command

    output = io.StringIO()
    call_command(command, stdout=output, **options)
    return output.getvalue()
