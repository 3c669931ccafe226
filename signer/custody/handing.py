"""From what waits in the lane to what may be handed over: checked, tried on the chain, paid for, and committed so.

SIGNING is committed before the custody is asked. Whoever dies on either side leaves a row that is looked up by its
id, and handed over when the custody has no such request.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Min, Sum

import keyguard
from keyguard import ApprovalPendingError, HandOverRequest, KeyguardError
from signer import error_rules, flights, granting, queue, settling
from signer.admission import Admission, Ready, admit, questions
from signer.errors import ChainMismatchError, RpcError
from signer.market import read_market
from signer.models import Lane, Transaction
from signer.standing import gives_nonces
from signer.statements import update_each
from signer.states import LaneState, SubState, TransactionState
from signer.work import Work
from workflows import Disposition, FencedError, crashpoint, guard

log = structlog.get_logger()

crashpoint.register(
    "signer.planned", "keyguard has the intents, the transactions are not committed as handed over"
)
crashpoint.register(
    "signer.handing_over", "transactions are committed as handed over, the custody is not asked"
)


def hand(work: Work) -> bool:
    """Commit what can be handed over to the custody; return whether more may follow."""
    if work.lane.state != LaneState.ACTIVE:
        return granting.hold(work, granting.STANDSTILL[LaneState(work.lane.state)])
    candidates = list(granting.next_waiting(work, granting.BATCH_SIZE))
    if not candidates:
        return False
    granting.take(work, candidates)
    admission = _ask_and_decide(work, candidates)
    granting.write_down(work, candidates, admission)
    ready = _plan(work, admission)
    crashpoint("signer.planned")
    if ready:
        try:
            _commit(work, admission, ready)
        except granting.StandstillError:
            return granting.hold(work, SubState.LANE_PAUSED)
        crashpoint("signer.handing_over")
    queue.take(work.lane.pk, [*admission.refused, *(item.transaction.pk for item in ready)])
    if ready or admission.refused or admission.unclear:
        return True
    return granting.hold(work, admission.why)


def request_of(row: Transaction, lane: Lane, gas_limit: int | None = None) -> HandOverRequest:
    """Return what the custody is asked for, under the transaction's own id. gas_limit: as estimated."""
    call: dict[str, Any] = {
        "chainId": row.chain_id,
        "from": lane.address,
        "to": row.to,
        "value": row.value,
        "data": row.data,
        "maxFeePerGas": lane.chain.max_fee_per_gas_wei,
    }
    gas = row.gas_limit or gas_limit
    return HandOverRequest(str(row.pk), lane.address, call | ({"gas": gas} if gas else {}), row.scope)


def _ask_and_decide(work: Work, candidates: Sequence[Transaction]) -> Admission:
    """Have the chain try them, and see whether the address can pay at our own estimate of what the custody will offer."""
    asked = questions(candidates, work.lane.address, work.chain.l1_fee_oracle)
    try:
        market, given = read_market(work.rpc, work.chain, work.lane.address, asked.calls)
    except (RpcError, ChainMismatchError) as error:
        log.warning("lane_waits", lane=str(work.lane.pk), code=error.code, text=error.message)
        return Admission(waiting=[row.pk for row in candidates], why=SubState.NODE_UNAVAILABLE)
    committed = flights.survey(work.lane).cost_wei + _promised_wei(work.lane)
    rules = error_rules.of_chain(work.chain.pk)
    # Room in a pool is the custody's business: how much gas is out does not count.
    return admit(candidates, asked.answers(given), market, committed, 0, rules)


def _promised_wei(lane: Lane) -> int:
    """Return the most that what the custody has may still cost."""
    rows = Transaction.objects.filter(lane=lane, state=TransactionState.SIGNING)
    return int(rows.aggregate(sum=Sum("reserved_wei"))["sum"] or 0)


def _plan(work: Work, admission: Admission) -> list[Ready]:
    """Have keyguard check them and record the intents; return those that may be handed over."""
    requests = {
        item.transaction.pk: request_of(item.transaction, work.lane, item.gas_limit)
        for item in admission.ready
    }
    errors = {UUID(pk): error for pk, error in keyguard.plan_hand_overs(list(requests.values())).items()}
    pending = [pk for pk, error in errors.items() if isinstance(error, ApprovalPendingError)]
    final = {pk: error for pk, error in errors.items() if pk not in pending and _is_final(error)}
    postponed = [pk for pk in errors if pk not in pending and pk not in final]
    if errors:
        refused = {pk: {"code": error.code, "message": error.message} for pk, error in final.items()}
        with transaction.atomic():
            guard(work.held)
            settling.end_unsent(refused)
            granting.requeue(postponed, SubState.SIGNER_UNAVAILABLE)
            granting.await_approval(pending)
        admission.refused |= refused
        admission.why = SubState.SIGNER_UNAVAILABLE if postponed else admission.why
    return [item for item in admission.ready if item.transaction.pk not in errors]


def _is_final(error: KeyguardError) -> bool:
    return error.disposition.value == Disposition.FAIL.value


def _commit(work: Work, admission: Admission, ready: Sequence[Ready]) -> None:
    """Raises StandstillError when the lane was paused meanwhile, FencedError when it or a transaction was moved."""
    now = work.held.now()
    with transaction.atomic():
        guard(work.held)
        if not gives_nonces(work.lane):
            raise granting.StandstillError
        moved = update_each(
            Transaction,
            ("reserved_wei", "reserved_gas", "l1_fee_wei"),
            {item.transaction.pk: (item.max_cost_wei, item.gas_limit, item.l1_fee_wei) for item in ready},
            states=[TransactionState.PREPARING],
            state=TransactionState.SIGNING,
            sub_state=SubState.HANDING_OVER,
            broadcast_at=now,
            look_at=_first_look(work.lane, now),
            vain_looks=0,
        )
        if moved != len(ready):
            raise FencedError(f"lane {work.lane.pk}: {len(ready) - moved} transactions were moved meanwhile")
        granting.money_is_there(work, admission)


def _first_look(lane: Lane, now: datetime) -> datetime:
    """Return when the custody is to be asked: at once, or, while it gives no answers, when it is asked next anyway."""
    silent = Transaction.objects.filter(
        lane=lane, state=TransactionState.SIGNING, sub_state=SubState.CUSTODY_SILENT, look_at__gt=now
    )
    return silent.aggregate(next=Min("look_at"))["next"] or now
