"""The end of a transaction, and telling the workflow that waits for it.

The only module that writes final states. Each is written by a conditional UPDATE on the state it leaves, in the
transaction that also wakes the waiting run: a run never waits for something that has ended.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from django.db.models.functions import Now

from signer.models import Attempt, Transaction
from signer.requests import WORKFLOW_SCOPE, Log, Receipt, TransactionRequest
from signer.statements import update_each
from signer.states import AttemptState, SubState, TransactionState, may_become
from workflows import CommandError, CommandResult, resolve_commands

log = structlog.get_logger()


# Nothing of these can be on a chain.
UNBEGUN = (
    TransactionState.RECEIVED,
    TransactionState.QUEUED,
    TransactionState.PREPARING,
    TransactionState.PENDING_APPROVAL,
)


def end_mined(winners: Mapping[UUID, UUID], state: TransactionState, at: datetime, **updates: Any) -> int:
    """Write the final state of transactions with the attempt of each that was mined; returns how many moved."""
    rows = {pk: (attempt,) for pk, attempt in winners.items()}
    same = {"state": state, "settled_at": at, "sub_state": "", **updates}
    return update_each(Transaction, ("winner",), rows, states=may_become(state), **same)


def end_unsent(errors: dict[UUID, dict[str, str]], state: TransactionState = TransactionState.FAILED) -> None:
    """End transactions that used no nonce, each with its error. Within the caller's guarded transaction."""
    for pk, error in errors.items():
        rows = Transaction.objects.filter(pk=pk, nonce__isnull=True, state__in=may_become(state))
        rows.update(state=state, settled_at=Now(), sub_state="", error=error)
        log.info("transaction_settled", transaction=str(pk), state=state, code=error["code"])
    tell_workflows(list(errors))


def end_taken(pk: UUID) -> bool:
    """End a transaction as failed whose nonce provably was a stranger's; return whether it was one."""
    rows = Transaction.objects.filter(
        pk=pk, state=TransactionState.BROADCASTING, sub_state=SubState.NONCE_FOREIGN
    )
    error = {"code": "NONCE_USED_BY_STRANGER", "message": "a transaction that is not ours used its nonce"}
    if given_by_custody := rows.filter(lane__in_custody=True).first():
        end_given_up(given_by_custody, error)
        return True
    ended = rows.update(state=TransactionState.FAILED, settled_at=Now(), error=error)
    tell_workflows([pk] if ended else [])
    return bool(ended)


def end_altered(pk: UUID) -> bool:
    """End a transaction as failed in whose place its custody sent something else; return whether it was one."""
    rows = Transaction.objects.filter(
        pk=pk, state=TransactionState.SIGNING, sub_state=SubState.CUSTODY_ALTERED
    )
    message = "the custody sent something else than it was asked, and a person gave it up"
    error = {"code": "CUSTODY_SENT_SOMETHING_ELSE", "message": message}
    ended = rows.update(state=TransactionState.FAILED, settled_at=Now(), error=error)
    tell_workflows([pk] if ended else [])
    return bool(ended)


def end_given_up(row: Transaction, error: dict[str, str]) -> None:
    """End a transaction that its custody sent and gave up, and whose nonce provably was used otherwise.

    The nonce goes with it: the custody may have given it to the next one. Within the caller's guarded transaction.
    """
    rows = Transaction.objects.filter(
        pk=row.pk, state=TransactionState.BROADCASTING, sub_state=SubState.NONCE_FOREIGN
    )
    state = TransactionState(row.noop_outcome or TransactionState.FAILED)
    if rows.exists():
        # The nonce can be taken from the row only when no attempt of it is left: see the triggers.
        Attempt.objects.filter(transaction=row).update(state=AttemptState.VOID)
        rows.update(state=state, nonce=None, sub_state="", settled_at=Now(), error=error)
        log.info("transaction_settled", transaction=str(row.pk), state=state, code=error["code"])
        tell_workflows([row.pk])


def cancel_unbegun(pk: Any) -> bool:
    """Cancel a transaction that has no nonce; return whether it ended so.

    A worker that is about to give it one finds it moved when it commits, and then gives out none of that batch's nonces.
    """
    rows = Transaction.objects.filter(pk=pk, nonce__isnull=True, state__in=UNBEGUN)
    error = {"code": "TRANSACTION_CANCELLED", "message": "whoever asked for it no longer wants it"}
    return rows.update(state=TransactionState.CANCELLED, settled_at=Now(), sub_state="", error=error) == 1


def tell_workflows(ids: Sequence[UUID]) -> None:
    """Wake the runs that wait for these settled transactions."""
    rows = Transaction.objects.filter(pk__in=ids, scope=WORKFLOW_SCOPE).select_related("winner").defer("data")
    results = {str(row.pk): result_of(row) for row in rows}
    if results:
        resolve_commands(TransactionRequest.kind, results)


def result_of(row: Transaction) -> CommandResult:
    """Return what a settled transaction means to the step that asked for it."""
    if row.state == TransactionState.COMPLETED:
        assert row.winner is not None
        return CommandResult(value=receipt_of(row, row.winner).model_dump(mode="json"))
    error = row.error or {"code": f"TRANSACTION_{row.state}", "message": "the transaction was not executed"}
    return CommandResult(error=CommandError(code=error["code"], message=error["message"]))


def receipt_of(row: Transaction, attempt: Attempt) -> Receipt:
    """Return the receipt of a mined transaction, from the attempt that was mined."""
    raw = attempt.receipt
    assert raw is not None
    return Receipt(
        transaction_id=str(row.pk),
        transaction_hash=attempt.hash,
        chain_id=row.chain_id,
        block_number=int(raw["blockNumber"], 16),
        block_hash=raw["blockHash"].lower(),
        gas_used=int(raw["gasUsed"], 16),
        contract_address=raw.get("contractAddress"),
        logs=[Log(address=log["address"], topics=log["topics"], data=log["data"]) for log in raw["logs"]],
    )
