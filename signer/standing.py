"""Whether a lane gives out nonces: the only module that writes a lane's state.

Each move is a conditional UPDATE on the state that it leaves. What has a nonce already is seen through in every state.
"""

from collections.abc import Collection
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from signer import ceilings
from signer.flights import Sky
from signer.incidents import close_incident, open_incident
from signer.models import Lane, Transaction
from signer.states import WAITING, IncidentKind, LaneState, TransactionState
from workflows import Claim, guard

log = structlog.get_logger()

IN_CUSTODY = "the custody of this address gives its nonces, offers the fees and sends"

MAY_BECOME = {
    LaneState.ACTIVE: (LaneState.PAUSED, LaneState.DRAINING, LaneState.BLOCKED),  # a person says so
    LaneState.PAUSED: (LaneState.ACTIVE, LaneState.DRAINING),  # a person says so, or it has drained
    LaneState.DRAINING: (LaneState.ACTIVE, LaneState.PAUSED),  # a person says so
    # Something is wrong, in whatever state it is noticed; only a person leads out of it.
    LaneState.BLOCKED: (LaneState.ACTIVE, LaneState.PAUSED, LaneState.DRAINING),
}


def move(lane: Lane, state: LaneState, reason: str) -> bool:
    """Move the lane to `state` with the reason for it; return whether it was in a state that allows it."""
    moved = Lane.objects.filter(pk=lane.pk, state__in=MAY_BECOME[state]).update(
        state=state, state_reason="" if state == LaneState.ACTIVE else reason
    )
    if moved:
        lane.state, lane.state_reason = state, "" if state == LaneState.ACTIVE else reason
    return bool(moved)


def block(lane: Lane, reason: str) -> None:
    """Stop giving out nonces until a person has looked. Within the owner's guarded transaction."""
    if move(lane, LaneState.BLOCKED, reason):
        log.error("lane_blocked", lane=str(lane.pk), reason=reason)
        open_incident(IncidentKind.LANE_BLOCKED, str(lane), f"No nonces are given out: {reason}.", lane=lane)


def tell_of_stranger(lane: Lane, what: str) -> None:
    """Tell people that another program signs with the address, where that does not block the lane."""
    text = f"{what[0].upper()}{what[1:]}. The transactions go on with other nonces; find out who else has the key."
    open_incident(IncidentKind.FOREIGN_NONCE, str(lane), text, lane=lane)


def unblocked(lane: Lane, because: str, actor: str) -> None:
    """Close the incident of a lane that a person has put back to work."""
    close_incident(IncidentKind.LANE_BLOCKED, str(lane), because, actor=actor)


def has_drained(held: Claim[Lane], sky: Sky) -> bool:
    """Pause a draining lane of which nothing is in flight any more; return whether that was so."""
    if held.row.state != LaneState.DRAINING or sky.count:
        return False
    if Transaction.objects.filter(lane=held.row, state=TransactionState.SIGNING).exists():
        return False  # with its custody, which may send it at any moment
    with transaction.atomic():
        guard(held)
        return move(held.row, LaneState.PAUSED, f"drained: {held.row.state_reason}")


def waiting_lanes(ids: Collection[UUID]) -> list[UUID]:
    """Return those of the lanes in which something waits until less is in flight."""
    waits = Transaction.objects.filter(lane=OuterRef("pk"), state__in=WAITING).order_by()
    told = ceilings.told(OuterRef("pk"))
    lanes = Lane.objects.filter(Exists(waits) | Exists(told) | Q(state=LaneState.DRAINING), pk__in=ids)
    return list(lanes.order_by().values_list("pk", flat=True))


def gives_nonces(lane: Lane) -> bool:
    """Return whether the lane is active now, whatever was read before. Within the owner's guarded transaction.

    The guard's UPDATE holds the row: a pause is either seen here or waits until the nonces are committed.
    """
    return Lane.objects.filter(pk=lane.pk, state=LaneState.ACTIVE).exists()
