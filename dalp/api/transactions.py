"""Transactions over REST: submit one, follow it. Never its signed bytes: they are the signer's to send."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from ninja import Query, Router, Schema
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from dalp.api import schemas
from dalp.api.auth import TENANT_OPERATOR, TENANT_VIEWER, actor, addresses_of, caller, scope
from dalp.api.decisions import Word, carried_out
from dalp.api.idempotency import once
from dalp.api.pagination import FilterText, Page, instant, paginate
from dalp.api.problems import by_field, invalid, not_found, unknown_key
from dalp.api.schemas import READ_ERRORS as READ
from dalp.api.schemas import WRITE_ERRORS as WRITE
from dalp.api.schemas import Page as Listing
from dalp.api.schemas import idempotency_key
from dalp.models import ApiToken
from keyguard import KeyNotFoundError
from signer import (
    TransactionRequest,
    UnknownChainError,
    cancel_transaction,
    give_up_transaction,
    receipt_of,
    requeue_transaction,
    speed_up_transaction,
    submit_transaction,
)
from signer.errors import AuthorityTwiceError, EnvelopeUnsupportedError, UnknownAuthorityError
from signer.fees import Fees
from signer.models import Attempt, Authorization, Transaction
from signer.requests import MAX_AUTHORIZATIONS, MAX_BLOBS
from signer.sentences import why
from signer.states import TransactionState

router = Router(tags=["transactions"], auth=TENANT_VIEWER)


def amount(given: Any) -> int:
    """Return an amount of wei given as a decimal string or a whole JSON number; nothing is ever rounded."""
    if isinstance(given, str) and AMOUNT.fullmatch(given):
        return int(given)
    if type(given) is int and given >= 0:
        return given
    raise ValueError("must be a whole number of wei as a decimal string")


AMOUNT = re.compile(r"[0-9]{1,78}", re.ASCII)
Amount = Annotated[
    int,
    BeforeValidator(amount),
    Field(le=2**256 - 1),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,78}$", "description": "wei, a decimal string"}),
]


class AccessListItem(Schema):
    """A contract that the transaction will touch, and its storage slots (EIP-2930)."""

    model_config = ConfigDict(extra="forbid")

    address: str
    storageKeys: list[str] = Field(description="0x text of 32 bytes each")  # noqa: N815


class AuthorizationRequest(Schema):
    """That a contract's code shall act for an account (EIP-7702)."""

    model_config = ConfigDict(extra="forbid")

    authority: str = Field(description="the alias or address of the account's key")
    delegate: str = Field(description="a contract that is allowed; the zero address takes a delegation back")


class SubmitTransaction(Schema):
    """One intent. wei amounts are decimal strings (whole JSON numbers are taken, too)."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)

    chain_id: int = Field(gt=0, strict=True)
    sender: str = Field(alias="from", min_length=1, max_length=100, description="a key's alias or address")
    to: str | None = Field(None, description="null deploys a contract")
    value: Amount = Field(0, json_schema_extra={"default": "0"})
    data: str = "0x"
    gas_limit: int | None = Field(None, strict=True)
    speed: Literal["economy", "standard", "fast"] = "standard"
    valid_until: AwareDatetime | None = Field(None, description="not begun after this instant")
    access_list: list[AccessListItem] | None = None
    envelope: Literal["legacy", "access_list", "dynamic_fee"] | None = Field(
        None, description="the kind of transaction, where the chain's own does not do"
    )
    blobs: list[str] = Field([], max_length=MAX_BLOBS, description="0x text of 131072 bytes each (EIP-4844)")
    authorizations: list[AuthorizationRequest] = Field(
        [], max_length=MAX_AUTHORIZATIONS, description="accounts to be handed over; needs gas_limit"
    )
    priority: int = Field(0, ge=0, le=9, strict=True, description="higher ones get their nonces first")


class TransactionFilters(Page):
    """Which transactions to list."""

    state: TransactionState | None = None
    chain_id: int | None = Field(None, gt=0, lt=2**63)
    hash: FilterText | None = None
    correlation_id: FilterText | None = None


def present_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return one signed form of a transaction as the API shows it."""
    return {
        "seq": attempt.seq,
        "purpose": attempt.purpose,
        "state": attempt.state,
        "hash": attempt.hash,
        "nonce": attempt.nonce,
        "max_fee_per_gas_wei": decimal_text(attempt.max_fee_per_gas_wei),
        "max_priority_fee_per_gas_wei": decimal_text(attempt.max_priority_fee_per_gas_wei),
        "max_fee_per_blob_gas_wei": decimal_text(attempt.max_fee_per_blob_gas_wei),
        "gas_limit": attempt.gas_limit,
        "send_count": attempt.send_count,
        "first_sent_at": instant(attempt.first_sent_at),
        "last_sent_at": instant(attempt.last_sent_at),
        "last_error": attempt.last_error,
        "last_error_message": attempt.last_error_message,
    }


def decimal_text(amount: Any) -> str | None:
    """Return an amount of wei as text: a JSON number would lose its last digits in many readers."""
    return None if amount is None else str(int(amount))


