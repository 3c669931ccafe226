"""What people may do to lanes and transactions. Each act is on record, with who and why, and safe to do twice.

Every move is a conditional UPDATE; what has to be signed or sent is left to the lane's owner, which is rung.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now

import keyguard
from signer import acts, blocks, chains, fees, foreign, settling, standing
from signer.errors import NotPossibleError
from signer.fees import Fees
from signer.flights import attempts_of, fees_of
from signer.models import Attempt, Lane, Transaction
from signer.ringing import after_commit, ring_lane
from signer.sentences import gwei
from signer.states import FINAL, AttemptState, LaneState, SubState, TransactionState
from signer.work import owned

NOT_PROVED = "Cancel it, or wait until the nonce's block is deep enough."


def pause_lane(lane: Lane, *, actor: str, reason: str) -> None:
    """Give out no more nonces. What has one is seen through."""
    _stand(lane, LaneState.PAUSED, "pause", actor, reason)


def drain_lane(lane: Lane, *, actor: str, reason: str) -> None:
    """Give out no more nonces, and pause the lane as soon as nothing is in flight: before its key is changed."""
    _stand(lane, LaneState.DRAINING, "drain", actor, reason)


def resume_lane(lane: Lane, *, actor: str, reason: str) -> None:
    """Give out nonces again. What blocked the lane blocks it again, where it is still so."""
    _stand(lane, LaneState.ACTIVE, "resume", actor, reason)


def _stand(lane: Lane, state: LaneState, verb: str, actor: str, reason: str) -> None:
    with transaction.atomic():
        lane.refresh_from_db(fields=["state", "state_reason"])
        before = lane.state
        if before == state:
            return
        if not standing.move(lane, state, f"{reason} ({actor})"):
            raise NotPossibleError(
                f"a lane that is {before} cannot be made {state}",
                "Resume it first, when what stopped it is mended.",
            )
        if state == LaneState.ACTIVE:
            standing.unblocked(lane, reason, actor)
        acts.note(actor, verb, reason, lane=lane, details={"before": before})
        after_commit(lambda: ring_lane(lane.pk))


def cancel_transaction(row: Transaction, *, actor: str, reason: str) -> None:
    """Cancel a transaction: at once where it has no nonce, else by a no-op at its nonce. The chain decides which wins.

    One that a custody has is called off by the custody, where that can do so and has not sent it. Raises
    NotPossibleError when it can't, when a block holds it, or it has ended.
    """
    with transaction.atomic():
        acts.note(actor, "cancel", reason, lane=row.lane, transaction=row)
        if settling.cancel_unbegun(row.pk):
            settling.tell_workflows([row.pk])
            return
        if row.lane.in_custody:
            _call_off(row)
            return
        _want_noop(row, TransactionState.CANCELLED, SubState.CANCELLING, "whoever asked for it cancelled it")


def _call_off(row: Transaction) -> None:
    """Want it called off by its custody: the lane's owner asks for that, and it may be too late."""
    row.refresh_from_db()
    _refuse_settled(row)
    if row.state == TransactionState.BROADCASTING:
        raise NotPossibleError(
            "its custody has sent it, and only the custody can replace it",
            "Have it dropped in the custody's console.",
        )
    if row.sub_state == SubState.CUSTODY_ALTERED:
        raise NotPossibleError("its custody sent something else", "See the incident; then give it up.")
    if not keyguard.can_call_off(row.lane.address):
        raise NotPossibleError(
            "its custody has it, and takes nothing back over its API",
            "Have it rejected in the custody's console.",
        )
    error = {"code": "TRANSACTION_CANCELLED", "message": "whoever asked for it cancelled it"}
    rows = Transaction.objects.filter(pk=row.pk, state=TransactionState.SIGNING, noop_outcome="")
    wanted = {"noop_outcome": TransactionState.CANCELLED, "sub_state": SubState.CALLING_OFF, "error": error}
    if not rows.update(**wanted, look_at=Now()) and row.noop_outcome != TransactionState.CANCELLED:
        raise NotPossibleError(
            "its custody is asked to call it off already, or has just sent it", "Look at its state."
        )
    after_commit(lambda: ring_lane(row.lane_id))


def _refuse_in_custody(lane: Lane, advice: str) -> None:
    if lane.in_custody:
        raise NotPossibleError(standing.IN_CUSTODY, advice)


