"""Which transaction used a nonce: the block that did is searched for by the counts of the address, and read.

A receipt that a node does not give proves little: after a fork back to blocks it had dropped, EthereumJS holds a
transaction and denies its receipt, and others leave old receipts out of their index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from signer.errors import RpcError, RpcNodeError, RpcTransportError
from signer.flights import attempts_of
from signer.models import Transaction
from signer.rpc import Rpc, quantity

# Nodes keep the state of so many blocks; what an older one has used is not found.
DEPTH = 128


@dataclass
class Span:
    """Between which blocks the nonce was used: after `low`, at `high` at the latest."""

    row: Transaction
    address: str
    low: int
    high: int

    @property
    def middle(self) -> int:
        return (self.low + self.high) // 2

    @property
    def is_open(self) -> bool:
        return self.high - self.low > 1

    def is_used(self, count: int) -> bool:
        return self.row.nonce is not None and count > self.row.nonce

    def narrow(self, count: int) -> None:
        """Take in the count of the address at the middle."""
        if self.is_used(count):
            self.high = self.middle
        else:
            self.low = self.middle


def held_by_a_block(
    rpc: Rpc, rows: Sequence[Transaction], addresses: Mapping[UUID, str], at: int
) -> dict[UUID, int]:
    """Return those of which a block holds an attempt, whatever is said of receipts, with its number.

    rows: their nonces are used in block `at`. addresses: by lane. A row whose block is not found is left out.
    Raises RpcError.
    """
    bottom = max(0, at - DEPTH)
    spans = [Span(row, addresses[row.lane_id], bottom, at) for row in rows]
    begun = _counts(rpc, spans, [bottom] * len(spans))
    found = [
        span
        for span, count in zip(spans, begun, strict=True)
        if count is not None and not span.is_used(count)
    ]
    while wanted := [span for span in found if span.is_open]:
        counts = _counts(rpc, wanted, [span.middle for span in wanted])
        for span, count in zip(wanted, counts, strict=True):
            if count is None:
                found.remove(span)
            else:
                span.narrow(count)
    return _of_ours(rpc, found)


def _counts(rpc: Rpc, spans: Sequence[Span], numbers: Sequence[int]) -> list[int | None]:
    """Return the counts at these blocks; None where the node has no such state any more. Raises RpcError."""
    answers = rpc.agreed(
        [
            ("eth_getTransactionCount", [span.address, hex(number)])
            for span, number in zip(spans, numbers, strict=True)
        ]
    )
    return [_count(answer) for answer in answers]


def _count(answer: Any) -> int | None:
    if isinstance(answer, RpcNodeError):
        return None
    if isinstance(answer, RpcError):
        raise answer
    return quantity(answer)


def _of_ours(rpc: Rpc, spans: Sequence[Span]) -> dict[UUID, int]:
    if not spans:
        return {}
    ours: dict[UUID, set[str]] = {span.row.pk: set() for span in spans}
    for attempt in attempts_of([span.row for span in spans]):
        ours[attempt.transaction_id].add(attempt.hash)
    numbers = sorted({span.high for span in spans})
    blocks = rpc.agreed_or_raise([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
    held = {number: _hashes(block) for number, block in zip(numbers, blocks, strict=True)}
    return {span.row.pk: span.high for span in spans if ours[span.row.pk] & held[span.high]}


def _hashes(block: Any) -> set[str]:
    try:
        return {each.lower() for each in block["transactions"]}
    except (TypeError, KeyError, AttributeError):
        raise RpcTransportError("the node sent something that is not a block") from None
