"""From a decision (this transaction, this nonce, these fees) to attempt rows ready to be inserted.

Upheld: every attempt of a transaction is of the same kind (EIP-2718), but for the no-op in place of one with an access
list or authorisations, or of blobs that every node refused, which is a plain one. Nothing is written here and nothing is
sent. A signature that is never committed is never sent, so signing again after a crash, for the same nonce, does no harm.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import structlog

import keyguard
from keyguard import (
    ApprovalPendingError,
    KeyguardError,
    SignedAuthorization,
    SignedTransaction,
    SigningRequest,
)
from signer.authorities import Nonces, nonce_of
from signer.carrying import authorizations_of, blobs_of
from signer.fees import Fees
from signer.models import Attempt, Authorization, Chain, Lane, Transaction
from signer.requests import BLOB_BYTES
from signer.states import GAS_PRICED, Envelope, FeeMarket, Purpose
from workflows import Claim, Disposition

log = structlog.get_logger()

TYPES = {
    Envelope.LEGACY: 0,
    Envelope.ACCESS_LIST: 1,
    Envelope.DYNAMIC_FEE: 2,
    Envelope.BLOB: 3,
    Envelope.SET_CODE: 4,
}
# A pool for blobs replaces nothing by what carries none.
EMPTY_BLOB = bytes(BLOB_BYTES)


@dataclass(frozen=True)
class Draft:
    """What is to be signed."""

    transaction: Transaction
    seq: int
    purpose: Purpose
    nonce: int
    gas_limit: int
    fees: Fees
    is_plain: bool = False  # a no-op without blobs: no pool holds any that it would have to replace

    @property
    def value(self) -> int:
        return 0 if self.purpose == Purpose.NOOP else self.transaction.value

    def envelope_on(self, chain: Chain) -> Envelope:
        """Return the kind of transaction to sign."""
        asked = Envelope(self.transaction.envelope)
        if self.purpose != Purpose.NOOP or (asked == Envelope.BLOB and not self.is_plain):
            return asked
        legacy = asked in GAS_PRICED or chain.fee_market == FeeMarket.LEGACY
        return Envelope.LEGACY if legacy else Envelope.DYNAMIC_FEE


@dataclass
class Signed:
    """Attempts in the order of their drafts, and what could not be signed."""

    attempts: list[Attempt] = field(default_factory=list)
    refused: dict[UUID, dict[str, str]] = field(default_factory=dict)  # keyguard will never sign these
    postponed: list[UUID] = field(default_factory=list)  # keyguard cannot sign these now
    pending: list[UUID] = field(default_factory=list)  # keyguard asks people first


def noop(
    row: Transaction, seq: int, nonce: int, gas_limit: int, fees: Fees, *, is_plain: bool = False
) -> Draft:
    """Return the draft that takes a nonce and does nothing: no value, to itself; is_plain: as of Draft."""
    return Draft(row, seq, Purpose.NOOP, nonce, gas_limit, fees, is_plain)


def sign(held: Claim[Lane], chain: Chain, drafts: Sequence[Draft], nonces: Nonces | None = None) -> Signed:
    """Sign the drafts, whose nonces ascend without a gap, in one call.

    nonces: of the accounts that authorise in them (`authorities.read_nonces`). When keyguard refuses the batch they are
    signed one by one, to find the one it refuses; those behind it move up by one nonce, so that no gap remains. Only
    for first attempts: a replacement keeps its nonce (`sign_replacements`).
    """
    press = _Press(held, chain, drafts, nonces or {})
    try:
        return Signed(press.sign(drafts))
    except KeyguardError as error:
        log.warning("batch_not_signed", lane=str(held.row.pk), code=error.code, transactions=len(drafts))
    return _one_by_one(press, drafts)


def _one_by_one(press: "_Press", drafts: Sequence[Draft]) -> Signed:
    signed = Signed()
    nonce = drafts[0].nonce
    for place, draft in enumerate(drafts):
        moved = replace(draft, nonce=nonce)
        try:
            signed.attempts += press.sign([moved])
        except ApprovalPendingError:
            signed.pending.append(draft.transaction.pk)
            continue
        except KeyguardError as error:
            if error.disposition.value != Disposition.FAIL.value:
                signed.postponed = [later.transaction.pk for later in drafts[place:]]
                break
            signed.refused[draft.transaction.pk] = {"code": error.code, "message": error.message}
            continue
        nonce += 1
    return signed


def sign_replacements(held: Claim[Lane], chain: Chain, drafts: Sequence[Draft]) -> list[Attempt]:
    """Sign replacements, each at its own nonce; what keyguard does not sign is left out and tried again later."""
    press = _Press(held, chain, drafts, {})
    attempts = []
    for draft in drafts:
        try:
            attempts += press.sign([draft])
        except KeyguardError as error:
            log.warning("replacement_not_signed", transaction=str(draft.transaction.pk), code=error.code)
    return attempts


class _Press:
    """Makes attempts of drafts, and has at hand what their transactions carry."""

    def __init__(self, held: Claim[Lane], chain: Chain, drafts: Sequence[Draft], nonces: Nonces) -> None:
        self.held, self.chain, self.nonces = held, chain, nonces
        rows = [draft.transaction for draft in drafts if draft.purpose != Purpose.NOOP]
        self.blobs = blobs_of(rows)
        self.authorizations = authorizations_of(rows)

    def sign(self, drafts: Sequence[Draft]) -> list[Attempt]:
        """Return the attempts, all or none. Raises KeyguardError."""
        answers = keyguard.sign_transactions([self._request(draft) for draft in drafts])
        return [self._attempt(draft, answer) for draft, answer in zip(drafts, answers, strict=True)]

    def _request(self, draft: Draft) -> SigningRequest:
        # The epoch: a worker that takes over may see another fee, and must not be given its predecessor's signature for
        # it. All that may differ besides: within one claim the same transaction may be signed again after the batch was
        # cut short.
        fees, signed = draft.fees, self._authorize(draft)
        parts = [draft.transaction.pk, draft.seq, self.held.epoch, draft.nonce, draft.gas_limit]
        parts += [fees.max_fee_per_gas_wei, fees.max_priority_fee_per_gas_wei, fees.max_fee_per_blob_gas_wei]
        parts.append(hashlib.sha256(repr([one["nonce"] for one in signed]).encode()).hexdigest()[:16])
        key = ":".join(str(part) for part in parts)
        row, fields = draft.transaction, self._fields(draft, signed)
        return SigningRequest(key, self.held.row.address, fields, subject=str(row.pk), caller=row.scope)

    def _fields(self, draft: Draft, authorizations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        row, envelope = draft.transaction, draft.envelope_on(self.chain)
        is_noop = draft.purpose == Purpose.NOOP
        fields: dict[str, Any] = {
            "type": TYPES[envelope],
            "chainId": self.chain.pk,
            "nonce": draft.nonce,
            "gas": draft.gas_limit,
            "to": self.held.row.address if is_noop else row.to,
            "value": draft.value,
            "data": "0x" if is_noop else row.data,
            "from": self.held.row.address,
        }
        if envelope in GAS_PRICED:
            fields["gasPrice"] = draft.fees.max_fee_per_gas_wei
        else:
            fields["maxFeePerGas"] = draft.fees.max_fee_per_gas_wei
            fields["maxPriorityFeePerGas"] = draft.fees.max_priority_fee_per_gas_wei
        if envelope == Envelope.BLOB:
            fields["maxFeePerBlobGas"] = draft.fees.max_fee_per_blob_gas_wei
            fields["blobs"] = self._blobs(draft)
        if envelope == Envelope.SET_CODE:
            fields["authorizationList"] = authorizations
        if row.access_list and not is_noop:
            fields["accessList"] = row.access_list
        return fields

    def _blobs(self, draft: Draft) -> list[bytes]:
        return self.blobs.get(draft.transaction.pk, [EMPTY_BLOB])

    def _authorize(self, draft: Draft) -> list[dict[str, Any]]:
        """Have the authorities sign what the transaction carries, each for its nonce."""
        if draft.purpose == Purpose.NOOP:
            return []
        carried = self.authorizations.get(draft.transaction.pk, [])
        return [self._authorization(one, draft).fields() for one in carried]

    def _authorization(self, authorization: Authorization, draft: Draft) -> SignedAuthorization:
        nonce = nonce_of(authorization, self.held.row, draft.nonce, self.nonces)
        assert nonce is not None, "admitted without it"
        return keyguard.sign_authorization(
            authorization.lane.address,
            self.chain.pk,
            authorization.delegate,
            nonce,
            f"{draft.transaction.pk}:authorization:{authorization.position}:{nonce}",
            subject=str(draft.transaction.pk),
            caller=draft.transaction.scope,
        )

    def _attempt(self, draft: Draft, answer: SignedTransaction) -> Attempt:
        is_blob = draft.envelope_on(self.chain) == Envelope.BLOB
        return Attempt(
            transaction=draft.transaction,
            seq=draft.seq,
            purpose=draft.purpose,
            nonce=draft.nonce,
            max_fee_per_gas_wei=draft.fees.max_fee_per_gas_wei,
            max_priority_fee_per_gas_wei=draft.fees.max_priority_fee_per_gas_wei,
            max_fee_per_blob_gas_wei=draft.fees.max_fee_per_blob_gas_wei if is_blob else 0,
            blob_count=len(self._blobs(draft)) if is_blob else 0,
            gas_limit=draft.gas_limit,
            value=draft.value,
            raw=answer.raw,
            hash=answer.hash.lower(),
            epoch=self.held.epoch,
        )
