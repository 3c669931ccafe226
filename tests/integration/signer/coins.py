"""A chain with tokens that anybody may move, and the event index over them, driven by hand: one turn at a time."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from signer import Contract, Event, compare_index, encode_constructor, on_event, watch_contract
from signer.events import catching_up, following, indexing, rewinding
from signer.events.holders import HOLDERS, ZERO_ADDRESS
from signer.models import EventIndex, EventLog, Holding, WatchedContract
from tests.integration.signer.stage import Crash, Stage
from tests.sample.models import Effect

COIN = json.loads((Path(__file__).parents[2] / "contracts" / "Coin.json").read_text())
TALLY = "tests.tally"
ANN, BEN, CAT = ("0x" + digit * 40 for digit in "123")
MINT = ZERO_ADDRESS
GAS = hex(2_000_000)

Move = tuple[str, str, int]


def key_of(event: Event) -> str:
    return f"{event.address}/{event.block_hash}/{event.log_index}"


class Trouble:
    """What the tally is told to choke on."""

    apply: str = ""  # an amount or a text
    undo: bool = False


@on_event(TALLY, abi=COIN["abi"])
def tally(events: Sequence[Event]) -> None:
    """Write a row for each event: what is handed over twice stands there twice."""
    for event in events:
        if Trouble.apply in map(str, event.arguments.values()):
            raise ValueError(f"cannot count {Trouble.apply}")
        Effect.objects.create(key=key_of(event), attempt=event.block_number)


@tally.undo
def untally(events: Sequence[Event]) -> None:
    if Trouble.undo:
        raise ValueError("cannot uncount")
    for event in events:
        Effect.objects.get(key=key_of(event)).delete()


class Coins:
    """The chain of a stage that mines when told, and tokens on it."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.rpc, self.chain = stage, stage.rpc, stage.chain
        self.sender = stage.anvil.accounts[0]
        Trouble.apply, Trouble.undo = "", False

    def deploy(self) -> str:
        data = encode_constructor(COIN["abi"], COIN["bytecode"])
        sent = self.rpc("eth_sendTransaction", {"from": self.sender, "data": data, "gas": GAS})
        self.rpc("evm_mine")
        return str(
            Contract(COIN["abi"]).at(self.rpc("eth_getTransactionReceipt", sent)["contractAddress"]).address
        )

    def call(self, token: str, function: str, *arguments: Any) -> dict[str, str]:
        data = Contract(COIN["abi"]).encode(function, *arguments)
        return {"from": self.sender, "to": token, "data": data, "gas": GAS}

    def moves(self, token: str, *moves: Move) -> dict[str, str]:
        return self.call(token, "move", list(moves))

    def send(self, *transactions: dict[str, str]) -> None:
        """Have them mined in one block, in this order."""
        for transaction in transactions:
            self.rpc("eth_sendTransaction", transaction)
        self.rpc("evm_mine")

    def move(self, token: str, *moves: Move) -> None:
        self.send(self.moves(token, *moves))

    def reorg(self, depth: int, *transactions: tuple[dict[str, str], int]) -> None:
        """Replace the newest blocks by as many others; transactions: each with the place of its block among them."""
        self.rpc("anvil_reorg", depth, [list(pair) for pair in transactions])

    def head(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def mine(self, blocks: int) -> None:
        self.rpc("anvil_mine", hex(blocks))

    # --- The index ----------------------------------------------------------------------------------------

    def watch(self, token: str, *, from_block: int = 0, handler: str = HOLDERS) -> WatchedContract:
        return watch_contract(31337, token, handler=handler, from_block=from_block)

    def turn(self) -> None:
        indexing.index(31337)

    @property
    def index(self) -> EventIndex:
        return EventIndex.objects.get()

    def holders(self, token: str) -> dict[str, int]:
        rows = Holding.objects.filter(token=token, balance_wei__gt=0)
        return dict(rows.values_list("holder", "balance_wei"))

    def require_equal(self) -> None:
        """The index is at the head and equals the chain, and each log that stands was handed over once."""
        index = self.index
        assert (index.front_number, index.last_error) == (self.head(), "")
        assert not WatchedContract.objects.filter(own_number__isnull=False).exists()
        assert compare_index(31337) == []
        tallied = EventLog.objects.filter(removed_at__isnull=True, contract__handler=TALLY)
        places = tallied.values_list("contract__address", "block_hash", "log_index")
        wanted = Counter(f"{address}/{block_hash}/{index}" for address, block_hash, index in places)
        assert Counter(Effect.objects.values_list("key", flat=True)) == wanted


def die_at(monkeypatch: pytest.MonkeyPatch, name: str, times: int = 1) -> list[int]:
    """Have the process "die" at the named crash point; its lease is given back at once. Returns what is left to strike."""
    left = [times]

    def crashpoint(reached: str) -> None:
        if reached == name and left[0] > 0:
            left[0] -= 1
            raise Crash(name)

    for module in (following, catching_up, rewinding):
        monkeypatch.setattr(module, "crashpoint", crashpoint)
    return left
