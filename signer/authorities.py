"""Nonces of accounts that authorise (EIP-7702), so that no lane and no authorisation use one twice.

An authorisation names a nonce of its authority, and the chain counts it as used when it executes the transaction that
carries it. When another transaction of the authority takes that nonce first, the chain passes over the authorisation
in silence. So the nonce is given out of the authority's lane, which must have nothing in flight and gives out no more
until the carrying transaction has ended. One that was promised and not used after all leaves a gap like any other.

Of two workers that give out the same nonce one is fenced: the promise raises the epoch of the authority's lane, in the
transaction that commits the bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from django.db.models import F, Q, QuerySet

from signer.carrying import authorizations_of
from signer.errors import RpcError
from signer.models import Attempt, Authorization, Lane, Transaction
from signer.rpc import Rpc, quantity
from signer.states import IN_FLIGHT, Envelope
from workflows import Claim, FencedError

log = structlog.get_logger()

Nonces = Mapping[str, int]  # how many of an address the chain has used, which is its next


def promised_nonces(lane: Lane) -> set[int]:
    """Return the nonces that authorisations under way use: no gaps, though no transaction of the lane has them."""
    return set(under_way(lane.pk).exclude(nonce=None).values_list("nonce", flat=True))  # type: ignore[arg-type]


def read_nonces(rpc: Rpc, rows: Sequence[Transaction]) -> dict[str, int]:
    """Return the next nonces, as the chain has them, of all who authorise in these transactions; {} without an answer."""
    addresses = sorted({one.lane.address for ones in authorizations_of(rows).values() for one in ones})
    try:
        counts = rpc.batch_or_raise([("eth_getTransactionCount", [each, "latest"]) for each in addresses])
        return {address: quantity(count) for address, count in zip(addresses, counts, strict=True)}
    except RpcError as error:
        log.warning("nonces_not_read", code=error.code, text=error.message)
        return {}


def admissible(
    lane: Lane, rows: Sequence[Transaction], nonces: Nonces
) -> tuple[list[Transaction], list[Transaction]]:
    """Return those of the candidates that may be signed together, in order, and those that wait for an authority.

    A transaction with authorisations is the last of its batch: when its sender is among the authorities the nonce
    after its own is taken, and of two with one authority the second must wait.
    """
    carried = authorizations_of(rows)
    chosen: list[Transaction] = []
    waiting: list[Transaction] = []
    for row in rows:
        others = [one for one in carried.get(row.pk, []) if one.lane_id != lane.pk]
        if any(_obstacle(one, nonces.get(one.lane.address)) for one in others):
            waiting.append(row)
            continue
        chosen.append(row)
        if row.envelope == Envelope.SET_CODE:
            break
    return chosen, waiting


def _obstacle(authorization: Authorization, nonce: int | None) -> str:
    """Return why this nonce cannot be promised to the authorisation now, or nothing."""
    lane = authorization.lane_id
    if nonce is None:
        return "the authority's nonce is not known"
    in_flight = Q(lane=lane, state__in=IN_FLIGHT)
    if Transaction.objects.filter(in_flight | Q(lane=lane, nonce__gte=nonce)).exists():
        return "the authority has transactions of its own under way"
    if under_way(lane).exclude(transaction=authorization.transaction_id).exists():
        return "another authorisation of the authority is under way"
    if Lane.objects.filter(pk=lane, next_nonce__lt=nonce).exists():
        return "another program uses the authority's key"
    return ""


def under_way(lane_id: Any) -> QuerySet[Authorization]:
    """Return the authorisations of this address that transactions under way carry: no nonces are given meanwhile."""
    return Authorization.objects.filter(lane=lane_id, transaction__state__in=IN_FLIGHT)


def nonce_of(authorization: Authorization, lane: Lane, nonce: int, nonces: Nonces) -> int | None:
    """Return the nonce that the authorisation is to name; None when it is not known.

    lane, nonce: those of the transaction that carries it. A chain executes that one's own nonce first, so the
    sender's own authorisation names the next. nonces: of the others, from `read_nonces`; of a replacement none are
    needed, for its authorisations stay as they are.
    """
    if authorization.lane_id == lane.pk:
        return nonce + 1
    return nonces.get(authorization.lane.address, authorization.nonce)


def next_nonce(lane: Lane, attempts: Sequence[Attempt]) -> int:
    """Return the lane's next nonce once these first attempts are committed; the last one's authorisation uses one, too."""
    last = attempts[-1]
    own = [
        one
        for one in authorizations_of([last.transaction]).get(last.transaction_id, [])
        if one.lane_id == lane.pk
    ]
    return last.nonce + 1 + len(own)


def promise(held: Claim[Lane], attempts: Sequence[Attempt], nonces: Nonces) -> None:
    """Give the authorities' nonces to what these first attempts carry, in the transaction that commits them.

    Raises FencedError when a lane's nonce was given out meanwhile, or its worker is about to: nothing is committed then,
    and the next drain looks again.
    """
    for attempt in attempts:
        for authorization in authorizations_of([attempt.transaction]).get(attempt.transaction_id, []):
            nonce = nonce_of(authorization, held.row, attempt.nonce, nonces)
            if nonce is None:
                raise FencedError(f"the nonce of {authorization.lane.address} is not known")
            if authorization.lane_id != held.row.pk:
                _take(authorization, nonce)
            Authorization.objects.filter(pk=authorization.pk).update(nonce=nonce)


def _take(authorization: Authorization, nonce: int) -> None:
    lanes = Lane.objects.filter(pk=authorization.lane_id)
    # Not waited for: its owner commits nonces just now, or promises one of ours, and each would wait for the other.
    free = list(lanes.select_for_update(skip_locked=True).values_list("pk"))
    # Read after the lock, in statements of their own: they see all that was committed until then.
    if not free or (obstacle := _obstacle(authorization, nonce)):
        raise FencedError(
            f"{authorization.lane.address}: {obstacle if free else 'its lane gives out nonces now'}"
        )
    # The epoch: a worker that is about to give out this very nonce is fenced. The lease: the next need not wait for it.
    lanes.update(next_nonce=nonce + 1, epoch=F("epoch") + 1, lease_until=None)
