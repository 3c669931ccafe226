"""Giving nonces: the one place where they are given out.

A batch of nonces, the signed bytes and the transactions' new state are one commit; only afterwards does a node see
anything. A transaction that cannot be executed, or for which there is no room, no money or no node, gets none.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from signer import (
    authorities,
    ceilings,
    error_rules,
    flights,
    gaps,
    money,
    queue,
    sending,
    settling,
    signing,
    strangers,
    unknown_texts,
)
from signer.admission import Admission, Ready, admit, questions
from signer.authorities import Nonces
from signer.errors import ChainMismatchError, RpcError
from signer.flights import Sky
from signer.incidents import open_incident
from signer.market import Market, count_with_pool, read_market
from signer.models import Attempt, Lane, Transaction
from signer.rpc import quantity
from signer.signing import Draft
from signer.standing import block, gives_nonces
from signer.statements import insert_many, update_each
from signer.states import (
    WAITING,
    Envelope,
    ForeignNonces,
    IncidentKind,
    LaneState,
    Purpose,
    SubState,
    TransactionState,
    may_become,
)
from signer.work import Work
from workflows import FencedError, crashpoint, guard

log = structlog.get_logger()

# A lane that was looked at since then has not been restored from a backup meanwhile.
TRUSTED_SECONDS = 60
# How many waiting transactions are looked at and signed in one go.
BATCH_SIZE = 400

STANDSTILL = {
    LaneState.BLOCKED: SubState.LANE_BLOCKED,
    LaneState.PAUSED: SubState.LANE_PAUSED,
    LaneState.DRAINING: SubState.LANE_PAUSED,
}
# From where a nonce may be given. PREPARING is written only while a node is asked about the transaction itself.
UNSIGNED = [TransactionState.RECEIVED, TransactionState.QUEUED, TransactionState.PREPARING]
# What may hold a lane back for long, and is told of when it does.
MONEY = {SubState.INSUFFICIENT_FUNDS: IncidentKind.LOW_BALANCE, SubState.FEE_CAPPED: IncidentKind.FEE_CAPPED}

crashpoint.register("signer.prepared", "gas and fees are known, nothing is signed")
crashpoint.register("signer.signed", "signed in memory, nothing is committed")
crashpoint.register("signer.attempts_inserted", "in the middle of the commit of a batch of nonces")
crashpoint.register("signer.attempts_committed", "nonces and signed bytes are committed, nothing is sent")
crashpoint.register("signer.sent", "the node has the bytes, its answer is not recorded")


class StandstillError(Exception):
    """The lane was paused between the look at it and the commit."""


def grant(work: Work, sky: Sky) -> bool:
    """Give nonces to as many waiting transactions as room and funds allow; return whether more may follow."""
    if work.lane.state != LaneState.ACTIVE:
        return hold(work, STANDSTILL[LaneState(work.lane.state)])
    if work.is_promised:
        return hold(work, SubState.AUTHORIZING)
    room = min(BATCH_SIZE, work.cap() - sky.count)
    if room <= 0:
        work.full_at = sky.count
        return hold(work, SubState.LANE_FULL)
    candidates = list(next_waiting(work, room))
    candidates, late, nonces = _with_authorities(work, candidates)
    if not candidates:
        return bool(late)
    if any(row.simulate for row in candidates):
        take(work, candidates)
    admission = _ask_and_decide(work, candidates, sky)
    write_down(work, candidates, admission)
    crashpoint("signer.prepared")
    attempts = _sign(work, admission, nonces)
    crashpoint("signer.signed")
    try:
        _commit(work, admission, attempts, sky, nonces)
    except StandstillError:
        return hold(work, SubState.LANE_PAUSED)
    if attempts:
        crashpoint("signer.attempts_committed")
    queue.take(work.lane.pk, [*admission.refused, *(attempt.transaction_id for attempt in attempts)])
    sending.finish(work)
    if len(attempts) == BATCH_SIZE:  # most likely more are waiting
        sending.begin(work, attempts)
        return True
    all_taken = sending.send_and_record(work, attempts, "signer.sent")
    if admission.refused or admission.unclear or not all_taken:
        return True
    if attempts:
        # None were left behind: what comes meanwhile is seen after the release (`Drain.missed_something`).
        return len(candidates) == room or len(attempts) < len(candidates)
    work.full_at = sky.count if admission.why == SubState.LANE_FULL else None
    return hold(work, admission.why)


def waiting(lane: Lane) -> "QuerySet[Transaction]":
    """Return what waits for a nonce and for nothing else."""
    rows = Transaction.objects.filter(lane=lane, state__in=WAITING)
    return rows.exclude(state__in=[TransactionState.PENDING_APPROVAL, TransactionState.SIGNING])


def next_waiting(work: Work, room: int) -> "QuerySet[Transaction]":
    return waiting(work.lane).exclude(pk__in=work.unclear).order_by("-priority", "created_at", "id")[:room]


def _with_authorities(
    work: Work, candidates: list[Transaction]
) -> tuple[list[Transaction], list[Transaction], Nonces]:
    """Return what can be signed now, what waits alone for an account that is to authorise, and those accounts' nonces."""
    if not any(row.envelope == Envelope.SET_CODE for row in candidates):
        return candidates, [], {}
    nonces = authorities.read_nonces(work.rpc, candidates)
    candidates, late = authorities.admissible(work.lane, candidates, nonces)
    work.unclear.update(row.pk for row in late)
    if late:
        with transaction.atomic():
            guard(work.held)
            rows = waiting(work.lane).filter(pk__in=[row.pk for row in late])
            rows.update(state=TransactionState.QUEUED, sub_state=SubState.AUTHORIZING)
    return candidates, late, nonces


