"""A lane beside its chain: what differs, and, when a person confirms it, the next nonce corrected.

Never goes below a nonce that any transaction of the lane has: what was signed for it may still be executed.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, Subquery

from signer import acts, blocks, chains, foreign, standing
from signer.authorities import promised_nonces
from signer.errors import NotPossibleError
from signer.models import Lane, Transaction
from signer.ringing import after_commit, ring_lane
from signer.rpc import quantity
from signer.states import IN_FLIGHT, LaneState, SubState, TransactionState
from signer.work import owned
from workflows import guard

PENDING_FOREIGN_LIMIT = 100


@dataclass(frozen=True)
class Difference:
    """What the chain says and what the lane believes."""

    next_nonce: int | None  # the lane's
    proposed_next_nonce: int
    chain_latest: int  # how many nonces of the address are mined
    chain_pending: int  # ... with what waits in the node's pool
    chain_final: int  # ... at the depth at which a stranger's use counts as proved
    highest_given: int | None
    in_flight: int
    foreign: list[str] = field(default_factory=list)  # transactions whose nonce a stranger provably used
    notes: list[str] = field(default_factory=list)

    @property
    def is_in_step(self) -> bool:
        return self.next_nonce == self.proposed_next_nonce and not self.foreign

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "in_step": self.is_in_step}


def lane_difference(lane: Lane) -> Difference:
    """Ask the chain and return what differs; changes nothing. Raises RpcError, NotPossibleError for a lane in custody."""
    if lane.in_custody:
        raise NotPossibleError(
            standing.IN_CUSTODY, "There is no next nonce here to compare; a blocked lane is resumed."
        )
    rpc = chains.connect(lane.chain)
    head = blocks.fetch_latest(rpc).number
    deep = max(0, head - max(foreign.DEPTH, lane.chain.confirmations))
    answers = rpc.agreed_or_raise(
        # In lower case, for so EthereumJS finds it in its pool.
        [("eth_getTransactionCount", [lane.address.lower(), at]) for at in ("latest", "pending", hex(deep))]
    )
    latest, pending, final = (quantity(answer) for answer in answers)
    next_nonce, given = _given(lane)
    highest = max([*promised_nonces(lane), *given], default=None)
    in_flight = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT)
    suspects = list(in_flight.filter(state=TransactionState.BROADCASTING, nonce__lt=final))
    taken = foreign.proved(rpc, suspects, deep) if suspects else []
    proposed = max(latest, -1 if highest is None else highest + 1)
    return Difference(
        next_nonce=next_nonce,
        proposed_next_nonce=proposed,
        chain_latest=latest,
        chain_pending=pending,
        chain_final=final,
        highest_given=highest,
        in_flight=in_flight.count(),
        foreign=[str(row.pk) for row in taken],
        notes=_notes(next_nonce, latest, pending, highest, proposed, len(taken)),
    )


def _given(lane: Lane) -> tuple[int | None, list[int]]:
    """Return the next nonce, and the highest one given if any, of one instant.

    Nonces are given while the chain is asked; a next nonce read before would look like a difference.
    """
    given = Transaction.objects.filter(lane=OuterRef("pk"), nonce__isnull=False).order_by("-nonce")
    seen = Lane.objects.annotate(highest=Subquery(given.values("nonce")[:1]))
    next_nonce, highest = seen.values_list("next_nonce", "highest").get(pk=lane.pk)
    return next_nonce, [] if highest is None else [highest]


def _notes(
    next_nonce: int | None, latest: int, pending: int, highest: int | None, proposed: int, foreign_count: int
) -> list[str]:
    notes = []
    ours = -1 if highest is None else highest
    if latest > ours + 1:
        notes.append(
            f"The chain has used nonces up to {latest - 1}, of which {latest - 1 - ours} were not given here: another "
            "program signs with this key, or this database was restored from an old copy. In that case transactions that "
            "wait here may have been executed already: look before you confirm."
        )
    if pending > max(latest, ours + 1):
        notes.append(
            f"The node's pool holds transactions up to nonce {pending - 1} that were not sent from here."
        )
    if next_nonce is not None and next_nonce > proposed:
        notes.append(
            f"Nonces {proposed} to {next_nonce - 1} were never given to a transaction; they will be given now."
        )
    if foreign_count:
        notes.append(
            f"{foreign_count} transactions lost their nonce to a stranger's; decide on each: requeue or give up."
        )
    return notes or ["The lane and the chain are in step."]


def resync_lane(lane: Lane, *, actor: str, reason: str) -> Difference:
    """Set the next nonce to what the difference proposes, and put a blocked lane back to work.

    Raises LaneBusyError, RpcError; NotPossibleError while transactions without a usable nonce wait for a decision.
    """
    with owned(lane) as held:
        held.row.chain = lane.chain
        found = lane_difference(held.row)
        if found.foreign:
            raise NotPossibleError(found.notes[-1], "Requeue or give up these transactions first.")
        with transaction.atomic():
            guard(held, next_nonce=found.proposed_next_nonce, first_nonce=_first(held.row, found))
            acts.note(actor, "resync", reason, lane=held.row, details=found.as_dict())
            if held.row.state == LaneState.BLOCKED and standing.move(held.row, LaneState.ACTIVE, reason):
                standing.unblocked(held.row, reason, actor)
            after_commit(lambda: ring_lane(lane.pk))
    lane.refresh_from_db()
    return found


def _first(lane: Lane, found: Difference) -> int:
    """Return below which nonce nothing is ever missing: what others used is no gap."""
    lowest_ours = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT).exclude(
        sub_state=SubState.NONCE_FOREIGN
    )
    first_open = lowest_ours.order_by("nonce").values_list("nonce", flat=True).first()
    bottom = found.chain_latest if first_open is None else min(first_open, found.chain_latest)
    return max(lane.first_nonce or 0, bottom)