def requeue_transaction(row: Transaction, *, actor: str, reason: str) -> None:
    """Give a transaction another nonce whose own a stranger's transaction has used: proved anew, at this moment.

    Raises NotPossibleError when that is not proved, RpcError when the nodes do not say.
    """
    _refuse_in_custody(
        row.lane, "Give it up, and submit it anew: a custody executes a request under one id once."
    )
    rpc = chains.connect(row.chain)
    head = blocks.fetch_latest(rpc).number
    row.refresh_from_db()
    if row.sub_state != SubState.NONCE_FOREIGN or not foreign.proved(rpc, [row], head - foreign.DEPTH):
        raise NotPossibleError("it is not proved that a stranger's transaction used its nonce", NOT_PROVED)
    with owned(row.lane) as held, transaction.atomic():
        foreign.requeue(held, [row.pk], actor, reason)
        after_commit(lambda: ring_lane(row.lane_id))


def give_up_transaction(row: Transaction, *, actor: str, reason: str) -> None:
    """End a transaction as failed whose nonce a stranger's has used, or in whose place its custody sent something else.

    Raises NotPossibleError where neither is so.
    """
    with transaction.atomic():
        if not settling.end_taken(row.pk) and not settling.end_altered(row.pk):
            raise NotPossibleError(
                "it is not proved that a stranger's transaction used its nonce", NOT_PROVED
            )
        acts.note(actor, "give_up", reason, lane=row.lane, transaction=row)
        after_commit(lambda: ring_lane(row.lane_id))


def _want_noop(row: Transaction, outcome: TransactionState, why: SubState, message: str) -> None:
    rows = Transaction.objects.filter(pk=row.pk, state=TransactionState.BROADCASTING)
    error = {"code": f"TRANSACTION_{outcome}", "message": message}
    if not rows.filter(noop_outcome="").update(
        noop_outcome=outcome, sub_state=why, error=error, look_at=Now()
    ):
        row.refresh_from_db()
        _refuse_settled(row)
        if row.noop_outcome != outcome:
            raise NotPossibleError(
                f"a no-op takes its nonce already: {row.get_sub_state_display()}", "Wait for it."
            )
    after_commit(lambda: ring_lane(row.lane_id))


def speed_up_transaction(row: Transaction, offer: Fees | None = None, *, actor: str, reason: str) -> None:
    """Raise a transaction's fees now: by an eighth or to the market, or to `offer`.

    Raises NotPossibleError when it is not in a pool, or a node would refuse the offer, or the ceiling does.
    """
    with transaction.atomic():
        row.refresh_from_db()
        _refuse_settled(row)
        _refuse_in_custody(
            row.lane, "Have its fee raised in the custody's console; the new hash is found by itself."
        )
        if row.state != TransactionState.BROADCASTING:
            raise NotPossibleError(
                "it has no nonce yet, so nothing of it is in a pool", "Wait until it is sent."
            )
        wanted = _checked(row, offer) if offer else {}
        acts.note(actor, "speed_up", reason, lane=row.lane, transaction=row, details=wanted)
        rows = Transaction.objects.filter(pk=row.pk, state=TransactionState.BROADCASTING)
        if not rows.update(speed_up=wanted, look_at=Now()):
            raise NotPossibleError("a block holds it already", "Nothing needs to be done.")
        after_commit(lambda: ring_lane(row.lane_id))


def least_offer(row: Transaction) -> Fees:
    """Return the least that a node takes in place of what is out of a transaction; of one that was never signed nothing."""
    offers = [fees_of(attempt) for attempt in attempts_of([row])]
    return fees.least_replacement(fees.highest(offers)) if offers else Fees(0, 0)