def take(work: Work, candidates: Sequence[Transaction]) -> None:
    """Say that a worker is at them, and that it may take a while."""
    with transaction.atomic():
        guard(work.held)
        rows: dict[UUID, tuple[()]] = {row.pk: () for row in candidates}
        states = may_become(TransactionState.PREPARING)
        update_each(Transaction, (), rows, states=states, state=TransactionState.PREPARING, sub_state="")


# --- Decide -----------------------------------------------------------------------------------------------


def write_down(work: Work, candidates: Sequence[Transaction], admission: Admission) -> None:
    """Write down what does not go on now, and why."""
    if admission.refused or admission.unclear or admission.waiting:
        with transaction.atomic():
            guard(work.held)
            settling.end_unsent(admission.refused)
            requeue(list(admission.unclear), SubState.ESTIMATE_UNCLEAR)
            requeue(admission.waiting, admission.why)
            _tell_of_money(work, admission)
        unknown_texts.note(work.chain, admission.unknown)
        _pass_over(work, [row for row in candidates if row.pk in admission.unclear], admission.unclear)


def _ask_and_decide(work: Work, candidates: Sequence[Transaction], sky: Sky) -> Admission:
    asked = questions(candidates, work.lane.address, work.chain.l1_fee_oracle)
    asks_pool = _may_be_behind(work)
    more = [*asked.calls, count_with_pool(work.lane.address)] if asks_pool else asked.calls
    try:
        market, given = read_market(work.rpc, work.chain, work.lane.address, more)
        pooled = quantity(given.pop()) if asks_pool else 0
    except (RpcError, ChainMismatchError) as error:
        log.warning("lane_waits", lane=str(work.lane.pk), code=error.code, text=error.message)
        return Admission(waiting=[row.pk for row in candidates], why=SubState.NODE_UNAVAILABLE)
    _check_nonces(work, market, pooled)
    if work.lane.state == LaneState.BLOCKED:
        return Admission(waiting=[row.pk for row in candidates], why=SubState.LANE_BLOCKED)
    fillers = gaps.fill(work, sky, market)
    if fillers:
        sending.send_and_record(work, fillers, "signer.sent")
        sky = flights.survey(work.lane)
    room = work.cap(market.delegated) - sky.count
    if room <= 0:
        return Admission(waiting=[row.pk for row in candidates], why=SubState.LANE_FULL)
    rules = error_rules.of_chain(work.chain.pk)
    admission = admit(candidates[:room], asked.answers(given), market, sky.cost_wei, sky.open_gas, rules)
    if len(candidates) > room:
        admission.waiting += [row.pk for row in candidates[room:]]
        admission.why = admission.why or SubState.LANE_FULL
    return admission


