"""Whether another program has used nonces of a lane: whoever signs with one of our keys is noticed and told of.

A lane that gives nonces compares them with its chain's before each batch. One that has nothing to send is compared
here, every minute. Only a count of mined nonces above the next to be given proves anything, and only when it was read
before that one: what was given since may have been mined since.
"""

from collections.abc import Iterator, Sequence
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import QuerySet

from signer import chains
from signer.errors import LaneBusyError, RpcError
from signer.models import Lane
from signer.rpc import Rpc, quantity
from signer.standing import block, tell_of_stranger
from signer.states import ForeignNonces, LaneState
from signer.work import owned
from workflows import Claim, FencedError, guard

log = structlog.get_logger()

# How many are asked about in one go; each request takes what its node takes.
LANES_MAX = 1000


def used_lanes() -> "QuerySet[Lane]":
    """Return the lanes that have given nonces, but those that stand for a person to look at."""
    return Lane.objects.filter(next_nonce__isnull=False, in_custody=False).exclude(state=LaneState.BLOCKED)


def used_chains() -> list[int]:
    """Return the chains with lanes to be compared."""
    return list(used_lanes().order_by("chain_id").values_list("chain_id", flat=True).distinct())


def look(chain_id: int) -> None:
    """Compare a chain's lanes with it once. What its nodes don't say, or not alike, proves nothing."""
    lanes = list(used_lanes().filter(chain=chain_id).order_by("pk").values_list("pk", "address"))
    rpc = chains.connect(chain_id)
    for start in range(0, len(lanes), LANES_MAX):
        counts = dict(_mined(rpc, lanes[start : start + LANES_MAX]))
        # Read after the counts: a lane at work has given more by now, and most need not be owned.
        for lane in used_lanes().filter(pk__in=counts).select_related("chain"):
            if lane.next_nonce is not None and counts[lane.pk] > lane.next_nonce:
                _examine(lane, counts[lane.pk])


def _mined(rpc: Rpc, lanes: Sequence[tuple[UUID, str]]) -> Iterator[tuple[UUID, int]]:
    """Yield how many nonces of each are mined, as far as the nodes agree that they are."""
    answers = rpc.agreed([("eth_getTransactionCount", [address, "latest"]) for _, address in lanes])
    failed: list[RpcError] = []
    for (pk, _), answer in zip(lanes, answers, strict=True):
        try:
            if isinstance(answer, RpcError):
                raise answer
            yield pk, quantity(answer)
        except RpcError as error:
            failed.append(error)
    if failed:
        log.warning("nonces_not_read", lanes=len(failed), code=failed[0].code, text=failed[0].message)


def _examine(lane: Lane, mined_nonces: int) -> None:
    """Own the lane and compare again. One that a worker has at this moment is compared by that, or in a minute."""
    try:
        with owned(lane) as held:
            held.row.chain = lane.chain
            compare(held, mined_nonces)
    except (LaneBusyError, FencedError) as error:
        log.info("lane_not_compared", lane=str(lane.pk), why=str(error))


def compare(held: Claim[Lane], mined_nonces: int) -> None:
    """Block the lane when its chain has used more nonces than were given here, or adopt them, as the chain says.

    mined_nonces: the chain's count, read before or while the lane was owned. Raises FencedError.
    """
    lane, expected = held.row, held.row.next_nonce
    if expected is None or mined_nonces <= expected:
        return
    what = f"the chain has used nonce {mined_nonces - 1}, the next to be given here was {expected}"
    with transaction.atomic():
        if lane.chain.foreign_nonces == ForeignNonces.ADOPT:
            guard(held, next_nonce=mined_nonces, first_nonce=mined_nonces)
            tell_of_stranger(lane, what)
        else:
            guard(held)
            block(
                lane, f"{what}: another program signs with this key, or this database is older than the chain"
            )
            return
    lane.next_nonce = lane.first_nonce = mined_nonces
