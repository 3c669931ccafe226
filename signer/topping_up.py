"""Filling a lane up from its treasury: at most so much in a day, one transfer at a time.

Upheld here: what is taken from a day's cap is reserved in the commit that makes the transfer's row, by an UPDATE on
condition that nobody has reserved meanwhile; so whatever starts top-ups at once, and whatever dies in between, no more
than the cap leaves the treasury in a day. A reservation is given back only when its transfer has ended without having
been executed.
"""

from datetime import date, timedelta
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import F, Q

import keyguard
from signer import runway
from signer.models import LaneMoney, TopUp
from signer.requests import TransactionRequest
from signer.states import FINAL, LaneState, TransactionState
from workflows import Operation, PermanentError, TransientError, db_now
from workflows.models import Run
from workflows.states import RunState

log = structlog.get_logger()

SCOPE = "signer.top_up"
# What stopped one (the key is gone, keyguard refuses) stops the next as well, until somebody has mended it.
AFTER_FAILURE = timedelta(minutes=10)


class Transfer(TransactionRequest):
    """Money from a treasury to a lane; its amount is taken from the day's cap in the commit that makes it."""

    top_up: int

    def submit(self, operation: Operation, index: int) -> str:
        reference = super().submit(operation, index)
        reserve(self.top_up, UUID(reference), self.value)
        return reference


def left_today_wei(rule: TopUp, today: date) -> int:
    """Return how much may still be taken from the cap today."""
    return max(0, int(rule.daily_cap_wei) - _reserved_wei(rule, today))


def _reserved_wei(rule: TopUp, today: date) -> int:
    return int(rule.reserved_wei) if rule.day == today else 0


def amount_wei(rule: TopUp, balance_wei: int, today: date, *, waits: bool) -> int:
    """Return how much is to be transferred now; 0 when nothing is missing, or the day's cap is used up."""
    missing = runway.missing_wei(balance_wei, int(rule.level_wei), waits=waits)
    return min(missing, left_today_wei(rule, today))


def can_help(rule: TopUp, money: LaneMoney) -> bool:
    """Return whether a transfer is under way, or may be made now."""
    if rule.transfer_id is not None:
        return True
    assert money.balance_wei is not None
    assert money.balance_at is not None
    return amount_wei(rule, money.balance_wei, money.balance_at.date(), waits=money.waits) > 0


def begin(lane_id: UUID, balance_wei: int, *, waits: bool) -> UUID | None:
    """Start the workflow that fills the lane up, unless that is under way or not possible; return its run.

    Of any number of simultaneous calls one starts it: the count of runs is raised by an UPDATE on what it was.
    """
    from signer.workflows import TopUpInput, TopUpLane

    settle(lane_id)
    rules = TopUp.objects.annotate(now=db_now()).select_related("lane").filter(lane_id=lane_id)
    rule: Any = rules.first()
    if rule is None or not _is_free(rule):
        return None
    if not amount_wei(rule, balance_wei, rule.now.date(), waits=waits):
        return None
    with transaction.atomic():
        rows = TopUp.objects.filter(pk=rule.pk, active=True, number=rule.number)
        if not rows.update(number=F("number") + 1):
            return None
        key = f"{rule.pk}:{rule.number + 1}"
        run = TopUpLane.start(TopUpInput(lane=lane_id), idempotency_key=key, scope=SCOPE)
        TopUp.objects.filter(pk=rule.pk).update(run_id=run.pk)
    log.info("top_up_started", lane=str(lane_id), run=str(run.pk))
    return UUID(str(run.pk))


def obstacle(rule: TopUp) -> str:
    """Return why an active rule transfers nothing now, as a person says it; blank: it does when its lane is low."""
    now: Any = TopUp.objects.annotate(now=db_now()).values_list("now", flat=True).get(pk=rule.pk)
    if rule.lane.state != LaneState.ACTIVE:
        return f"not while its lane is {rule.lane.state}"
    if not left_today_wei(rule, now.date()):
        return "not today: its cap is used up"
    run = _last_run(rule)
    if run is None or run.state == RunState.SUCCEEDED:
        return ""
    if run.finished_at is None:
        return f"its run is under way: {run.state}"
    again = run.finished_at + AFTER_FAILURE
    return f"its last run ended {run.state}, again after {again:%H:%M} UTC" if now < again else ""