def present_receipt(transaction: Transaction, winner: Attempt) -> dict[str, Any] | None:
    """Return the proof that the transaction was executed; `status` 0 means that it reverted."""
    if winner.receipt is None:
        return None
    receipt = receipt_of(transaction, winner).model_dump(mode="json")
    return {**receipt, "status": int(winner.receipt.get("status", "0x1"), 16)}


def present_authorization(authorization: Authorization) -> dict[str, Any]:
    """Return an account's authorisation as the API shows it; its nonce once it is signed."""
    return {
        "authority": authorization.lane.address,
        "delegate": authorization.delegate,
        "nonce": authorization.nonce,
    }


def present(transaction: Transaction) -> dict[str, Any]:
    """Return a transaction as the API shows it."""
    attempts = sorted(transaction.attempts.all(), key=lambda attempt: attempt.seq)
    return present_with(transaction, attempts, transaction.authorizations.all())


def present_with(
    transaction: Transaction, attempts: Sequence[Attempt], authorizations: Iterable[Authorization]
) -> dict[str, Any]:
    winner = next((attempt for attempt in attempts if attempt.pk == transaction.winner_id), None)
    shown = winner or (attempts[-1] if attempts else None)
    return {
        "id": str(transaction.pk),
        "state": transaction.state,
        "sub_state": transaction.sub_state,
        "why": why(transaction),
        "chain_id": transaction.chain_id,
        "from": transaction.lane.address,
        "to": transaction.to,
        "value": decimal_text(transaction.value),
        "data": transaction.data,
        "nonce": transaction.nonce,
        "hash": shown.hash if shown else None,
        "envelope": transaction.envelope.lower(),
        "access_list": transaction.access_list,
        "blob_count": transaction.blob_count,
        "authorizations": [present_authorization(one) for one in authorizations],
        "priority": transaction.priority,
        "speed": transaction.speed,
        "valid_until": instant(transaction.valid_until),
        "label": transaction.label,
        "correlation_id": transaction.correlation_id,
        "attempts": [present_attempt(attempt) for attempt in attempts],
        "receipt": present_receipt(transaction, winner) if winner else None,
        "error": transaction.error,
        "created_at": instant(transaction.created_at),
        "settled_at": instant(transaction.settled_at),
    }


def transactions(token: ApiToken) -> "QuerySet[Transaction]":
    """Return the transactions of the caller's tenant with what showing them needs."""
    # Without the signed bytes, which are large where they carry blobs.
    attempts = Prefetch("attempts", Attempt.objects.defer("raw"))
    own = Transaction.objects.filter(lane__address__in=addresses_of(token))
    return own.select_related("lane", "chain").prefetch_related(attempts, "authorizations__lane")


def request_of(payload: SubmitTransaction) -> TransactionRequest:
    """Return the signer's request; raises ProblemError 422 that names the field."""
    try:
        return TransactionRequest.model_validate({"to": payload.to, **payload.model_dump(exclude_unset=True)})
    except ValidationError as error:
        found = by_field([dict(entry) for entry in error.errors(include_url=False, include_input=False)])
        raise invalid({"from" if name == "sender" else name: what for name, what in found.items()}) from None


@router.post(
    "/transactions",
    auth=TENANT_OPERATOR,
    response={202: schemas.Transaction, **WRITE},
    openapi_extra=idempotency_key(required=True),
    summary="Submit a transaction",
)
def submit(request: HttpRequest, payload: SubmitTransaction) -> HttpResponse:
    """Take a transaction on: from here on it will be sent exactly once. Needs an Idempotency-Key."""
    wanted = request_of(payload)

    def start(key: str) -> dict[str, Any]:
        try:
            transaction, is_new = submit_transaction(
                wanted,
                idempotency_key=key,
                scope=scope(caller(request)),
                tenant=caller(request).tenant,
                correlation_id=request.correlation_id,  # type: ignore[attr-defined]
            )
        except UnknownChainError as error:
            raise invalid({"chain_id": [str(error)]}, error.code) from None
        except KeyNotFoundError as error:
            raise unknown_key("from", error) from None
        except UnknownAuthorityError as error:
            raise unknown_key("authorizations", error) from None
        except AuthorityTwiceError as error:
            raise invalid({"authorizations": [str(error)]}, error.code) from None
        except EnvelopeUnsupportedError as error:
            given = [name for name in ("envelope", "blobs", "authorizations") if getattr(wanted, name)]
            raise invalid({given[0]: [str(error)]}, error.code) from None
        if not is_new or wanted.authorizations:
            return present(transactions(caller(request)).get(pk=transaction.pk))
        return present_with(transaction, attempts=[], authorizations=[])

    return once(request, payload.model_dump(mode="json", by_alias=True, exclude_unset=True), start)


