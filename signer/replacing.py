"""Another attempt at the same nonce: a higher fee, or a no-op in the transaction's place.

The new bytes are committed before they are sent, and every older attempt stays in the books: any of them may be the
one that a block takes.
"""

from collections.abc import Callable, Sequence

import structlog
from django.db import transaction
from django.db.models import QuerySet

from signer import ceilings, fees, signing
from signer.fees import Fees
from signer.flights import Flight, Patience, Reason, Sky, has_expired, replacement_reason
from signer.market import Market
from signer.models import Attempt, Chain, Lane, Transaction
from signer.signing import Draft
from signer.statements import update_each
from signer.states import Purpose, SubState, TransactionState
from workflows import Claim, crashpoint, guard

log = structlog.get_logger()

crashpoint.register("signer.bump_committed", "a replacement is committed, nothing of it is sent")


def expire(held: Claim[Lane], flights: Sequence[Flight]) -> int:
    """Mark what has passed its valid_until with a nonce: a no-op will take the nonce. Returns how many."""
    late = [flight.transaction for flight in flights if has_expired(flight, held.now())]
    if late:
        with transaction.atomic():
            guard(held)
            _open(late).filter(noop_outcome="").update(
                noop_outcome=TransactionState.EXPIRED,
                sub_state=SubState.EXPIRING,
                error={"code": "TRANSACTION_EXPIRED", "message": "valid_until passed before it was mined"},
            )
    return len(late)


def due(
    held: Claim[Lane], flights: Sequence[Flight], sky: Sky, patience: Patience
) -> list[tuple[Flight, Reason]]:
    """Return what needs another attempt now, and why."""
    now = held.now()
    found = [
        (flight, replacement_reason(flight, flight.nonce == sky.head_nonce, now, patience))
        for flight in flights
    ]
    return [(flight, reason) for flight, reason in found if reason is not None]


def replace(
    held: Claim[Lane],
    chain: Chain,
    market: Market,
    wanted: Sequence[tuple[Flight, Reason]],
    noop_gas: Callable[[], int],
) -> list[Attempt]:
    """Sign and commit the replacements that the market allows, and return them, ready to be sent.

    noop_gas: the gas limit of a no-op, asked only when there is one.
    """
    drafts, capped = [], []
    for flight, reason in wanted:
        if flight.nonce < market.mined_nonces:
            continue  # a block has this nonce: the watcher will find which attempt it was
        draft = draft_of(flight, reason, market, noop_gas)
        if draft is None:
            capped.append(flight)
        else:
            drafts.append(draft)
    _say_capped(held, capped)
    attempts = signing.sign_replacements(held, chain, drafts)
    if not attempts:
        return []
    attempts = _commit(held, attempts)
    crashpoint("signer.bump_committed")
    return attempts


def draft_of(flight: Flight, reason: Reason, market: Market, noop_gas: Callable[[], int]) -> Draft | None:
    """Return the replacement to sign, or None when the ceiling forbids one that a node would accept."""
    speed, envelope = flight.transaction.speed, flight.transaction.envelope
    offer, limit = market.quote(speed, envelope), market.ceiling(speed)
    if reason is Reason.SPEED_UP and flight.transaction.speed_up:
        # A person's own offer, within the absolute ceiling: it was checked when it was made.
        offer = limit = Fees(**{name: int(wei) for name, wei in flight.transaction.speed_up.items()})
    price = fees.replacement_fees(flight.highest_fees, offer, limit)
    if price is None:
        return None
    seq = flight.best.seq + 1
    if reason is Reason.NOOP or flight.best.purpose == Purpose.NOOP:
        plain = flight.blobs_were_refused
        return signing.noop(flight.transaction, seq, flight.nonce, noop_gas(), price, is_plain=plain)
    return Draft(flight.transaction, seq, Purpose.PAYLOAD, flight.nonce, flight.best.gas_limit, price)


def _commit(held: Claim[Lane], attempts: Sequence[Attempt]) -> list[Attempt]:
    """Insert the attempts of what is still open; the watcher may have settled some while they were signed."""
    with transaction.atomic():
        guard(held)
        ids = [attempt.transaction_id for attempt in attempts]
        # FOR UPDATE: on PostgreSQL a settlement that commits between this read and the insert would be missed.
        still_open = set(
            Transaction.objects.select_for_update()
            .filter(pk__in=ids, state=TransactionState.BROADCASTING)
            .order_by("pk")
            .values_list("pk", flat=True)
        )
        wanted = [attempt for attempt in attempts if attempt.transaction_id in still_open]
        Attempt.objects.bulk_create(wanted)
        rows = [attempt.transaction for attempt in wanted]
        _reserve(wanted)
        _open(rows).filter(sub_state=SubState.FEE_CAPPED).update(sub_state="")
    for attempt in wanted:
        log.info(
            "transaction_replaced",
            transaction=str(attempt.transaction_id),
            lane=str(held.row.pk),
            hash=attempt.hash,
            nonce=attempt.nonce,
            purpose=attempt.purpose,
            max_fee_per_gas_wei=attempt.max_fee_per_gas_wei,
        )
    return wanted


def _reserve(attempts: Sequence[Attempt]) -> None:
    """Hold back what the dearest attempt may cost: any of them may be the one that is mined."""
    costs = {
        attempt.transaction_id: (
            attempt.transaction.reservation_wei(attempt),
            max(attempt.transaction.reserved_gas, attempt.gas_limit),
        )
        for attempt in attempts
    }
    update_each(Transaction, ("reserved_wei", "reserved_gas"), costs, speed_up=None)


def _say_capped(held: Claim[Lane], capped: Sequence[Flight]) -> None:
    """Show that the ceiling holds these back. Their same bytes are sent again until the market falls."""
    if not capped:
        return
    fresh = [flight.transaction for flight in capped if flight.transaction.sub_state != SubState.FEE_CAPPED]
    if fresh:
        with transaction.atomic():
            guard(held)
            _open(fresh).filter(noop_outcome="").update(sub_state=SubState.FEE_CAPPED)
        log.warning("fee_capped", lane=str(held.row.pk), transactions=[str(row.pk) for row in fresh])
    first = capped[0].transaction
    if first.broadcast_at is not None:
        ceilings.tell_of_ceiling(held.row, first, (held.now() - first.broadcast_at).total_seconds())


def _open(rows: Sequence[Transaction]) -> QuerySet[Transaction]:
    return Transaction.objects.filter(pk__in=[row.pk for row in rows], state=TransactionState.BROADCASTING)
