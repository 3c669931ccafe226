"""Which transactions in flight may have been mined, and the receipts that say so: few questions, whatever is in flight.

A lane's count of mined nonces tells which of its transactions a block holds. Where many are in few blocks, a block's
receipts are asked for as a whole.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db.models import Min, Q, QuerySet

from signer import runway
from signer.errors import RpcError, RpcNodeError
from signer.flights import attempts_of
from signer.models import Attempt, Transaction
from signer.rpc import Rpc, quantity
from signer.states import IN_FLIGHT, TransactionState

# How many are looked at in one go; what is left is found by the next look, at once.
LIMIT = 1000
# A block's receipts are asked for as a whole when this many of one's own are expected in it.
WORTH_A_BLOCK = 10
BLOCKS_MAX = 16
# Of a transaction. A thousand whole rows would take longer to make than the chain to ask.
NEEDED = (
    "lane_id", "nonce", "state", "sub_state", "noop_outcome", "block_number", "block_hash", "correlation_id",
)  # fmt: skip
ATTEMPT_NEEDED = ("transaction_id", "seq", "hash", "purpose", *runway.PRICED)


@dataclass(frozen=True)
class Candidate:
    """A transaction in flight that may have been mined."""

    transaction: Transaction
    attempts: Sequence[Attempt]


def in_flight(chain_id: int) -> "QuerySet[Transaction]":
    return Transaction.objects.filter(chain_id=chain_id, state__in=IN_FLIGHT)


def find(rpc: Rpc, chain_id: int, canonical: Mapping[int, str], final: int) -> list[Candidate]:
    """Return what may have been mined since the last look: a used nonce, a block that is final or gone.

    canonical: block hash by number. final: the highest block that counts as final.
    """
    confirming = Q(state=TransactionState.CONFIRMING) & (
        Q(block_number__lte=final) | Q(block_hash__in=_gone(chain_id, canonical))
    )
    wanted = confirming | _used(rpc, chain_id)
    rows = list(in_flight(chain_id).filter(wanted).only(*NEEDED).order_by("nonce", "id")[:LIMIT])
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for attempt in attempts_of(rows).only(*ATTEMPT_NEEDED):
        attempts[attempt.transaction_id].append(attempt)
    return [Candidate(row, attempts[row.pk]) for row in rows]


def _gone(chain_id: int, canonical: Mapping[int, str]) -> list[str]:
    """Return the blocks that hold something of ours and are not on the chain any more."""
    confirming = in_flight(chain_id).filter(state=TransactionState.CONFIRMING)
    held = confirming.order_by().values_list("block_number", "block_hash").distinct()
    return [given for number, given in held if canonical.get(number or 0, given) != given]


def _used(rpc: Rpc, chain_id: int) -> Q:
    """Return the condition of having a nonce that the chain has used, one of whatever lane."""
    still_open = in_flight(chain_id).filter(state=TransactionState.BROADCASTING).order_by()
    lanes = list(
        still_open.values("lane_id", "lane__address").annotate(lowest=Min("nonce")).order_by("lane_id")
    )
    counts = rpc.agreed([("eth_getTransactionCount", [lane["lane__address"], "latest"]) for lane in lanes])
    used = Q(pk=None)
    for lane, answer in zip(lanes, counts, strict=True):
        # A count that the node does not give says nothing about the lane.
        if not isinstance(answer, RpcError) and quantity(answer) > lane["lowest"]:
            used |= Q(lane=lane["lane_id"], nonce__lt=quantity(answer), state=TransactionState.BROADCASTING)
    return used


class Receipts:
    """Reads receipts of a chain for one watcher: whole blocks at a time where that is less, and each of these once."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self._blocks_are_given = True  # until the node says that it does not know the method
        # By number, for as long as the chain has this block: a full one takes several looks, and much of a node's time.
        self._blocks: dict[int, _Block] = {}

    def of(
        self, candidates: Sequence[Candidate], fresh_blocks: Iterable[int], canonical: Mapping[int, str]
    ) -> list[list[Any]]:
        """Return the answers for all attempts of each candidate, RpcErrors among them.

        fresh_blocks: those in which what was newly mined must be. canonical: block hash by number.
        """
        found = self._by_block(candidates, list(fresh_blocks), canonical)
        missing = [
            attempt.hash
            for candidate in candidates
            if not any(attempt.hash in found for attempt in candidate.attempts)
            for attempt in candidate.attempts
        ]
        answers = self.rpc.agreed([("eth_getTransactionReceipt", [each]) for each in missing])
        known = found | dict(zip(missing, answers, strict=True))
        return [[known.get(attempt.hash) for attempt in candidate.attempts] for candidate in candidates]

    def _by_block(
        self, candidates: Sequence[Candidate], fresh: list[int], canonical: Mapping[int, str]
    ) -> dict[str, Any]:
        blocks = Counter(candidate.transaction.block_number for candidate in candidates)
        newly = blocks.pop(None, 0)
        wanted = {number for number, count in blocks.items() if number is not None and count >= WORTH_A_BLOCK}
        if newly >= WORTH_A_BLOCK * max(1, len(fresh)):
            wanted |= set(fresh)
        wanted = set(sorted(wanted)[:BLOCKS_MAX])
        self._blocks = {
            number: block
            for number, block in self._blocks.items()
            if number in wanted.union(fresh) and block.hash == canonical.get(number)
        }
        self._read_blocks(sorted(wanted - self._blocks.keys()))
        return {key: receipt for block in self._blocks.values() for key, receipt in block.receipts.items()}

    def _read_blocks(self, numbers: Sequence[int]) -> None:
        if not numbers or not self._blocks_are_given:
            return
        # Where the nodes do not agree on a block, each of one's own in it is asked about by itself.
        answers = self.rpc.agreed([("eth_getBlockReceipts", [hex(number)]) for number in numbers])
        if any(isinstance(answer, RpcNodeError) for answer in answers):
            self._blocks_are_given = False
        for number, answer in zip(numbers, answers, strict=True):
            if isinstance(answer, list):
                self._blocks[number] = _Block.of(answer)


@dataclass(frozen=True)
class _Block:
    """What a node gave as the receipts of a block. Each is judged by itself: nothing here is believed for being together."""

    hash: str
    receipts: dict[str, Any]

    @classmethod
    def of(cls, answer: Sequence[Any]) -> "_Block":
        receipts = [receipt for receipt in answer if isinstance(receipt, dict)]
        block_hash = str(receipts[0].get("blockHash")).lower() if receipts else ""
        return cls(block_hash, {str(receipt.get("transactionHash")).lower(): receipt for receipt in receipts})
