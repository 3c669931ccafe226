"""Asking the custody how things stand, looking on the chain for what it says it sent, and writing down what follows.

No transaction is open while anybody is asked, and what is found of a batch is one commit. Each question has its time;
after the first that stays without an answer, or when the batch has taken long, the rest is left for later: a worker
must not be kept by one slow custody.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog
from django.db import transaction

import keyguard
from keyguard import CustodyForgotError, CustodyUnreachableError, KeyguardError, Report
from signer import settling
from signer.custody import judging
from signer.custody.handing import request_of
from signer.custody.judging import Move, Seen, Step
from signer.flights import attempts_of
from signer.incidents import open_incident
from signer.models import Attempt, Transaction
from signer.ringing import after_commit, ring_chain
from signer.standing import block
from signer.states import AttemptState, IncidentKind, Purpose, SubState, TransactionState
from signer.work import Work
from workflows import FencedError, crashpoint, guard

log = structlog.get_logger()

BATCH_SIZE = 50
CALL_SECONDS = 5.0
BATCH_SECONDS = 5.0
WITH_CUSTODY = (TransactionState.SIGNING, TransactionState.BROADCASTING)

crashpoint.register("signer.handed_over", "the custody has answered, its answer is not recorded")
crashpoint.register(
    "signer.custody_sent", "a node has shown what the custody sent, nothing of it is recorded"
)


@dataclass
class Answers:
    """What the custody said of each, as far as it was asked."""

    given: dict[UUID, Report | KeyguardError] = field(default_factory=dict)
    is_silent: bool = False  # it gave no answer: whatever else is due waits, too
    is_slow: bool = False


@dataclass(frozen=True)
class Asked:
    """What became of a look at what is due."""

    may_go_on: bool = True  # False: the custody lets itself be waited for, and the worker is to be freed
    more: bool = False  # as many were due as are looked at in one go


def ask(work: Work) -> Asked:
    """See to what is due."""
    rows = _due(work)
    if not rows:
        return Asked()
    answers = _ask(work, rows)
    crashpoint("signer.handed_over")
    known = _hashes(rows)
    fresh = [
        report.hash
        for pk, report in answers.given.items()
        if isinstance(report, Report) and report.hash and report.hash not in known[pk]
    ]
    shown = _look_up(work, fresh)
    if shown:
        crashpoint("signer.custody_sent")
    with transaction.atomic():
        guard(work.held)
        for row in rows:
            if row.pk in answers.given:
                _apply(work, row, _step(work, row, known[row.pk], answers.given[row.pk], shown))
            elif answers.is_silent:
                _wait(work, row, SubState(row.sub_state))
    if shown:
        ring_chain(work.chain.pk)
    return Asked(not answers.is_silent and not answers.is_slow, len(rows) == BATCH_SIZE)


def _due(work: Work) -> list[Transaction]:
    rows = Transaction.objects.filter(lane=work.lane, state__in=WITH_CUSTODY, look_at__lte=work.held.now())
    return list(rows.order_by("look_at")[:BATCH_SIZE])


def _ask(work: Work, rows: Sequence[Transaction]) -> Answers:
    answers, began = Answers(), time.monotonic()
    for row in rows:
        try:
            answers.given[row.pk] = _ask_about(work, row)
        except CustodyUnreachableError as error:
            answers.given[row.pk], answers.is_silent = error, True
            log.warning("custody_silent", lane=str(work.lane.pk), transaction=str(row.pk), text=error.message)
            return answers
        except KeyguardError as error:
            answers.given[row.pk] = error
            log.warning("custody_not_asked", transaction=str(row.pk), code=error.code, text=error.message)
        if time.monotonic() - began > BATCH_SECONDS:
            answers.is_slow = True
            return answers
    return answers


def _ask_about(work: Work, row: Transaction) -> Report:
    if row.state == TransactionState.BROADCASTING:
        return keyguard.custody_status(str(row.pk), timeout_seconds=CALL_SECONDS)
    if row.noop_outcome:
        return keyguard.call_off(str(row.pk), timeout_seconds=CALL_SECONDS)
    # The estimate is in the row since it was committed.
    request = request_of(row, work.lane, row.reserved_gas)
    return keyguard.hand_over(request, timeout_seconds=CALL_SECONDS)


def _hashes(rows: Sequence[Transaction]) -> dict[UUID, set[str]]:
    known: dict[UUID, set[str]] = {row.pk: set() for row in rows}
    for attempt in attempts_of(rows):
        known[attempt.transaction_id].add(attempt.hash)
    return known


def _look_up(work: Work, hashes: Sequence[str]) -> dict[str, Seen]:
    """Return what a node of this very chain shows under the hashes; what it does not show, or not whole, is left out."""
    answers = (
        work.rpc.batch([("eth_getTransactionByHash", [each]) for each in hashes], prove=True)
        if hashes
        else []
    )
    found = {each: judging.seen(answer, each) for each, answer in zip(hashes, answers, strict=True)}
    return {each: shown for each, shown in found.items() if shown is not None}


# --- What follows from it -----------------------------------------------------------------------------------


def _step(
    work: Work, row: Transaction, known: set[str], answer: Report | KeyguardError, shown: dict[str, Seen]
) -> Step:
    is_out = row.state == TransactionState.BROADCASTING
    if isinstance(answer, Report):
        step = judging.judge(row, work.lane.address, known, answer, shown.get(answer.hash))
        return _step_of_nonce(work, row, step) if step.move is Move.SENT else step
    if isinstance(answer, CustodyUnreachableError) or is_out:
        return Step(Move.WAIT, SubState(row.sub_state) if is_out else SubState.CUSTODY_SILENT)
    if isinstance(answer, CustodyForgotError):
        text = f"the custody had taken transaction {row.pk}, and has no such request now"
        return Step(Move.STOP, SubState.CUSTODY_FORGOT, text=text)
    return Step(Move.WAIT, SubState.SIGNER_UNAVAILABLE)


def _step_of_nonce(work: Work, row: Transaction, step: Step) -> Step:
    """A hash and a nonce belong to one transaction: the custody may use a nonce again only after it gave up the other."""
    assert step.seen is not None
    if Attempt.objects.filter(hash=step.seen.hash).exists():
        text = (
            f"the custody names {step.seen.hash} for transaction {row.pk}, which it had named for another one"
        )
        return Step(Move.ALARM, SubState.CUSTODY_ALTERED, text=text)
    others = Transaction.objects.filter(lane=work.lane, nonce=step.seen.nonce).exclude(pk=row.pk)
    return Step(Move.WAIT, SubState.CUSTODY_SENT) if others.exists() else step


def _apply(work: Work, row: Transaction, step: Step) -> None:
    """Within the owner's guarded transaction."""
    match step.move:
        case Move.WAIT:
            _wait(work, row, step.sub_state)
        case Move.STOP:
            _wait(work, row, step.sub_state)
            block(work.lane, step.text)
        case Move.ALARM:
            _raise_alarm(work, row, step)
        case Move.END:
            assert step.error is not None
            _end(row, step.error)
        case Move.SENT:
            assert step.seen is not None
            _record_sent(work, row, step.seen, step.purpose)


