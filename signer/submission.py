"""Taking a transaction on: one INSERT, in the caller's own database transaction.

From its commit on the transaction will be executed, whatever dies: the row is all that is needed.
"""

from django.db import transaction

import keyguard
from signer import carrying
from signer.chains import find_chain
from signer.errors import IdempotencyConflictError
from signer.models import Lane, Transaction
from signer.requests import TransactionRequest
from signer.ringing import ring_lane_after_commit
from signer.states import TransactionKind
from workflows import crashpoint

crashpoint.register("signer.received", "after the transaction's row is committed, before anybody is woken")


def submit_transaction(
    request: TransactionRequest, *, idempotency_key: str, scope: str = "", correlation_id: str = ""
) -> tuple[Transaction, bool]:
    """Store the transaction and return it, with whether it is new. Joins the caller's database transaction.

    The same key with the same request returns the first one; of any number of simultaneous calls one inserts.
    Raises IdempotencyConflictError (the key was used for another request), UnknownChainError, KeyNotFoundError,
    UnknownAuthorityError, AuthorityTwiceError, EnvelopeUnsupportedError.
    """
    key = keyguard.find_key(request.sender)
    authorities = carrying.authorities(request)
    fingerprint = request.fingerprint()
    with transaction.atomic():
        lane = find_lane(request.chain_id, key.address)
        row = Transaction(
            chain_id=lane.chain_id,
            lane=lane,
            kind=TransactionKind.DEPLOYMENT if request.to is None else TransactionKind.CALL,
            to=request.to,
            value=request.value,
            data=request.data,
            gas_limit=request.gas_limit,
            priority=request.priority,
            speed=request.speed,
            valid_until=request.valid_until,
            label=request.label,
            scope=scope,
            idempotency_key=idempotency_key,
            request_hash=fingerprint,
            correlation_id=correlation_id,
            **carrying.columns(request, lane.chain.fee_market),
        )
        # The unique constraint decides who is first among those that come at once; a look before would not.
        Transaction.objects.bulk_create([row], ignore_conflicts=True)
        first = Transaction.objects.only("id", "request_hash").get(
            scope=scope, idempotency_key=idempotency_key
        )
        if first.pk != row.pk:
            return _first(scope, idempotency_key, fingerprint), False
        carrying.store(row, request, [find_lane(request.chain_id, address) for address in authorities])
        transaction.on_commit(lambda: crashpoint("signer.received"))
        ring_lane_after_commit(lane.pk, (row.pk, row.created_at.timestamp()))
    return row, True


def find_lane(chain_id: int, address: str) -> Lane:
    """Return the lane of an address, made at its first use. Raises UnknownChainError."""
    lane = Lane.objects.filter(chain_id=chain_id, address=address).select_related("chain").first()
    if lane is None:
        lane, _ = Lane.objects.get_or_create(chain=find_chain(chain_id), address=address)
    return lane


def _first(scope: str, idempotency_key: str, fingerprint: str) -> Transaction:
    first = Transaction.objects.get(scope=scope, idempotency_key=idempotency_key)
    if first.request_hash != fingerprint:
        raise IdempotencyConflictError(
            f"idempotency key {idempotency_key!r} was used for another request: transaction {first.pk}",
            str(first.pk),
        )
    return first