def _may_be_behind(work: Work) -> bool:
    """Return whether the node may hold what this database does not know: at first, and after a backup was restored."""
    looked_at = work.lane.looked_at
    idle = timedelta(seconds=TRUSTED_SECONDS)
    return work.lane.next_nonce is None or looked_at is None or work.held.now() - looked_at > idle


def _check_nonces(work: Work, market: Market, pooled_nonces: int) -> None:
    """Learn the first nonce, or notice that somebody else uses this address; then give out no more of them.

    pooled_nonces: 0 unless it was asked for. Where others may use the address it says nothing.
    """
    lane = work.lane
    if lane.next_nonce is None:
        if pooled_nonces > market.mined_nonces:
            _block(
                work,
                f"the node's pool holds {pooled_nonces - market.mined_nonces} transactions of this address "
                "that were not sent from here",
            )
        lane.next_nonce = lane.first_nonce = market.mined_nonces
    else:
        strangers.compare(work.held, market.mined_nonces)
        adopts = work.chain.foreign_nonces == ForeignNonces.ADOPT
        if pooled_nonces > lane.next_nonce and not adopts and lane.state != LaneState.BLOCKED:
            _block(
                work,
                f"the node's pool holds nonce {pooled_nonces - 1}, the next to be given here was {lane.next_nonce}: "
                "another program signs with this key, or this database is older than what was sent",
            )


def _block(work: Work, reason: str) -> None:
    with transaction.atomic():
        guard(work.held)
        block(work.lane, reason)


def _tell_of_money(work: Work, admission: Admission) -> None:
    """Tell people once that the lane stands still for want of money, or for the market's price."""
    kind = MONEY.get(admission.why)
    if kind is IncidentKind.LOW_BALANCE:
        text = f"{work.lane.address} cannot pay for what waits on {work.chain}. Send it money; the lane goes on by itself."
        open_incident(kind, str(work.lane), text, lane=work.lane)
    elif kind is IncidentKind.FEE_CAPPED and admission.waiting:
        oldest = Transaction.objects.get(pk=admission.waiting[0])
        ceilings.tell_of_ceiling(work.lane, oldest, (work.held.now() - oldest.created_at).total_seconds())


def _pass_over(work: Work, rows: Sequence[Transaction], words: Mapping[UUID, str]) -> None:
    work.unclear.update(row.pk for row in rows)
    for row in rows:
        if row.sub_state != SubState.ESTIMATE_UNCLEAR:  # said once, not by each drain
            log.warning("estimate_unclear", transaction=str(row.pk), text=words[row.pk])


# --- Sign and commit --------------------------------------------------------------------------------------


def _sign(work: Work, admission: Admission, nonces: Nonces) -> list[Attempt]:
    if not admission.ready:
        return []
    signed = signing.sign(work.held, work.chain, _drafts(work.lane, admission.ready), nonces)
    if signed.refused or signed.postponed or signed.pending:
        with transaction.atomic():
            guard(work.held)
            settling.end_unsent(signed.refused)
            requeue(signed.postponed, SubState.SIGNER_UNAVAILABLE)
            await_approval(signed.pending)
        admission.refused |= signed.refused
        admission.why = SubState.SIGNER_UNAVAILABLE if signed.postponed else admission.why
    return signed.attempts


def _drafts(lane: Lane, ready: Sequence[Ready]) -> list[Draft]:
    assert lane.next_nonce is not None
    return [
        Draft(item.transaction, item.transaction.next_seq, Purpose.PAYLOAD, nonce, item.gas_limit, item.fees)
        for nonce, item in enumerate(ready, start=lane.next_nonce)
    ]


