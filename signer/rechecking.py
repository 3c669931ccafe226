"""A slow second look at what was settled: a reorganisation may be deeper than a chain's confirmations.

Changes no outcome. What was told to workflows and people cannot be taken back by a program: a person must look.
"""

from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now

from signer.errors import RpcError
from signer.incidents import open_incident
from signer.models import Chain, Transaction
from signer.rpc import Rpc
from signer.states import FINAL, IncidentKind
from workflows import Claim, guard

log = structlog.get_logger()

BLOCKS = 64
# So long after its last settled transaction a chain on which nothing is under way is looked at.
IDLE = timedelta(days=1)


def due_chains() -> QuerySet[Chain]:
    """Return the chains of which `is_due` says so, with something settled lately that would be compared."""
    ago = Now() - timedelta(seconds=settings.SIGNER["recheck_seconds"])
    # One row of the index of the settled ones, from its end: asked every second.
    newest = _compared(OuterRef("pk"), OuterRef("head_number")).order_by("-block_number")
    due = Chain.objects.filter(Q(rechecked_at__isnull=True) | Q(rechecked_at__lte=ago))
    settled_at = Subquery(newest.values("settled_at")[:1])
    return due.annotate(last_settled_at=settled_at).filter(last_settled_at__gt=Now() - IDLE)


def _compared(chain: Any, head: Any) -> "QuerySet[Transaction]":
    lowest = Coalesce(head, 0) - BLOCKS
    return Transaction.objects.filter(chain=chain, state__in=FINAL, block_number__gt=lowest)


def is_due(held: Claim[Chain]) -> bool:
    last = held.row.rechecked_at
    return last is None or held.now() - last >= timedelta(seconds=settings.SIGNER["recheck_seconds"])


def recheck(held: Claim[Chain], rpc: Rpc) -> None:
    """Compare the blocks of what was settled lately with the chain's. Raises RpcError."""
    settled = _compared(held.row, held.row.head_number)
    blocks = list(settled.order_by().values_list("block_number", "block_hash").distinct())
    answers = rpc.agreed([("eth_getBlockByNumber", [hex(number or 0), False]) for number, _ in blocks])
    gone = []
    for (_, block_hash), answer in zip(blocks, answers, strict=True):
        if isinstance(answer, RpcError):
            raise answer
        # No block there: a node that lags. Another block there: the one we knew is gone.
        if answer is not None and str(answer["hash"]).lower() != block_hash:
            gone.append(block_hash)
    with transaction.atomic():
        guard(held, rechecked_at=held.now())
        if gone:
            tell_of_deep_reorg(held.row, gone)
    held.row.rechecked_at = held.now()


def tell_of_deep_reorg(chain: Chain, orphans: list[str]) -> None:
    """Open an incident about settled transactions of orphaned blocks, if there are any. Joins the caller's transaction."""
    rows = Transaction.objects.filter(chain=chain, block_hash__in=orphans, state__in=FINAL)
    rows = rows.filter(block_number__isnull=False)  # says that the index of the settled ones has them
    for number, block_hash in (
        rows.order_by("block_number").values_list("block_number", "block_hash").distinct()
    ):
        ids = [str(pk) for pk in rows.filter(block_hash=block_hash).values_list("pk", flat=True)[:1000]]
        text = (
            f"Block {number} of {chain} was dropped after {len(ids)} transactions in it had been reported as final. "
            "Compare them with the chain: they may have been executed in another block, otherwise, or not at all."
        )
        open_incident(
            IncidentKind.DEEP_REORG,
            f"{chain.pk}:{block_hash}",
            text,
            chain=chain,
            transactions=ids,
            block=number,
        )