@router.get(
    "/transactions",
    response={200: Listing[schemas.Transaction], **READ},
    by_alias=True,
    summary="Transactions, newest first",
)
def list_transactions(request: HttpRequest, filters: Query[TransactionFilters]) -> dict[str, Any]:
    """List transactions; `hash` finds the one that an attempt's hash belongs to."""
    wanted = filters.model_dump(include={"state", "correlation_id"}, exclude_none=True)
    rows = transactions(caller(request)).filter(**wanted)
    if filters.chain_id is not None:
        rows = rows.filter(lane__chain_id=filters.chain_id)  # lanes are indexed, chains are few
    if filters.hash is not None:
        rows = rows.filter(pk__in=Attempt.objects.filter(hash=filters.hash.lower()).values("transaction_id"))
    return paginate(request, rows, filters, present)


@router.get(
    "/transactions/{uuid:transaction_id}",
    response={200: schemas.Transaction, **READ},
    by_alias=True,
    summary="One transaction with its attempts",
)
def show_transaction(request: HttpRequest, transaction_id: UUID) -> dict[str, Any]:
    """Show a transaction."""
    transaction = transactions(caller(request)).filter(pk=transaction_id).first()
    if transaction is None:
        raise not_found("transaction")
    return present(transaction)


class SpeedUp(Word):
    """How high to go: both fees, or neither for an eighth more or the market, whichever is more.

    Of a transaction with blobs all three are doubled at least, the third also when it is left out.
    """

    max_fee_per_gas_wei: Amount | None = None
    max_priority_fee_per_gas_wei: Amount | None = None
    max_fee_per_blob_gas_wei: Amount = Field(0, json_schema_extra={"default": "0"})

    @model_validator(mode="after")
    def both_or_neither(self) -> "SpeedUp":
        """Refuse half an offer."""
        if (self.max_fee_per_gas_wei is None) != (self.max_priority_fee_per_gas_wei is None):
            raise ValueError("give both fees, or neither")
        if self.max_fee_per_blob_gas_wei and self.max_fee_per_gas_wei is None:
            raise ValueError("give the other two fees beside max_fee_per_blob_gas_wei")
        return self

    @property
    def offer(self) -> Fees | None:
        """The offer in wei per gas, or None."""
        if self.max_fee_per_gas_wei is None or self.max_priority_fee_per_gas_wei is None:
            return None
        fees = self.max_fee_per_gas_wei, self.max_priority_fee_per_gas_wei
        return Fees(*fees, self.max_fee_per_blob_gas_wei)


ACTING: dict[str, Any] = {
    "auth": TENANT_OPERATOR,
    "response": {202: schemas.Transaction, **WRITE, 503: schemas.Problem},
    "openapi_extra": idempotency_key(required=False),
}


def _found(request: HttpRequest, transaction_id: UUID) -> Transaction:
    row = transactions(caller(request)).select_related("chain").filter(pk=transaction_id).first()
    if row is None:
        raise not_found("transaction")
    return row


def intervene(
    request: HttpRequest, transaction_id: UUID, payload: Word, act: Callable[..., None]
) -> HttpResponse:
    """Do something about a transaction, and answer with it."""
    row = _found(request, transaction_id)

    def change() -> dict[str, Any]:
        act(row, actor=actor(caller(request)), reason=payload.reason.strip() or "over the API")
        return present(transactions(caller(request)).get(pk=transaction_id))

    return carried_out(request, payload, change)


@router.post("/transactions/{uuid:transaction_id}/cancel", summary="Have it not executed", **ACTING)
def cancel(request: HttpRequest, transaction_id: UUID, payload: Word) -> HttpResponse:
    """Cancel a transaction: at once before it has a nonce, else by a no-op at its nonce. The chain decides which wins.

    One that a custody has (SIGNING) is called off by the custody where that can, unless it has been sent.
    """
    return intervene(request, transaction_id, payload, cancel_transaction)


@router.post("/transactions/{uuid:transaction_id}/speed-up", summary="Raise its fees now", **ACTING)
def speed_up(request: HttpRequest, transaction_id: UUID, payload: SpeedUp) -> HttpResponse:
    """Replace a transaction at its nonce with higher fees, below the chain's ceiling."""
    return intervene(request, transaction_id, payload, partial(speed_up_transaction, offer=payload.offer))


@router.post("/transactions/{uuid:transaction_id}/requeue", summary="Give it another nonce", **ACTING)
def requeue(request: HttpRequest, transaction_id: UUID, payload: Word) -> HttpResponse:
    """Give another nonce to a transaction whose own a stranger's provably used (sub_state NONCE_FOREIGN)."""
    row = _found(request, transaction_id)
    # Its nodes are asked first, so not within the transaction of an Idempotency-Key; twice it is refused.
    requeue_transaction(row, actor=actor(caller(request)), reason=payload.reason.strip() or "over the API")
    return JsonResponse(present(transactions(caller(request)).get(pk=transaction_id)), status=202)


@router.post("/transactions/{uuid:transaction_id}/give-up", summary="End it as failed", **ACTING)
def give_up(request: HttpRequest, transaction_id: UUID, payload: Word) -> HttpResponse:
    """Fail a transaction whose nonce a stranger's provably used (sub_state NONCE_FOREIGN).

    Or one in whose place its custody sent something else (sub_state CUSTODY_ALTERED).
    """
    return intervene(request, transaction_id, payload, give_up_transaction)
