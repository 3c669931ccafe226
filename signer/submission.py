"""Taking transactions on: one INSERT for any number of them, in the caller's own database transaction.

From its commit on each will be executed, whatever dies: the row is all that is needed.
"""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.utils import timezone

import keyguard
from keyguard.states import DEFAULT_TENANT
from signer import carrying
from signer.chains import find_chain
from signer.errors import EnvelopeUnsupportedError, IdempotencyConflictError
from signer.models import Lane, Transaction
from signer.requests import TransactionRequest
from signer.ringing import queue_after_commit
from signer.statements import insert_many
from signer.states import TransactionKind
from workflows import crashpoint

crashpoint.register("signer.received", "after the transaction's row is committed, before anybody is woken")


def submit_transaction(
    request: TransactionRequest,
    *,
    idempotency_key: str,
    scope: str = "",
    correlation_id: str = "",
    tenant: str = DEFAULT_TENANT,
) -> tuple[Transaction, bool]:
    """Store the transaction and return it, with whether it is new. Joins the caller's database transaction.

    tenant: whose keys may be named. The same key with the same request returns the first one; of any number of simultaneous calls one inserts.
    Raises IdempotencyConflictError (the key was used for another request), UnknownChainError, KeyNotFoundError,
    UnknownAuthorityError, AuthorityTwiceError, EnvelopeUnsupportedError.
    """
    [found] = submit_transactions(
        [(request, idempotency_key)], scope=scope, correlation_id=correlation_id, tenant=tenant
    )
    return found


def submit_transactions(
    requests: Sequence[tuple[TransactionRequest, str]],
    *,
    scope: str = "",
    correlation_id: str = "",
    tenant: str = DEFAULT_TENANT,
) -> list[tuple[Transaction, bool]]:
    """Store transactions, each with its idempotency key, all or none; of one sender they get nonces in this order.

    Returns and raises what `submit_transaction` does.
    """
    with transaction.atomic():
        lanes = _lanes({(request.chain_id, request.sender) for request, _ in requests}, tenant)
        rows = [
            _row(request, lanes[request.chain_id, request.sender], key, scope, correlation_id)
            for request, key in requests
        ]
        # The unique constraint decides who is first among those that come at once; a look before would not.
        all_new = insert_many(rows, skip_present=True) == len(rows)
        found = [(row, True) for row in rows] if all_new else _stored(rows, scope)
        for (request, _), (row, is_new) in zip(requests, found, strict=True):
            if is_new and (request.blobs or request.authorizations):
                _store_load(row, request, tenant)
        new: dict[UUID, list[tuple[UUID, float]]] = defaultdict(list)
        for row, is_new in found:
            if is_new:
                new[row.lane_id].append((row.pk, row.created_at.timestamp()))
        if new:
            transaction.on_commit(lambda: crashpoint("signer.received"))
            queue_after_commit(new)
    return found


def _store_load(row: Transaction, request: TransactionRequest, tenant: str) -> None:
    addresses = carrying.authorities(request, tenant)
    carrying.store(row, request, [find_lane(request.chain_id, address) for address in addresses])


def _row(request: TransactionRequest, lane: Lane, key: str, scope: str, correlation_id: str) -> Transaction:
    if lane.in_custody:
        _require_plain(request)
    return Transaction(
        chain=lane.chain,
        lane=lane,
        kind=TransactionKind.DEPLOYMENT if request.to is None else TransactionKind.CALL,
        to=request.to,
        value=request.value,
        data=request.data,
        gas_limit=request.gas_limit,
        simulate=request.gas_limit is None if request.simulate is None else request.simulate,
        error_abi=list(request.error_abi) or None,
        speed=request.speed,
        priority=request.priority,
        valid_until=request.valid_until,
        label=request.label,
        scope=scope,
        idempotency_key=key,
        request_hash=request.fingerprint(),
        correlation_id=correlation_id,
        created_at=timezone.now(),
        **carrying.columns(request, lane.chain.fee_market),
    )


def _require_plain(request: TransactionRequest) -> None:
    """Refuse what a custody would drop in silence: it makes its own kind of transaction."""
    if request.blobs or request.authorizations or request.access_list or request.envelope:
        raise EnvelopeUnsupportedError(
            "the custody of the sender's key makes its own kind of transaction: no blobs, authorizations, access list "
            "or envelope"
        )


def _lanes(senders: set[tuple[int, str]], tenant: str) -> dict[tuple[int, str], Lane]:
    """Return the lane of each chain and sender. Raises UnknownChainError, KeyNotFoundError."""
    keys = keyguard.find_keys({sender for _, sender in senders}, tenant)
    rows = Lane.objects.select_related("chain").filter(
        chain__in={chain_id for chain_id, _ in senders}, address__in={key.address for key in keys.values()}
    )
    known = {(lane.chain_id, lane.address): lane for lane in rows}
    return {
        (chain_id, sender): known.get((chain_id, keys[sender].address))
        or find_lane(chain_id, keys[sender].address)
        for chain_id, sender in senders
    }


def find_lane(chain_id: int, address: str) -> Lane:
    """Return the lane of an address, made at its first use. Raises UnknownChainError."""
    lanes = Lane.objects.select_related("chain")
    lane = lanes.filter(chain_id=chain_id, address=address).first()
    if lane is None:
        own = {"in_custody": keyguard.broadcasts_itself(address)}
        lane, _ = lanes.get_or_create(chain=find_chain(chain_id), address=address, defaults=own)
    return lane


def _stored(rows: Sequence[Transaction], scope: str) -> list[tuple[Transaction, bool]]:
    """Return what is stored under each row's key, with whether it is that row. Raises IdempotencyConflictError."""
    keys = [row.idempotency_key for row in rows]
    firsts = dict(
        Transaction.objects.filter(scope=scope, idempotency_key__in=keys).values_list("idempotency_key", "id")
    )
    old = Transaction.objects.in_bulk(
        [firsts[row.idempotency_key] for row in rows if firsts[row.idempotency_key] != row.pk]
    )
    found = []
    for row in rows:
        first = old.get(firsts[row.idempotency_key])
        if first is not None and first.request_hash != row.request_hash:
            raise IdempotencyConflictError(
                f"idempotency key {row.idempotency_key!r} was used for another request: transaction {first.pk}",
                str(first.pk),
            )
        found.append((first or row, first is None))
    return found
