"""The servers and processes of a run, two chains among them.

The workers reach each chain through a proxy of this process that loses some of its answers.
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dalp.local import servers
from dalp.local.processes import wait_until
from tests.chaos.servers import Servers
from tests.integration.signer.lying_node import Chaos, LyingNode

if TYPE_CHECKING:
    from signer import Contract

CONTRACTS = Path(__file__).parents[1] / "contracts"
COUNTER, COIN = (json.loads((CONTRACTS / f"{name}.json").read_text()) for name in ("Counter", "Coin"))
NOBODY = "0x" + "00" * 20
CHAIN_IDS = (31337, 31338)
BLOCK_SECONDS = 0.5
# More than the deepest reorganisation: what is final stays.
CONFIRMATIONS = 5
LEASE_SECONDS = 3


SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "dalp.settings",
    "CELERY_SKIP_CHECKS": "true",
    "DALP_SIGNER_LEASE_SECONDS": str(LEASE_SECONDS),
    "DALP_SIGNER_RESEND_SECONDS": "4",
    "DALP_SIGNER_BUMP_AFTER_SECONDS": "6",
    "DALP_SIGNER_WATCH_SLICE_SECONDS": "1",
}


class Miner:
    """Mines a block now and then, but never while the chain is being reorganised.

    anvil's own clock does not wait for that: where both met, blocks were left that no number leads to any more.
    """

    def __init__(self, anvil: servers.AnvilServer) -> None:
        self.anvil, self.free = anvil, threading.Lock()
        self._over = threading.Event()
        anvil.rpc("evm_setAutomine", False)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(BLOCK_SECONDS):
            with self.free:
                self.anvil.rpc("evm_mine")

    def reorganise(self, depth: int) -> None:
        with self.free:
            self.anvil.rpc("anvil_reorg", depth, [])

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class ChainUnderTest:
    """A chain, the proxy before it, and two contracts on it that show what was executed, and how often."""

    anvil: servers.AnvilServer
    miner: Miner
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


class Stage(Servers):
    """Everything that a run strikes at."""

    def __init__(self, directory: Path, workers: int, addresses: int) -> None:
        super().__init__(directory, workers, SETTINGS)
        self.aliases = [f"sender-{number}" for number in range(addresses)]
        self.chains: list[ChainUnderTest] = []

    def prepare(self, seed: int, dropped: float) -> None:
        """Set this process's Django up on a new database, with chains, contracts and keys."""
        self.set_django_up(LOG_LEVEL="ERROR")
        from keyguard import create_key

        addresses = [create_key(alias).address for alias in self.aliases]
        for chain_id in CHAIN_IDS:
            self.chains.append(self._start_chain(chain_id, addresses))
        for chain in self.chains:
            chain.proxy.chaos = Chaos(seed=seed + chain.chain_id, dropped=dropped)

    def _start_chain(self, chain_id: int, addresses: list[str]) -> ChainUnderTest:
        from signer import register_chain, watch_contract
        from signer.events.holders import HOLDERS

        anvil = servers.start_anvil(chain_id=chain_id)
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
        return ChainUnderTest(anvil, Miner(anvil), proxy, counter, coin)

    def _deploy(self, anvil: servers.AnvilServer, compiled: dict[str, Any]) -> "Contract":
        from signer import Contract, encode_constructor

        [deployer] = anvil.rpc("eth_accounts")[:1]
        code = encode_constructor(compiled["abi"], compiled["bytecode"])
        created = anvil.rpc("eth_sendTransaction", {"from": deployer, "data": code, "gas": hex(2_000_000)})
        receipt = wait_until(
            lambda: anvil.rpc("eth_getTransactionReceipt", created), 20, what="the contract is there"
        )
        return Contract(compiled["abi"]).at(receipt["contractAddress"])

    def stop(self) -> None:
        super().stop()
        for chain in self.chains:
            chain.proxy.stop()
            chain.miner.stop()
            chain.anvil.stop()
