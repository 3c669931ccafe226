"""The servers and processes of a run: a PostgreSQL that keeps what it has committed, a Redis that keeps nothing, two chains.

The workers reach each chain through a proxy of this process that loses some of its answers.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalp.local import processes, servers
from dalp.local.processes import Process, wait_until
from tests.integration.signer.lying_node import Chaos, LyingNode
from tests.services import TEST_KEK

if TYPE_CHECKING:
    from signer import Contract

PASSWORD = "chaos"
CONTRACTS = Path(__file__).parents[1] / "contracts"
COUNTER, COIN = (json.loads((CONTRACTS / f"{name}.json").read_text()) for name in ("Counter", "Coin"))
NOBODY = "0x" + "00" * 20
CHAIN_IDS = (31337, 31338)
BLOCK_SECONDS = 0.5
# More than the deepest reorganisation: what is final stays.
CONFIRMATIONS = 5
LEASE_SECONDS = 3


def environment(postgres_port: int, redis_port: int) -> dict[str, str]:
    """The settings of all processes, this one too."""
    return {
        "DJANGO_SETTINGS_MODULE": "dalp.settings",
        "DATABASE_URL": f"postgres://dalp:{PASSWORD}@{servers.HOST}:{postgres_port}/chaos",
        "REDIS_URL": f"redis://{servers.HOST}:{redis_port}/0",
        "SECRET_KEY": "a secret key for chaos and for nothing else than chaos",
        "KEYGUARD_KEK": TEST_KEK,
        "DEBUG": "true",
        "LOG_LEVEL": "INFO",
        "PYTHONUNBUFFERED": "1",
        "CELERY_SKIP_CHECKS": "true",
        "DALP_SIGNER_LEASE_SECONDS": str(LEASE_SECONDS),
        "DALP_SIGNER_RESEND_SECONDS": "4",
        "DALP_SIGNER_BUMP_AFTER_SECONDS": "6",
        "DALP_SIGNER_WATCH_SLICE_SECONDS": "1",
    }


@dataclass
class ChainUnderTest:
    """A chain, the proxy before it, and two contracts on it that show what was executed, and how often."""

    anvil: servers.AnvilServer
    proxy: LyingNode
    counter: "Contract"
    coin: "Contract"

    @property
    def chain_id(self) -> int:
        return self.anvil.chain_id

    def request(self, number: int) -> tuple[str, str]:
        """Return target and data of a request: every other one is counted, or mints one coin to an address of its own."""
        if number % 4 < 2:
            return str(self.counter.address), self.counter.encode("record", number)
        return str(self.coin.address), self.coin.encode("move", [(NOBODY, receiver(number), 1)])

    def executions(self, number: int) -> int:
        """Return how often a request was executed, as the chain says."""
        if number % 4 < 2:
            return self._ask(self.counter, "counts", number)
        return self._ask(self.coin, "balanceOf", receiver(number))

    def total(self) -> int:
        return self._ask(self.counter, "total") + self._ask(self.coin, "totalSupply")

    def _ask(self, contract: "Contract", function: str, *arguments: object) -> int:
        call = {"to": contract.address, "data": contract.encode(function, *arguments)}
        return int(self.anvil.rpc("eth_call", call, "latest"), 16)


def receiver(number: int) -> str:
    return f"0x{number + 2**80:040x}"


class Stage:
    """Everything that a run strikes at."""

    def __init__(self, directory: Path, workers: int, addresses: int) -> None:
        self.directory, self.wanted = directory, workers
        self.aliases = [f"sender-{number}" for number in range(addresses)]
        self.postgres = servers.start_postgres(servers.free_port(), password=PASSWORD)
        self.redis = servers.start_redis(servers.free_port())
        self.env = environment(self.postgres.port, self.redis.port)
        self.chains: list[ChainUnderTest] = []
        self.workers: list[Process] = []
        self.beat: Process | None = None
        self.logs: list[Path] = []

    def prepare(self, seed: int, dropped: float) -> None:
        """Set this process's Django up on a new database, with chains, contracts and keys."""
        import django
        from django.core.management import call_command

        os.environ.update({**self.env, "LOG_LEVEL": "ERROR"})
        self.postgres.create_database("chaos")
        django.setup()
        call_command("migrate", run_syncdb=True, verbosity=0)
        from keyguard import create_key

        addresses = [create_key(alias).address for alias in self.aliases]
        for chain_id in CHAIN_IDS:
            self.chains.append(self._start_chain(chain_id, addresses))
        for chain in self.chains:
            chain.proxy.chaos = Chaos(seed=seed + chain.chain_id, dropped=dropped)

    def _start_chain(self, chain_id: int, addresses: list[str]) -> ChainUnderTest:
        from signer import register_chain, watch_contract
        from signer.events.holders import HOLDERS

        anvil = servers.start_anvil(chain_id=chain_id, block_time=BLOCK_SECONDS)
        for address in addresses:
            anvil.fund(address)
        proxy = LyingNode(anvil.url)
        register_chain(
            chain_id,
            f"chaos {chain_id}",
            [proxy.url],
            confirmations=CONFIRMATIONS,
            block_time=BLOCK_SECONDS,
        )
        counter, coin = self._deploy(anvil, COUNTER), self._deploy(anvil, COIN)
        # So deep that no reorganisation reaches them.
        anvil.rpc("anvil_mine", "0x8")
        watch_contract(chain_id, str(coin.address), handler=HOLDERS, from_block=0)
        return ChainUnderTest(anvil, proxy, counter, coin)

    def _deploy(self, anvil: servers.AnvilServer, compiled: dict[str, Any]) -> "Contract":
        from signer import Contract, encode_constructor

        [deployer] = anvil.rpc("eth_accounts")[:1]
        code = encode_constructor(compiled["abi"], compiled["bytecode"])
        created = anvil.rpc("eth_sendTransaction", {"from": deployer, "data": code, "gas": hex(2_000_000)})
        receipt = wait_until(
            lambda: anvil.rpc("eth_getTransactionReceipt", created), 20, what="the contract is there"
        )
        return Contract(compiled["abi"]).at(receipt["contractAddress"])

    def _log(self, name: str) -> Path:
        self.logs.append(self.directory / f"{name}{len(self.logs)}.log")
        return self.logs[-1]

    def start_worker(self, fault: str = "") -> Process:
        worker = processes.start_worker(
            self.env, self._log("worker"), pool="threads", concurrency=4, fault=fault
        )
        self.workers.append(worker)
        return worker

    def start_beat(self) -> None:
        self.beat = processes.start_beat(self.env, self._log("beat"))

    def bury(self) -> list[Process]:
        """Forget the workers that are dead, and return them."""
        dead = [worker for worker in self.workers if not worker.alive]
        for worker in dead:
            worker.kill()
            self.workers.remove(worker)
        return dead

    def logged(self, pattern: str) -> int:
        """Return how many lines of the workers' logs match; colours are left out."""
        wanted, colours = re.compile(pattern), re.compile(r"\x1b\[\d+m")
        lines = (line for log in self.logs for line in log.open(errors="replace"))
        return sum(1 for line in lines if wanted.search(colours.sub("", line)))

    def stop(self) -> None:
        started: list[Any] = [*self.workers, self.beat]
        for process in started:
            if process is not None:
                process.kill()
        for chain in self.chains:
            chain.proxy.stop()
            chain.anvil.stop()
        self.redis.stop()
        self.postgres.stop()