def _commit(work: Work, admission: Admission, attempts: Sequence[Attempt], sky: Sky, nonces: Nonces) -> None:
    """Nonces, bytes and states of the whole batch: all of it or nothing.

    Raises StandstillError when the lane was paused meanwhile, FencedError when it or a transaction was moved.
    """
    if not attempts:
        return
    lane, next_nonce = work.lane, authorities.next_nonce(work.lane, attempts)
    costs = {ready.transaction.pk: ready for ready in admission.ready}
    rows = {
        attempt.transaction_id: (
            attempt.nonce,
            costs[attempt.transaction_id].max_cost_wei,
            attempt.gas_limit,
            costs[attempt.transaction_id].l1_fee_wei,
        )
        for attempt in attempts
    }
    now = work.held.now()
    with transaction.atomic():
        guard(work.held, next_nonce=next_nonce, first_nonce=lane.first_nonce)
        if not gives_nonces(lane):
            raise StandstillError
        # No attempt of it may exist already but those that a stranger's transaction made void.
        insert_many(attempts)
        crashpoint("signer.attempts_inserted")
        moved = update_each(
            Transaction,
            ("nonce", "reserved_wei", "reserved_gas", "l1_fee_wei"),
            rows,
            states=UNSIGNED,
            state=TransactionState.BROADCASTING,
            sub_state="",
            broadcast_at=now,
            look_at=now + timedelta(seconds=work.patience.resend),
        )
        if moved != len(rows):
            raise FencedError(f"lane {lane.pk}: {len(rows) - moved} transactions were moved meanwhile")
        authorities.promise(work.held, attempts, nonces)
        money_is_there(work, admission)
    lane.next_nonce = next_nonce
    work.filled = sky.count + len(rows) >= work.cap()


def money_is_there(work: Work, admission: Admission) -> None:
    """Close what was told of money, when transactions that waited for it go on."""
    if any(ready.transaction.sub_state == SubState.INSUFFICIENT_FUNDS for ready in admission.ready):
        money.goes_on(work.lane)


# --- States before the nonce ------------------------------------------------------------------------------


def hold(work: Work, why: SubState) -> bool:
    """Mark what is new as queued, with the reason: nothing in this lane can go on now. Returns False."""
    fresh = [TransactionState.RECEIVED, TransactionState.PREPARING]
    rows = waiting(work.lane).filter(Q(state__in=fresh) & ~Q(pk__in=work.unclear))
    if rows.exists():
        with transaction.atomic():
            guard(work.held)
            rows.update(state=TransactionState.QUEUED, sub_state=why)
    return False


def requeue(ids: Sequence[UUID], why: SubState) -> None:
    """Put transactions that got no nonce back, with the reason. Within the owner's guarded transaction."""
    if ids:
        rows = Transaction.objects.filter(pk__in=ids, state__in=may_become(TransactionState.QUEUED))
        rows.filter(nonce__isnull=True).update(state=TransactionState.QUEUED, sub_state=why)


def await_approval(ids: Sequence[UUID]) -> None:
    if ids:
        rows = Transaction.objects.filter(pk__in=ids, state__in=may_become(TransactionState.PENDING_APPROVAL))
        rows.update(state=TransactionState.PENDING_APPROVAL, sub_state="")


def expired(lane: Any) -> "QuerySet[Transaction]":
    """Return what waits and whose time has passed."""
    return Transaction.objects.filter(
        lane=lane, state__in=settling.UNBEGUN, valid_until__lte=Now()
    ).order_by()


def expire_waiting(work: Work) -> None:
    """End what waits and whose time has passed: it used no nonce."""
    ids = list(expired(work.lane).values_list("pk", flat=True))
    if ids:
        error = {"code": "TRANSACTION_EXPIRED", "message": "valid_until passed before it was sent"}
        with transaction.atomic():
            guard(work.held)
            settling.end_unsent(dict.fromkeys(ids, error), TransactionState.EXPIRED)
        queue.take(work.lane.pk, ids)
