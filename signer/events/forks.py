"""Where the chain that was read and the node's chain part.

Blocks that could still be replaced are kept, so an ordinary fork is found among them. One that is deeper is found among
the logs: each of them names its block, and none is ever deleted.
"""

from bisect import bisect_left

from django.db.models import QuerySet

from signer.events.reading import hashes_of
from signer.models import EventIndex, EventLog
from signer.rpc import Rpc

BLOCKS_AT_ONCE = 64


def newest_known(index: EventIndex, head: int) -> tuple[int, str] | None:
    """Return number and hash of the newest block that was read and that a node with this head should have."""
    return index.blocks.filter(number__lte=head).order_by("-number").values_list("number", "hash").first()


def fork_point(index: EventIndex, rpc: Rpc, head: int) -> tuple[int, str] | None:
    """Return number and hash of the highest block that was read and is still on the node's chain; None without one.

    head: the node's. Raises RpcError.
    """
    kept = index.blocks.filter(number__lte=head).order_by("-number").values_list("number", "hash")
    above = head + 1
    while blocks := list(kept.filter(number__lt=above)[:BLOCKS_AT_ONCE]):
        above = blocks[-1][0]
        hashes = hashes_of(rpc, [number for number, _ in blocks])
        for number, block_hash in blocks:
            if hashes[number] == block_hash:
                return number, block_hash
    return _among_logs(index, rpc, above)


def _among_logs(index: EventIndex, rpc: Rpc, above: int) -> tuple[int, str] | None:
    """Search the logs below a block: those of the common past agree with the node, and all that are newer don't."""
    rows = live_logs(index).filter(block_number__lt=above).order_by("-block_number")
    blocks = rows.values_list("block_number", "block_hash")

    def agrees(place: int) -> bool:
        number, block_hash = blocks[place]
        return hashes_of(rpc, [number])[number] == block_hash

    count = rows.count()
    place = bisect_left(range(count), True, key=agrees)
    return blocks[place] if place < count else None


def live_logs(index: EventIndex) -> QuerySet[EventLog]:
    return EventLog.objects.filter(contract__index=index, removed_at__isnull=True)