def _checked(row: Transaction, offer: Fees) -> dict[str, Any]:
    least = least_offer(row)
    if offer.max_fee_per_blob_gas_wei and not least.max_fee_per_blob_gas_wei:
        raise NotPossibleError("it carries no blobs, so it pays no fee for them", "Leave that fee out.")
    if not offer.max_fee_per_blob_gas_wei:
        offer = replace(offer, max_fee_per_blob_gas_wei=least.max_fee_per_blob_gas_wei)
    limit = row.chain.max_fee_per_gas_wei
    if offer.max_priority_fee_per_gas_wei > offer.max_fee_per_gas_wei:
        raise NotPossibleError("the tip is more than the fee", "Offer a fee of at least the tip.")
    if not offer.covers(least):
        raise NotPossibleError(
            f"a node takes no less than {gwei(least.max_fee_per_gas_wei)} gwei with a tip of "
            f"{gwei(least.max_priority_fee_per_gas_wei)} gwei{_for_blobs(least)} in place of what is out",
            f"Too low: {', '.join(_too_low(offer, least))}. Offer at least that.",
        )
    if max(offer.max_fee_per_gas_wei, offer.max_fee_per_blob_gas_wei) > limit:
        raise NotPossibleError(
            f"the chain's ceiling is {gwei(limit)} gwei, for gas and for blobs alike",
            "Offer less, or raise the ceiling first.",
        )
    return {
        "max_fee_per_gas_wei": str(offer.max_fee_per_gas_wei),
        "max_priority_fee_per_gas_wei": str(offer.max_priority_fee_per_gas_wei),
        "max_fee_per_blob_gas_wei": str(offer.max_fee_per_blob_gas_wei),
    }


def _for_blobs(least: Fees) -> str:
    if not least.max_fee_per_blob_gas_wei:
        return ""
    return f" and {gwei(least.max_fee_per_blob_gas_wei)} gwei for blobs, twice as much of all three,"


def _too_low(offer: Fees, least: Fees) -> list[str]:
    fields = (
        ("max_fee_per_gas_wei", "the fee"),
        ("max_priority_fee_per_gas_wei", "the tip"),
        ("max_fee_per_blob_gas_wei", "the fee for blobs"),
    )
    return [words for name, words in fields if getattr(offer, name) < getattr(least, name)]


def resend_transactions(lane: Lane, first: int, last: int, *, actor: str, reason: str) -> int:
    """Have the same bytes of all that is out with nonces `first` to `last` sent again now; return how many that are.

    Raises NotPossibleError for a lane in custody: the bytes are the custody's.
    """
    _refuse_in_custody(lane, "Its bytes are the custody's: have them sent again in the custody's console.")
    with transaction.atomic():
        rows = Transaction.objects.filter(
            lane=lane, state=TransactionState.BROADCASTING, nonce__gte=first, nonce__lte=last
        )
        newest = Attempt.objects.filter(transaction=OuterRef("pk")).exclude(state=AttemptState.VOID)
        bests = rows.annotate(best=Subquery(newest.order_by("-seq").values("pk")[:1])).values("best")
        Attempt.objects.filter(pk__in=list(bests.values_list("best", flat=True))).update(last_sent_at=None)
        count = rows.update(look_at=Now())
        acts.note(actor, "resend", reason, lane=lane, details={"first": first, "last": last, "count": count})
        after_commit(lambda: ring_lane(lane.pk))
    return count


def approve(ids: Sequence[UUID]) -> int:
    """Have transactions go on that people have approved: each is simulated and priced anew. Returns how many."""
    rows = Transaction.objects.filter(pk__in=ids, state=TransactionState.PENDING_APPROVAL)
    lanes = set(rows.values_list("lane_id", flat=True))
    count = rows.update(state=TransactionState.QUEUED, sub_state="")
    for lane_id in lanes:
        after_commit(lambda lane_id=lane_id: ring_lane(lane_id))  # type: ignore[misc]
    return count


def reject(ids: Sequence[UUID], reason: str) -> int:
    """End transactions that people would not have signed. Returns how many."""
    rows = Transaction.objects.filter(pk__in=ids, state=TransactionState.PENDING_APPROVAL)
    error = {"code": "TRANSACTION_NOT_APPROVED", "message": reason}
    with transaction.atomic():
        waiting = list(rows.values_list("pk", flat=True))
        settling.end_unsent(dict.fromkeys(waiting, error))
    return len(waiting)


def _refuse_settled(row: Transaction) -> None:
    if row.state in FINAL:
        raise NotPossibleError(f"it has ended: {row.state}", "Nothing can be done about it any more.")
    if row.state == TransactionState.CONFIRMING:
        raise NotPossibleError(
            f"block {row.block_number} holds it; it waits for confirmations only", "Nothing needs to be done."
        )
