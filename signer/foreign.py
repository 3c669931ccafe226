"""Transactions that are not ours and used a nonce of ours: another wallet, a second installation, a restored backup.

Nothing is concluded from one node's silence. Proved it is when the chain has used the nonce at a depth that counts as
final, and the nodes agree, without a single error among their answers, that none of our attempts has a receipt. Then the
block that used the nonce is read, where it is young enough to be found: it may hold an attempt of ours whose receipt the
node only denies. Else our bytes can never be executed, and only then may the transaction be given another nonce.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog
from django.db import transaction
from django.db.models import Max
from django.db.models.functions import Now

from signer import acts, used_nonces
from signer.flights import attempts_of
from signer.incidents import open_incident
from signer.models import Attempt, Chain, Lane, Transaction
from signer.ringing import ring_lane
from signer.rpc import Rpc, quantity
from signer.states import AttemptState, IncidentKind, SubState, TransactionState
from workflows import Claim, guard

if TYPE_CHECKING:
    from uuid import UUID

log = structlog.get_logger()

# However few confirmations a chain asks for: a nonce is called foreign at this depth or deeper.
DEPTH = 16


def look(held: Claim[Chain], rpc: Rpc, absent: Sequence[Transaction], final: int) -> None:
    """Mark those of which it is proved. The lane's owner then decides what becomes of them.

    absent: transactions whose nonce a block holds and none of whose attempts has a receipt. Raises RpcError.
    """
    at = min(final, (held.row.head_number or 0) - DEPTH)
    fresh = [row for row in absent if row.sub_state != SubState.NONCE_FOREIGN]
    foreign, denied = _examine(rpc, fresh, at) if at >= 0 and fresh else ([], {})
    _tell_of_denied(held.row, denied)
    if not foreign:
        return
    with transaction.atomic():
        guard(held)
        rows = Transaction.objects.filter(
            pk__in=[row.pk for row in foreign], state=TransactionState.BROADCASTING
        )
        rows.update(sub_state=SubState.NONCE_FOREIGN, look_at=Now())
    log.error("nonce_used_by_stranger", transactions=[str(row.pk) for row in foreign])
    for lane_id in {row.lane_id for row in foreign}:
        ring_lane(lane_id)


def proved(rpc: Rpc, rows: Sequence[Transaction], at: int) -> list[Transaction]:
    """Return those whose nonce a stranger's transaction has used, in block `at` or below. Raises RpcError."""
    return _examine(rpc, rows, at)[0]


def _examine(
    rpc: Rpc, rows: Sequence[Transaction], at: int
) -> "tuple[list[Transaction], dict[Transaction, int]]":
    """Return what a stranger's transaction took the nonce of, and what the given block holds without a receipt.

    Raises RpcError.
    """
    lanes = dict(Lane.objects.filter(pk__in={row.lane_id for row in rows}).values_list("pk", "address"))
    counts = rpc.agreed_or_raise(
        [("eth_getTransactionCount", [address, hex(at)]) for address in lanes.values()]
    )
    used = {pk: quantity(count) for pk, count in zip(lanes, counts, strict=True)}
    taken = [row for row in rows if row.nonce is not None and row.nonce < used[row.lane_id]]
    attempts = list(attempts_of(taken))
    receipts = rpc.agreed_or_raise([("eth_getTransactionReceipt", [attempt.hash]) for attempt in attempts])
    ours = {
        attempt.transaction_id
        for attempt, receipt in zip(attempts, receipts, strict=True)
        if receipt is not None
    }
    bare = [row for row in taken if row.pk not in ours]
    blocks = used_nonces.held_by_a_block(rpc, bare, lanes, at)
    return [row for row in bare if row.pk not in blocks], {
        row: blocks[row.pk] for row in bare if row.pk in blocks
    }


def _tell_of_denied(chain: Chain, denied: "dict[Transaction, int]") -> None:
    for row, number in denied.items():
        text = (
            f"Block {number} of {chain} holds transaction {row.pk}, and the node says that it has no receipt of it, so it "
            "can't be settled. Let the node index its receipts anew, or ask another one."
        )
        open_incident(
            IncidentKind.NODE_ANOMALY, f"receipt of {row.pk}", text, chain=chain, transaction=str(row.pk)
        )


def requeue(held: Claim[Lane], ids: "Sequence[UUID]", actor: str, reason: str) -> int:
    """Put proved ones back to wait for another nonce; their attempts are void from the same commit on.

    Returns how many. Within the lane owner's guarded transaction.
    """
    rows = Transaction.objects.filter(
        pk__in=ids, state=TransactionState.BROADCASTING, sub_state=SubState.NONCE_FOREIGN
    )
    found = list(rows.annotate(last_seq=Max("attempts__seq")).order_by("nonce"))
    for row in found:
        # The nonce can be taken from the row only when no attempt of it is left: see the triggers.
        Attempt.objects.filter(transaction=row).update(state=AttemptState.VOID)
        Transaction.objects.filter(pk=row.pk).update(
            state=TransactionState.QUEUED,
            sub_state="",
            nonce=None,
            noop_outcome="",
            error=None,
            speed_up=None,
            reserved_wei=0,
            reserved_gas=0,
            l1_fee_wei=None,
            broadcast_at=None,
            look_at=None,
            next_seq=row.last_seq + 1,
        )
        acts.note(actor, "requeue", reason, lane=held.row, transaction=row, details={"nonce": row.nonce})
    if found:
        # A node that lags must not make a gap of what a stranger has used.
        first = max(held.row.first_nonce or 0, *((row.nonce or 0) + 1 for row in found))
        guard(held, first_nonce=first, next_nonce=max(held.row.next_nonce or 0, first))
        held.row.first_nonce, held.row.next_nonce = first, max(held.row.next_nonce or 0, first)
    return len(found)
