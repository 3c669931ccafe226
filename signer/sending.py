"""Putting committed bytes before a node, and recording what it said.

Every byte string sent from here was read from, or has just been committed to, an attempt row. What the node answers
changes only how the attempt is treated next; whether the transaction was executed is decided by receipts alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Now

from signer.errors import RpcError
from signer.incidents import open_incident
from signer.models import Attempt, Lane, Transaction
from signer.rpc import Rpc
from signer.rpc_errors import ErrorClass, classify
from signer.states import AttemptState, IncidentKind, Purpose, SubState, TransactionState
from workflows import Claim, guard

log = structlog.get_logger()

ACCEPTED = None
MESSAGE_LENGTH = 500

SUB_STATES = {
    ErrorClass.NONCE_LOW: SubState.NONCE_USED,
    ErrorClass.NONCE_HIGH: SubState.POSSIBLY_SENT,
    ErrorClass.FUNDS: SubState.INSUFFICIENT_FUNDS,
    ErrorClass.LIMIT: SubState.NODE_FULL,
    ErrorClass.FEE_CAP: SubState.FEE_CAPPED,
    ErrorClass.RATE: SubState.NODE_UNAVAILABLE,
    ErrorClass.AMBIGUOUS: SubState.POSSIBLY_SENT,
    ErrorClass.PERMANENT: SubState.REFUSED_AGAIN,  # unless it is given up
}
# What a successful send makes untrue. A reason for a no-op stays.
CLEARED = [*SUB_STATES.values(), SubState.REORGED]


@dataclass(frozen=True)
class Outcome:
    """What a node said to one attempt: accepted (None), or the class and text of its refusal."""

    attempt: Attempt
    refusal: ErrorClass | None
    message: str = ""
    reported: str = ""  # another hash than the one computed from the bytes


def send(rpc: Rpc, attempts: Sequence[Attempt]) -> list[Outcome]:
    """Send the attempts' bytes, ascending nonce, in one batch to each endpoint. Each must be committed."""
    ordered = sorted(attempts, key=lambda attempt: attempt.nonce)
    answers = rpc.broadcast([bytes(attempt.raw) for attempt in ordered])
    return [_outcome(attempt, answer) for attempt, answer in zip(ordered, answers, strict=True)]


def _outcome(attempt: Attempt, answer: Any) -> Outcome:
    if isinstance(answer, RpcError):
        refusal = classify(answer)
        if refusal is ErrorClass.KNOWN:
            return Outcome(attempt, ACCEPTED)
        return Outcome(attempt, refusal, answer.message[:MESSAGE_LENGTH])
    is_right = isinstance(answer, str) and answer.lower() == attempt.hash
    # The hash is computed from the bytes; a node that says otherwise is wrong, but it has them.
    return Outcome(attempt, ACCEPTED, reported="" if is_right else str(answer)[:80])


def record(held: Claim[Lane], outcomes: Sequence[Outcome]) -> None:
    """Write down what the node said, in one guarded transaction."""
    groups: dict[tuple[ErrorClass | None, str], list[Attempt]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.refusal, outcome.message].append(outcome.attempt)
    with transaction.atomic():
        guard(held)
        for (refusal, message), attempts in groups.items():
            if refusal is ACCEPTED:
                _record_accepted(attempts)
            else:
                _record_refused(attempts, refusal, message)
        for outcome in outcomes:
            if outcome.reported:
                _tell_of_wrong_hash(held.row, outcome)
    for (refusal, message), attempts in groups.items():
        _log(held.row, refusal, message, attempts)


def _tell_of_wrong_hash(lane: Lane, outcome: Outcome) -> None:
    """Raise the alarm once for a chain: what else such a node says is doubtful too."""
    text = (
        f"A node of {lane.chain} took transaction {outcome.attempt.hash} and called it {outcome.reported}. "
        "The computed hash is the one that counts, and its receipt is looked for. Find out which node it is."
    )
    open_incident(
        IncidentKind.NODE_ANOMALY,
        f"hashes of chain {lane.chain_id}",
        text,
        lane=lane,
        computed=outcome.attempt.hash,
        reported=outcome.reported,
    )


def _touch(attempts: Sequence[Attempt], **updates: Any) -> None:
    Attempt.objects.filter(pk__in=[attempt.pk for attempt in attempts]).update(
        send_count=F("send_count") + 1, last_sent_at=Now(), **updates
    )


def _open(attempts: Sequence[Attempt]) -> QuerySet[Transaction]:
    """The transactions of these attempts that the watcher has not settled meanwhile."""
    ids = [attempt.transaction_id for attempt in attempts]
    return Transaction.objects.filter(pk__in=ids, state=TransactionState.BROADCASTING)


def _record_accepted(attempts: Sequence[Attempt]) -> None:
    _touch(
        attempts,
        state=AttemptState.SENT,
        first_sent_at=Coalesce("first_sent_at", Now()),
        last_error="",
        last_error_message="",
    )
    _open(attempts).filter(broadcast_at__isnull=True).update(broadcast_at=Now())
    _open(attempts).filter(sub_state__in=CLEARED).update(sub_state="")


def _record_refused(attempts: Sequence[Attempt], refusal: ErrorClass, message: str) -> None:
    _touch(attempts, last_error=refusal.value, last_error_message=message)
    if refusal in SUB_STATES:
        told = _open(attempts).filter(noop_outcome="").exclude(sub_state=SubState.NONCE_FOREIGN)
        told.update(sub_state=SUB_STATES[refusal])
    if refusal is ErrorClass.PERMANENT:
        _give_up(_never_accepted(attempts), message)


def _never_accepted(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Leave out what a node took before: such a refusal says nothing about what that node will do.

    An earlier attempt of the same transaction may have been taken, and may still be mined: then it has won.
    """
    payloads = [attempt for attempt in attempts if attempt.purpose == Purpose.PAYLOAD]
    return [attempt for attempt in payloads if attempt.state == AttemptState.SIGNED]


def _give_up(attempts: Sequence[Attempt], message: str) -> None:
    """Have a no-op take the nonces. The transactions end when the chain says which of the two was mined."""
    Attempt.objects.filter(pk__in=[attempt.pk for attempt in attempts]).update(state=AttemptState.REJECTED)
    _open(attempts).filter(noop_outcome="").update(
        noop_outcome=TransactionState.FAILED,
        sub_state=SubState.NODE_REFUSED,
        error={"code": "TRANSACTION_REFUSED", "message": message},
    )


def _log(lane: Lane, refusal: ErrorClass | None, message: str, attempts: Sequence[Attempt]) -> None:
    for attempt in attempts:
        ids = {"transaction": str(attempt.transaction_id), "lane": str(lane.pk), "hash": attempt.hash}
        if refusal is ACCEPTED:
            log.info("transaction_broadcast", **ids, nonce=attempt.nonce, purpose=attempt.purpose)
        else:
            log.warning(
                "transaction_not_taken", **ids, nonce=attempt.nonce, meaning=refusal.value, text=message
            )
