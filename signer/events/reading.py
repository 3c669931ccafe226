"""Logs as the nodes have them, believed only where all agree on them and they fit blocks that were shown.

A holder table, and what handlers pay out by it, hangs on them: with several nodes, one that leaves a log out, makes one
up or changes an amount holds the index up, and nothing is taken from it.

Blocks that may still be replaced are asked for one by one, by their hash (EIP-234): such an answer can't belong to
another fork, and a node that doesn't have the block yet must say so instead of "no logs". What is final is asked for in
ranges; then each block that a log names, the end of the range and the blocks known before must be the node's own
afterwards. Where something doesn't fit, nothing may be concluded: RpcError, look again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from signer.blocks import Header
from signer.errors import RpcError, RpcNodeError
from signer.events.ranges import smaller
from signer.receipts import HASH, Quantity
from signer.requests import Address
from signer.rpc import Call, Rpc

# Providers limit how many addresses a filter may hold; 500 is below what any of the large ones refuses.
ADDRESSES_AT_ONCE = 500

Hash = Annotated[str, StringConstraints(pattern=HASH, to_lower=True)]


class _WholeLog(BaseModel):
    """What must be there, and of which kind, before a node's answer is taken for a log of a block."""

    address: Address
    topics: list[Hash]
    data: Annotated[str, StringConstraints(pattern=r"^0x([0-9a-fA-F]{2})*$", to_lower=True)]
    blockNumber: Quantity  # noqa: N815
    blockHash: Hash  # noqa: N815
    transactionHash: Hash  # noqa: N815
    logIndex: Quantity  # noqa: N815
    removed: bool = False


_LOGS = TypeAdapter(list[_WholeLog])


@dataclass(frozen=True)
class FoundLog:
    """A log with its place on the chain."""

    address: str
    topics: tuple[str, ...]
    data: str
    block_number: int
    block_hash: str
    log_index: int
    transaction_hash: str


@dataclass(frozen=True)
class Wanted:
    """Which logs to ask for: of these contracts, with one of these first topics."""

    addresses: Sequence[str]
    topics: Sequence[str]

    def calls(self, **where: str) -> list[Call]:
        """Return the calls that ask for them, in `fromBlock` and `toBlock` or in `blockHash`."""
        return [
            (
                "eth_getLogs",
                [
                    {
                        **where,
                        "address": list(self.addresses[n : n + ADDRESSES_AT_ONCE]),
                        "topics": [list(self.topics)],
                    }
                ],
            )
            for n in range(0, len(self.addresses), ADDRESSES_AT_ONCE)
        ]


def read_blocks(rpc: Rpc, wanted: Wanted, blocks: Sequence[tuple[int, str]]) -> list[FoundLog]:
    """Return the logs of these blocks, given by number and hash, in the order of the chain. Raises RpcError."""
    calls = [call for _, block_hash in blocks for call in wanted.calls(blockHash=block_hash)]
    if not calls:
        return []
    # Some nodes say "no logs" of a block that they don't have: the last one, which has the others below it, is shown.
    *answers, shown = rpc.agreed_or_raise([*calls, ("eth_getBlockByHash", [blocks[-1][1], False])])
    if Header.of(shown).hash != blocks[-1][1]:
        raise RpcError("the node answered with another block than the one asked for")
    logs = _in_order(answers)
    if any((log.block_number, log.block_hash) not in blocks for log in logs):
        raise RpcError("the node gave logs of other blocks than those asked for")
    return logs


def read_range(
    rpc: Rpc, wanted: Wanted, first: int, last: int, known: Iterable[tuple[int, str]]
) -> tuple[list[FoundLog], Header]:
    """Return the logs from block `first` to `last`, and the header of `last`. Raises RpcError.

    known: blocks by number and hash that the node must have, before the range and above it.
    """
    calls = wanted.calls(fromBlock=hex(first), toBlock=hex(last))
    *answers, shown = rpc.agreed_or_raise([*calls, ("eth_getBlockByNumber", [hex(last), False])])
    end, logs = Header.of(shown), _in_order(answers)
    if any(not first <= log.block_number <= last for log in logs):
        raise RpcError("the node gave logs of other blocks than those asked for")
    _require(rpc, {*known, (end.number, end.hash), *((log.block_number, log.block_hash) for log in logs)})
    return logs, end


def read_what_fits(
    rpc: Rpc, wanted: Wanted, first: int, last: int, known: Iterable[tuple[int, str]], blocks: int
) -> tuple[list[FoundLog], Header]:
    """Return the logs from block `first` on, and the header of the block up to which these are all, `last` or below.

    blocks: how many to ask for at first. Asks for half as many as often as the node refuses, down to one.
    """
    while True:
        end = min(last, first + blocks - 1)
        try:
            return read_range(rpc, wanted, first, end, known)
        except RpcNodeError:
            if end == first:
                raise
            blocks = smaller(end - first + 1)


def _require(rpc: Rpc, blocks: set[tuple[int, str]]) -> None:
    """Raise RpcError unless the node has all these blocks on its chain."""
    hashes = hashes_of(rpc, sorted({number for number, _ in blocks}))
    if any(hashes[number] != block_hash for number, block_hash in blocks):
        raise RpcError(
            "the chain changed while its logs were read, or the node lags behind; they are read again"
        )


def _in_order(answers: Sequence[Any]) -> list[FoundLog]:
    logs = sorted(
        (_found(log) for answer in answers for log in _whole(answer)),
        key=lambda log: (log.block_number, log.log_index),
    )
    for one, other in pairwise(logs):
        if (one.block_number, one.log_index) == (other.block_number, other.log_index):
            raise RpcError("the node gave two logs for one place in a block")
    return logs


def _whole(answer: Any) -> list[_WholeLog]:
    try:
        logs = _LOGS.validate_python(answer)
    except ValidationError:
        raise RpcError("the node sent something that is not a list of logs") from None
    if any(log.removed for log in logs):
        raise RpcError("the node gave logs of a block that it has put aside")
    return logs


def _found(log: _WholeLog) -> FoundLog:
    return FoundLog(
        address=log.address,
        topics=tuple(log.topics),
        data=log.data,
        block_number=int(log.blockNumber, 16),
        block_hash=log.blockHash,
        log_index=int(log.logIndex, 16),
        transaction_hash=log.transactionHash,
    )


def hashes_of(rpc: Rpc, numbers: Iterable[int]) -> dict[int, str]:
    """Return the hashes that the node's blocks of these numbers have. Raises RpcError where it lacks one."""
    wanted = list(numbers)
    raws = rpc.agreed_or_raise([("eth_getBlockByNumber", [hex(number), False]) for number in wanted])
    return {number: Header.of(raw).hash for number, raw in zip(wanted, raws, strict=True)}
