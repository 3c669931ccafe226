"""The front: the block up to which all contracts are read that don't come after on their own. It follows the head."""

from collections.abc import Sequence

from django.db import transaction

from signer.blocks import fetch, is_linked
from signer.errors import RpcError
from signer.events.reading import FoundLog, hashes_of
from signer.events.tenure import BLOCKS_AT_ONCE, Block, Tenure, shared_out
from signer.models import IndexedBlock, WatchedContract
from workflows import crashpoint

# So many blocks below the front are remembered even when they are final: a fork may be deeper than it should.
KEPT = 256

crashpoint.register("signer.index_read", "logs are read, nothing is recorded")
crashpoint.register(
    "signer.index_handing_over", "in the middle of the commit that records logs and hands them over"
)
crashpoint.register(
    "signer.index_handed_over", "logs are recorded and handed over, the next ones not yet read"
)


def follow(tenure: Tenure) -> bool:
    """Read the next blocks for the contracts at the front; return whether there were any. Raises RpcError."""
    if tenure.front[0] >= tenure.latest.number:
        return False
    contracts = tenure.readable(tenure.contracts.filter(own_number__isnull=True))
    first = tenure.front[0] + 1
    if contracts and first <= tenure.line:
        logs, end = tenure.logs_in_range(contracts, first, tenure.line)
        _move(tenure, contracts, logs, [end])
        return True
    # Where nobody is at the front, what is final needs no reading: those behind are read on their own.
    blocks = _next_blocks(tenure, first if contracts else max(first, tenure.line + 1))
    _move(tenure, contracts, tenure.logs_of_blocks(contracts, blocks), blocks)
    return True


def _next_blocks(tenure: Tenure, first: int) -> list[Block]:
    """Return the blocks from `first` on, linked to one another and to the front. Raises RpcError."""
    headers = fetch(tenure.rpc, first, min(tenure.latest.number, first + BLOCKS_AT_ONCE - 1))
    number, block_hash = tenure.front
    if first == number + 1:
        is_on_front = not block_hash or headers[0].parent_hash == block_hash
    else:
        is_on_front = number < 0 or hashes_of(tenure.rpc, [number])[number] == block_hash
    if not is_linked(headers) or not is_on_front:
        raise RpcError("the chain changed while its blocks were read; they are read again")
    return [(header.number, header.hash) for header in headers]


def _move(
    tenure: Tenure, contracts: Sequence[WatchedContract], logs: Sequence[FoundLog], blocks: Sequence[Block]
) -> None:
    """Commit what was read with the front's move to the last of the blocks."""
    crashpoint("signer.index_read")
    before, (number, block_hash) = tenure.front[0], blocks[-1]
    with transaction.atomic():
        tenure.guard(front_number=number, front_hash=block_hash)
        remember(tenure, blocks)
        for contract, its in shared_out(contracts, logs):
            tenure.given(contract, its, before)
        crashpoint("signer.index_handing_over")
    tenure.index.front_number, tenure.index.front_hash = number, block_hash
    crashpoint("signer.index_handed_over")


def remember(tenure: Tenure, blocks: Sequence[Block]) -> None:
    """Keep the blocks, and forget those that no fork is likely to reach. Within a guarded transaction."""
    IndexedBlock.objects.bulk_create(
        [IndexedBlock(index=tenure.index, number=number, hash=block_hash) for number, block_hash in blocks],
        update_conflicts=True,
        unique_fields=["index", "number"],
        update_fields=["hash"],
    )
    top, final = blocks[-1][0], tenure.index.final_number
    below = top - KEPT if final is None else min(final, top - KEPT)
    tenure.index.blocks.filter(number__lt=below).delete()
