"""The index held against a fresh read of the chain: the same logs, and everybody holds what the token says.

For tests, for `doctor`, and for whoever doubts. Reads only. What it compares is the state as of the block up to which
the contract was read, so it is the same whatever happens meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from signer.abi import Contract
from signer.chains import connect
from signer.errors import RpcError
from signer.events.holders import HOLDERS
from signer.events.reading import hashes_of, read_what_fits
from signer.events.tenure import wanted_by
from signer.models import EventLog, Holding, WatchedContract
from signer.reader import Reader

ERC20 = Contract(
    [
        {
            "type": "function",
            "name": "totalSupply",
            "inputs": [],
            "outputs": [{"name": "", "type": "uint256"}],
        },
        {
            "type": "function",
            "name": "balanceOf",
            "inputs": [{"name": "holder", "type": "address"}],
            "outputs": [{"name": "", "type": "uint256"}],
        },
    ]
)

R = TypeVar("R")
TRIES = 10


@dataclass(frozen=True)
class Difference:
    """Something that the index has otherwise than the chain."""

    contract: str
    what: str
    indexed: str
    on_chain: str

    def __str__(self) -> str:
        return f"{self.contract}: {self.what}: the index has {self.indexed}, the chain {self.on_chain}"


def compare_index(chain_id: int) -> list[Difference]:
    """Return every difference between a chain's index and the chain: logs of all contracts, holders of all tokens.

    A contract that isn't fully read yet is compared as of where it is. Raises RpcError where the chain changes meanwhile,
    or has changed since it was read: have it read on, and look again.
    """
    contracts = (
        WatchedContract.objects.filter(index=chain_id).select_related("index").order_by("created_at", "pk")
    )
    differences = []
    for contract in contracts:
        differences += compare_logs(contract)
        if contract.handler == HOLDERS:
            differences += compare_holders(chain_id, contract.address)
    return differences


def compare_logs(contract: WatchedContract) -> list[Difference]:
    """Return the logs that the index has and the chain hasn't, and the other way round. Raises RpcError."""
    rows = EventLog.objects.filter(contract=contract, removed_at__isnull=True).values_list(
        "block_number", "log_index", "block_hash", "topics", "data"
    )
    standing, found = _as_of(contract, lambda: list(rows))
    kept = {
        (block, index, block_hash, tuple(topics), data) for block, index, block_hash, topics, data in found
    }
    rpc, shown, first = connect(contract.index_id), set(), contract.from_block
    while first <= standing.number:
        blocks = contract.index.range_blocks
        known = [(standing.front, standing.front_hash)]
        logs, end = read_what_fits(rpc, wanted_by([contract]), first, standing.number, known, blocks)
        shown |= {(log.block_number, log.log_index, log.block_hash, log.topics, log.data) for log in logs}
        first = end.number + 1
    differences = []
    for each in sorted(kept ^ shown):
        sides = ("a log", "none") if each in kept else ("none", "a log")
        differences.append(Difference(str(contract), f"block {each[0]}, log {each[1]}", *sides))
    return differences


def compare_holders(chain_id: int, token: str, *, most: int | None = None) -> list[Difference]:
    """Return where the holders of a token differ from what the token says, as of the block that it was read to.

    most: look at so many holders only, those that changed last; the sum over all of them is compared with the token's
    supply in any case, so a holder that the index doesn't know is noticed. Raises RpcError.
    """
    contract = WatchedContract.objects.get(index=chain_id, address=token, handler=HOLDERS)
    rows = Holding.objects.filter(chain=chain_id, token=token).order_by("-updated_block", "pk")
    standing, found = _as_of(contract, lambda: list(rows.values_list("holder", "balance_wei")))
    held = dict(found)
    if standing.number < contract.from_block:
        return _differing(contract, [("holders", len(held), 0)])
    holders = list(held)[:most]
    calls = [ERC20.encode("totalSupply"), *(ERC20.encode("balanceOf", holder) for holder in holders)]
    answers = Reader(chain_id).call_many([(token, call) for call in calls], block=standing.number)
    # Nothing is answered where no contract is, on this fork: nobody holds anything of it.
    supply, *balances = [int.from_bytes(answer) for answer in answers]
    if hashes_of(connect(chain_id), [standing.front])[standing.front] != standing.front_hash:
        raise RpcError("the chain has changed since it was indexed; have it read on, and look again")
    pairs = [(holder, held[holder], balance) for holder, balance in zip(holders, balances, strict=True)]
    return _differing(contract, [("total supply", sum(held.values()), supply), *pairs])


def _differing(contract: WatchedContract, pairs: Sequence[tuple[str, int, int]]) -> list[Difference]:
    return [
        Difference(str(contract), what, str(indexed), str(on_chain))
        for what, indexed, on_chain in pairs
        if indexed != on_chain
    ]


@dataclass(frozen=True)
class _Standing:
    """The block up to which a contract is read, and the front, which the node must have."""

    number: int
    front: int
    front_hash: str

    @classmethod
    def of(cls, contract: WatchedContract) -> "_Standing":
        now = WatchedContract.objects.select_related("index").get(pk=contract.pk)
        if now.rewinding or now.number is None or now.index.front_number is None:
            raise RpcError(f"{contract} is being taken back, or not read yet; look again later")
        return cls(now.number, now.index.front_number, now.index.front_hash)


def _as_of(contract: WatchedContract, read: Callable[[], R]) -> tuple[_Standing, R]:
    """Return rows of the contract, and where it stood when they were so. Raises RpcError when it is never still."""
    for _ in range(TRIES):
        before = _Standing.of(contract)
        found = read()
        if _Standing.of(contract) == before:
            return before, found
    raise RpcError(f"{contract} is read on all the time; look again later")
