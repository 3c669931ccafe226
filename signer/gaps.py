"""Nonces below what is in flight that the chain has not used: nothing above them can be mined until they are.

One that is a settled transaction's is in a block that the chain has dropped, deeper than was waited for: its own bytes
are sent again. One that is nobody's is used up by a filler, a transaction that does nothing. One that others had used
and that the chain has not any more is left to them for a while, and then filled, too.
"""

from collections.abc import Sequence
from datetime import timedelta

import structlog
from django.db import transaction

from signer import authorities, foreign, noops, signing
from signer.errors import RpcError
from signer.fees import Fees
from signer.flights import Sky
from signer.market import Market
from signer.models import Attempt, Lane, Transaction
from signer.rpc import Call, quantity
from signer.states import FINAL, TransactionKind, TransactionState
from signer.work import Work
from workflows import guard

log = structlog.get_logger()

SCOPE = "signer.filler"
# So many are filled in one go.
LIMIT = 50


def fill(work: Work, sky: Sky, market: Market) -> list[Attempt]:
    """Return what must be sent so that the chain can go on from its next nonce; fillers are committed first."""
    _reach_down(work, sky, market)
    span = _span(work.lane, market)
    if len(span) <= sky.open_count:
        return []
    held_by = {row.nonce: row for row in Transaction.objects.filter(lane=work.lane, nonce__in=span)}
    promised = authorities.promised_nonces(work.lane)
    dropped = [row for row in held_by.values() if row.state in FINAL and row.winner_id]
    again = list(Attempt.objects.filter(pk__in=[row.winner_id for row in dropped]).order_by("nonce"))
    if again:
        log.error("settled_transactions_sent_again", transactions=[str(row.pk) for row in dropped])
    return [
        *again,
        *_fillers(
            work, [nonce for nonce in span if nonce not in held_by and nonce not in promised][:LIMIT], market
        ),
    ]


def _reach_down(work: Work, sky: Sky, market: Market) -> None:
    """Lower the lane's first nonce where the chain has lost for good what others had used below it.

    A fork may drop a stranger's transaction after the lane went on above it, and all of ours would wait for ever.
    """
    first, head = work.lane.first_nonce, sky.head_nonce
    if first is None or head is None or market.mined_nonces >= first or head < first:
        return
    used = _used_by_now(work, head)
    if used is None or used >= first:
        return
    bottom = max(used, market.mined_nonces)
    with transaction.atomic():
        guard(work.held, first_nonce=bottom)
    log.error("foreign_nonces_dropped", lane=str(work.lane.pk), nonces=[bottom, first - 1])
    work.lane.first_nonce = bottom


def _used_by_now(work: Work, head: int) -> int | None:
    """Return how many nonces the chain has used, or None while what a fork has dropped may soon be mined again.

    Soon is as long as so many blocks take as prove a nonce to be a stranger's, counted from when our head was sent: a
    filler at once would push others' transactions out of the pools. Asked by the number of a block: a node that lags has
    no answer.
    """
    blocks = max(foreign.DEPTH, work.chain.confirmations)
    long_ago = work.held.now() - timedelta(seconds=blocks * work.patience.block_time)
    waits = Transaction.objects.filter(lane=work.lane, nonce=head, broadcast_at__lte=long_ago)
    newest = work.chain.head_number
    if newest is None or not waits.exists():
        return None
    call: Call = ("eth_getTransactionCount", [work.lane.address, hex(newest)])
    try:
        [count] = work.rpc.agreed_or_raise([call])
        return quantity(count)
    except RpcError as error:
        log.warning("nonces_not_read", lanes=1, code=error.code, text=error.message)
        return None


def _span(lane: Lane, market: Market) -> range:
    """Return the nonces from the chain's next one up to ours: each should be a transaction's that no block holds yet."""
    if lane.next_nonce is None:
        return range(0)
    # A node that lags may not know what was used before this lane began, or by others.
    return range(max(market.mined_nonces, lane.first_nonce or 0), lane.next_nonce)


def _fillers(work: Work, nonces: Sequence[int], market: Market) -> list[Attempt]:
    if not nonces:
        return []
    l1_fee = noops.l1_fee_wei(work.rpc, work.chain.l1_fee_oracle)
    if l1_fee is None:
        log.warning("gap_not_filled", lane=str(work.lane.pk), reason="the L1 fee oracle does not answer")
        return []
    gas, price = noops.gas(work.rpc, work.lane.address), market.quote("standard")
    rows = [_filler(work, nonce, gas, price, l1_fee) for nonce in nonces]
    drafts = [signing.noop(row, 0, row.nonce or 0, gas, price) for row in rows]
    attempts = signing.sign_replacements(work.held, work.chain, drafts)
    signed = {attempt.transaction_id for attempt in attempts}
    with transaction.atomic():
        guard(work.held)
        # The nonce's constraint refuses what another has filled meanwhile.
        Transaction.objects.bulk_create([row for row in rows if row.pk in signed])
        Attempt.objects.bulk_create(attempts)
    log.warning("gap_filled", lane=str(work.lane.pk), nonces=list(nonces))
    return attempts


def _filler(work: Work, nonce: int, gas: int, price: Fees, l1_fee_wei: int) -> Transaction:
    now = work.held.now()
    return Transaction(
        chain=work.chain,
        lane=work.lane,
        kind=TransactionKind.FILLER,
        state=TransactionState.BROADCASTING,
        nonce=nonce,
        to=work.lane.address,
        gas_limit=gas,
        scope=SCOPE,
        idempotency_key=f"{work.lane.pk}:{nonce}",
        request_hash="",
        label=f"fills nonce {nonce}",
        # Its no-op is what was wanted of it.
        noop_outcome=TransactionState.COMPLETED,
        reserved_wei=gas * price.max_fee_per_gas_wei + l1_fee_wei,
        reserved_gas=gas,
        l1_fee_wei=l1_fee_wei,
        broadcast_at=now,
        look_at=now + timedelta(seconds=work.patience.resend),
    )
