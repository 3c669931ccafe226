"""From a decision (this transaction, this nonce, these fees) to attempt rows ready to be inserted.

Nothing is written here and nothing is sent. A signature that is never committed is never sent, so signing again
after a crash, for the same nonce, does no harm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog

import keyguard
from keyguard import ApprovalPendingError, KeyguardError, SignedTransaction, SigningRequest
from signer.admission import PLAIN_TRANSFER_GAS
from signer.fees import Fees
from signer.models import Attempt, Chain, Lane, Transaction
from signer.states import FeeMarket, Purpose
from workflows import Claim, Disposition

log = structlog.get_logger()


@dataclass(frozen=True)
class Draft:
    """What is to be signed."""

    transaction: Transaction
    seq: int
    purpose: Purpose
    nonce: int
    gas_limit: int
    fees: Fees

    @property
    def value(self) -> int:
        return 0 if self.purpose == Purpose.NOOP else self.transaction.value


@dataclass
class Signed:
    """Attempts in the order of their drafts, and what could not be signed."""

    attempts: list[Attempt] = field(default_factory=list)
    refused: dict[UUID, dict[str, str]] = field(default_factory=dict)  # keyguard will never sign these
    postponed: list[UUID] = field(default_factory=list)  # keyguard cannot sign these now
    pending: list[UUID] = field(default_factory=list)  # keyguard asks people first


def noop(row: Transaction, seq: int, nonce: int, fees: Fees) -> Draft:
    """Return the draft that takes a nonce and does nothing: no value, to itself."""
    return Draft(row, seq, Purpose.NOOP, nonce, PLAIN_TRANSFER_GAS, fees)


def sign(held: Claim[Lane], chain: Chain, drafts: Sequence[Draft]) -> Signed:
    """Sign the drafts, whose nonces ascend without a gap, in one call.

    When keyguard refuses the batch they are signed one by one, to find the one it refuses; those behind it move up by
    one nonce, so that no gap remains. Only for first attempts: a replacement keeps its nonce (`sign_replacements`).
    """
    try:
        answers = keyguard.sign_transactions([_request(held, chain, draft) for draft in drafts])
        return Signed([_attempt(held, draft, answer) for draft, answer in zip(drafts, answers, strict=True)])
    except KeyguardError as error:
        log.warning("batch_not_signed", lane=str(held.row.pk), code=error.code, transactions=len(drafts))
    return _one_by_one(held, chain, drafts)


def _one_by_one(held: Claim[Lane], chain: Chain, drafts: Sequence[Draft]) -> Signed:
    signed = Signed()
    nonce = drafts[0].nonce
    for place, draft in enumerate(drafts):
        moved = Draft(draft.transaction, draft.seq, draft.purpose, nonce, draft.gas_limit, draft.fees)
        try:
            [answer] = keyguard.sign_transactions([_request(held, chain, moved)])
        except ApprovalPendingError:
            signed.pending.append(draft.transaction.pk)
            continue
        except KeyguardError as error:
            if error.disposition.value != Disposition.FAIL.value:
                signed.postponed = [later.transaction.pk for later in drafts[place:]]
                break
            signed.refused[draft.transaction.pk] = {"code": error.code, "message": error.message}
            continue
        signed.attempts.append(_attempt(held, moved, answer))
        nonce += 1
    return signed


def sign_replacements(held: Claim[Lane], chain: Chain, drafts: Sequence[Draft]) -> list[Attempt]:
    """Sign replacements, each at its own nonce; what keyguard does not sign is left out and tried again later."""
    attempts = []
    for draft in drafts:
        try:
            [answer] = keyguard.sign_transactions([_request(held, chain, draft)])
        except KeyguardError as error:
            log.warning("replacement_not_signed", transaction=str(draft.transaction.pk), code=error.code)
            continue
        attempts.append(_attempt(held, draft, answer))
    return attempts


def _request(held: Claim[Lane], chain: Chain, draft: Draft) -> SigningRequest:
    # The epoch: a worker that takes over may see another fee, and must not be given its predecessor's signature for it.
    # All that may differ besides: within one claim the same transaction may be signed again after the batch was cut short.
    fees = f"{draft.gas_limit}:{draft.fees.max_fee_per_gas_wei}:{draft.fees.max_priority_fee_per_gas_wei}"
    key = f"{draft.transaction.pk}:{draft.seq}:{held.epoch}:{draft.nonce}:{fees}"
    return SigningRequest(
        idempotency_key=key, address=held.row.address, transaction=_fields(held.row, chain, draft)
    )


def _fields(lane: Lane, chain: Chain, draft: Draft) -> dict[str, Any]:
    row = draft.transaction
    is_noop = draft.purpose == Purpose.NOOP
    fields: dict[str, Any] = {
        "chainId": chain.pk,
        "nonce": draft.nonce,
        "gas": draft.gas_limit,
        "to": lane.address if is_noop else row.to,
        "value": draft.value,
        "data": "0x" if is_noop else row.data,
        "from": lane.address,
    }
    if chain.fee_market == FeeMarket.LEGACY:
        return {**fields, "gasPrice": draft.fees.max_fee_per_gas_wei}
    return {
        **fields,
        "maxFeePerGas": draft.fees.max_fee_per_gas_wei,
        "maxPriorityFeePerGas": draft.fees.max_priority_fee_per_gas_wei,
    }


def _attempt(held: Claim[Lane], draft: Draft, answer: SignedTransaction) -> Attempt:
    return Attempt(
        transaction=draft.transaction,
        seq=draft.seq,
        purpose=draft.purpose,
        nonce=draft.nonce,
        max_fee_per_gas_wei=draft.fees.max_fee_per_gas_wei,
        max_priority_fee_per_gas_wei=draft.fees.max_priority_fee_per_gas_wei,
        gas_limit=draft.gas_limit,
        value=draft.value,
        raw=answer.raw,
        hash=answer.hash.lower(),
        epoch=held.epoch,
    )
