"""Putting committed bytes before a node, and recording what it said.

Every byte string sent from here was read from, or has just been committed to, an attempt row. What the node answers
changes only how the attempt is treated next; whether the transaction was executed is decided by receipts alone.
"""

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction
from django.db.models import QuerySet

from signer import capacity, error_rules, unknown_texts
from signer.errors import RpcError, RpcNodeError
from signer.incidents import open_incident
from signer.models import Attempt, Lane, Transaction
from signer.ringing import ring_chain
from signer.rpc import Rpc
from signer.rpc_errors import ErrorClass, Rule, classify, is_unknown
from signer.statements import update_each
from signer.states import AttemptState, IncidentKind, Purpose, SubState, TransactionState
from signer.work import Work
from workflows import crashpoint, guard

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
    unknown: RpcNodeError | None = None  # words that no rule knows


def send(rpc: Rpc, attempts: Sequence[Attempt], rules: Sequence[Rule] = ()) -> list[Outcome]:
    """Send the attempts' bytes, ascending nonce, in one batch to each endpoint. Each must be committed.

    rules: those of operators.
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.nonce)
    answers = rpc.broadcast([bytes(attempt.raw) for attempt in ordered], rules)
    return _outcomes(ordered, answers, rules)


def _outcomes(attempts: Sequence[Attempt], answers: Sequence[Any], rules: Sequence[Rule]) -> list[Outcome]:
    return [_outcome(attempt, answer, rules) for attempt, answer in zip(attempts, answers, strict=True)]


def _outcome(attempt: Attempt, answer: Any, rules: Sequence[Rule]) -> Outcome:
    if isinstance(answer, RpcError):
        refusal = classify(answer, rules)
        if refusal is ErrorClass.KNOWN:
            return Outcome(attempt, ACCEPTED)
        unknown = answer if isinstance(answer, RpcNodeError) and is_unknown(answer, rules) else None
        return Outcome(attempt, refusal, answer.message[:MESSAGE_LENGTH], unknown=unknown)
    is_right = isinstance(answer, str) and answer.lower() == attempt.hash
    # The hash is computed from the bytes; a node that says otherwise is wrong, but it has them.
    return Outcome(attempt, ACCEPTED, reported="" if is_right else str(answer)[:80])


def send_and_record(work: Work, attempts: Sequence[Attempt], sent_point: str) -> bool:
    """Send committed attempts, write down what the node said, and have somebody look for the receipts.

    Returns whether it took all of them.
    """
    if not attempts:
        return True
    outcomes = send(work.rpc, attempts, error_rules.of_chain(work.chain.pk))
    _said(work, outcomes, sent_point)
    return all(outcome.refusal is ACCEPTED for outcome in outcomes)


def begin(work: Work, attempts: Sequence[Attempt]) -> None:
    """Begin to send committed attempts of ascending nonces, so that the next can be prepared meanwhile.

    One batch at a time, so that the node sees the nonces in their order: `finish` the one before first.
    """
    rules = error_rules.of_chain(work.chain.pk)
    answers = work.rpc.begin_broadcast([bytes(attempt.raw) for attempt in attempts], rules)
    work.sending = {attempt.transaction_id for attempt in attempts}
    work.finish_sending = lambda: _outcomes(attempts, answers(), rules)


def finish(work: Work) -> bool:
    """Wait for the answers to what `begin` began to send, and write them down; return whether there was anything."""
    if not work.sending:
        return False
    outcomes = work.finish_sending()
    work.sending = set()
    _said(work, outcomes, "signer.sent")
    return True


def _said(work: Work, outcomes: Sequence[Outcome], sent_point: str) -> None:
    crashpoint(sent_point)
    record(work, outcomes)
    unknown_texts.note(work.chain, [outcome.unknown for outcome in outcomes if outcome.unknown])
    ring_chain(work.chain.pk)


def record(work: Work, outcomes: Sequence[Outcome]) -> None:
    """Write down what the node said, in one guarded transaction."""
    groups: dict[tuple[ErrorClass | None, str], list[Attempt]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.refusal, outcome.message].append(outcome.attempt)
    cap = _next_cap(work, {refusal for refusal, _ in groups})
    now = work.held.now()
    with transaction.atomic():
        guard(work.held, **cap)
        for (refusal, message), attempts in groups.items():
            if refusal is ACCEPTED:
                _record_accepted(attempts, now)
            else:
                _record_refused(attempts, refusal, message, now)
        _look_again(work, outcomes)
        for outcome in outcomes:
            if outcome.reported:
                _tell_of_wrong_hash(work.lane, outcome)
    work.lane.in_flight_cap = cap.get("in_flight_cap", work.lane.in_flight_cap)
    for (refusal, message), attempts in groups.items():
        _log(work.lane, refusal, message, attempts)


def _next_cap(work: Work, refusals: Set[ErrorClass | None]) -> dict[str, int]:
    """Return the lane's cap as a column to set: less when a pool had no room, more when a full lane was taken whole."""
    if ErrorClass.LIMIT in refusals:
        return {"in_flight_cap": capacity.lowered(work.lane.in_flight_cap, work.limits)}
    if work.filled and refusals == {ACCEPTED} and work.cap() < work.limits.most:
        work.filled = False
        return {"in_flight_cap": capacity.raised(work.lane.in_flight_cap, work.limits)}
    return {}


def _look_again(work: Work, outcomes: Sequence[Outcome]) -> None:
    """Put off the next look at what was sent again. Of what was sent for the first time it is set with its nonce."""
    ids = [outcome.attempt.transaction_id for outcome in outcomes if _was_out(outcome.attempt)]
    if ids:
        rows = Transaction.objects.filter(pk__in=ids, state=TransactionState.BROADCASTING)
        rows.update(look_at=work.held.now() + timedelta(seconds=work.patience.resend))


def _was_out(attempt: Attempt) -> bool:
    return attempt.seq > 0 or attempt.send_count > 0


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


def _touch(attempts: Sequence[Attempt], at: datetime, is_taken: bool, **updates: Any) -> None:
    rows = {
        attempt.pk: (attempt.send_count + 1, attempt.first_sent_at or (at if is_taken else None))
        for attempt in attempts
    }
    update_each(Attempt, ("send_count", "first_sent_at"), rows, last_sent_at=at, **updates)


def _open(attempts: Sequence[Attempt]) -> QuerySet[Transaction]:
    """The transactions of these attempts that the watcher has not settled meanwhile."""
    ids = [attempt.transaction_id for attempt in attempts]
    return Transaction.objects.filter(pk__in=ids, state=TransactionState.BROADCASTING)


def _record_accepted(attempts: Sequence[Attempt], at: datetime) -> None:
    _touch(attempts, at, True, state=AttemptState.SENT, last_error="", last_error_message="")
    if again := [attempt for attempt in attempts if _was_out(attempt)]:
        _open(again).filter(sub_state__in=CLEARED).update(sub_state="")


def _record_refused(attempts: Sequence[Attempt], refusal: ErrorClass, message: str, at: datetime) -> None:
    _touch(attempts, at, False, last_error=refusal.value, last_error_message=message)
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