def _last_run(rule: TopUp) -> Run | None:
    return Run.objects.filter(pk=rule.run_id).first() if rule.run_id else None


def _is_free(rule: Any) -> bool:
    if not rule.active or rule.transfer_id is not None or rule.lane.state != LaneState.ACTIVE:
        return False
    run = _last_run(rule)
    if run is None or run.state == RunState.SUCCEEDED:
        return True
    return run.finished_at is not None and bool(run.finished_at < rule.now - AFTER_FAILURE)


def find_rule(lane_id: UUID) -> TopUp:
    """Return the rule of a lane. Raises PermanentError when there is none that can pay, and says why."""
    rule = TopUp.objects.select_related("lane").filter(lane_id=lane_id).first()
    if rule is None or not rule.active:
        raise PermanentError("TOP_UP_PAUSED", f"the top-up of lane {lane_id} is paused, or there is none")
    try:
        treasury = keyguard.find_key(rule.treasury)
    except keyguard.KeyNotFoundError as error:
        raise PermanentError("TOP_UP_WITHOUT_TREASURY", str(error)) from None
    if treasury.address == rule.lane.address:
        text = f"{rule.treasury} is the key of the very lane that it is to fill up"
        raise PermanentError("TOP_UP_TO_ITSELF", text)
    return rule


def transfer(rule: TopUp, balance_wei: int) -> Transfer | None:
    """Return the transfer that fills the lane up, or None when nothing is to be transferred now."""
    today = TopUp.objects.annotate(now=db_now()).values_list("now", flat=True).get(pk=rule.pk).date()
    # Whoever asks found it low: the least that is missing is worth a transfer.
    amount = amount_wei(rule, balance_wei, today, waits=True)
    if not amount:
        return None
    return Transfer(
        top_up=rule.pk,
        chain_id=rule.lane.chain_id,
        sender=rule.treasury,
        to=rule.lane.address,
        value=amount,
        label=f"top up {rule.lane.address}",
    )


def reserve(pk: int, transfer_id: UUID, wei: int) -> None:
    """Take an amount from the day's cap for a transfer. Within the transaction that makes the transfer's row.

    Raises TransientError when another has reserved meanwhile or the rule was changed: nothing is made then.
    """
    rule: Any = TopUp.objects.annotate(now=db_now()).get(pk=pk)
    today = rule.now.date()
    if wei > left_today_wei(rule, today):
        raise TransientError("TOP_UP_CAP_REACHED", "what is left of the day's cap is less than the amount")
    as_read = {
        name: getattr(rule, name) for name in ("reserved_wei", "daily_cap_wei", "level_wei", "treasury")
    }
    same_day = Q(day__isnull=True) if rule.day is None else Q(day=rule.day)
    rows = TopUp.objects.filter(same_day, pk=pk, active=True, transfer__isnull=True, **as_read)
    reserved = _reserved_wei(rule, today) + wei
    if not rows.update(day=today, reserved_wei=reserved, transfer_id=transfer_id):
        raise TransientError(
            "TOP_UP_TAKEN", "another top-up of this lane is under way, or its rule was changed"
        )


def settle(lane_id: UUID) -> None:
    """See to a transfer that has ended: note it when it was executed, else give back what was reserved for it."""
    rule = TopUp.objects.select_related("transfer").filter(lane_id=lane_id).first()
    ended = rule.transfer if rule is not None else None
    if rule is None or ended is None or ended.state not in FINAL:
        return
    # Nobody reserves while there is a transfer, so `reserved_wei` stays what was read until it is cleared.
    rows = TopUp.objects.filter(pk=rule.pk, transfer=ended)
    if ended.state == TransactionState.COMPLETED:
        rows.update(transfer=None, filled_at=ended.settled_at, filled_wei=ended.value)
    else:
        rows.update(transfer=None, reserved_wei=max(0, int(rule.reserved_wei) - int(ended.value)))