def _wait(work: Work, row: Transaction, sub_state: SubState) -> None:
    """Put the next look off, for longer each time that nothing is new."""
    looks = row.vain_looks + 1 if sub_state == row.sub_state else 0
    # Unless somebody has called it off meanwhile: then it stays due.
    rows = Transaction.objects.filter(pk=row.pk, state=row.state, noop_outcome=row.noop_outcome)
    # The watcher may have proved that its nonce was used otherwise, after it was read.
    rows = rows.filter(sub_state=row.sub_state)
    look_at = work.held.now() + timedelta(seconds=judging.wait_seconds(looks))
    rows.update(sub_state=sub_state, vain_looks=min(looks, 100), look_at=look_at)


def _raise_alarm(work: Work, row: Transaction, step: Step) -> None:
    rows = Transaction.objects.filter(pk=row.pk, state=row.state)
    rows.update(sub_state=step.sub_state, look_at=None)
    block(work.lane, step.text)
    text = f"{step.text[0].upper()}{step.text[1:]}. Nothing more is handed over from {work.lane}."
    subject = f"transaction {row.pk}"
    open_incident(IncidentKind.CUSTODY_ALTERED, subject, text, lane=work.lane, transaction=str(row.pk))


def _end(row: Transaction, error: dict[str, str]) -> None:
    if row.state == TransactionState.SIGNING:
        settling.end_unsent({row.pk: error}, TransactionState(row.noop_outcome or TransactionState.FAILED))
    else:
        settling.end_given_up(row, error)


def _record_sent(work: Work, row: Transaction, shown: Seen, purpose: Purpose) -> None:
    """Record what a node shows: the watcher looks for its receipt from now on, beside those of earlier ones."""
    now = work.held.now()
    attempt = _attempt(work, row, shown, purpose)
    attempt.first_sent_at = attempt.last_sent_at = now
    attempt.save(force_insert=True)
    updates = {
        "state": TransactionState.BROADCASTING,
        "sub_state": "",
        "nonce": shown.nonce,
        "reserved_wei": row.reservation_wei(attempt),
        "reserved_gas": max(row.reserved_gas, attempt.gas_limit),
        "vain_looks": 0,
        "look_at": now + timedelta(seconds=judging.wait_seconds(0)),
    }
    if purpose == Purpose.NOOP and not row.noop_outcome:
        message = "the custody replaced it by a transaction that does nothing"
        updates |= {
            "noop_outcome": TransactionState.FAILED,
            "error": {"code": "CUSTODY_DROPPED", "message": message},
        }
    if not Transaction.objects.filter(pk=row.pk, state=row.state).update(**updates):
        raise FencedError(f"transaction {row.pk} was moved meanwhile")
    ids = {"transaction": str(row.pk), "lane": str(work.lane.pk), "hash": shown.hash}
    after_commit(lambda: log.info("transaction_seen", **ids, nonce=shown.nonce, purpose=purpose))


def _attempt(work: Work, row: Transaction, shown: Seen, purpose: Purpose) -> Attempt:
    last = Attempt.objects.filter(transaction=row).order_by("-seq").values_list("seq", flat=True).first()
    return Attempt(
        transaction=row,
        seq=0 if last is None else last + 1,
        purpose=purpose,
        nonce=shown.nonce,
        max_fee_per_gas_wei=shown.max_fee_per_gas_wei,
        max_priority_fee_per_gas_wei=shown.max_priority_fee_per_gas_wei,
        gas_limit=shown.gas_limit,
        value=shown.value,
        hash=shown.hash,
        epoch=work.held.epoch,
        state=AttemptState.SENT,
    )
