"""What a rotation has to do with lanes and runs: what waits meanwhile, and what must have ended first."""

from collections.abc import Collection

from signer import Lane, LaneState, Transaction, pause_lane, resume_lane
from signer.states import FINAL
from signer.submission import find_lane
from workflows import TransientError
from workflows.models import Run

# Their steps hand the platform's addresses on to one another, so none may begin with one key and end with another.
OURS = ("asset.issue", "investor.register", "platform.bootstrap")


def close_lanes(chains: Collection[int], address: str, actor: str, reason: str) -> None:
    """Let what an address is asked for wait. Joins the caller's transaction."""
    for chain_id in chains:
        pause_lane(find_lane(chain_id, address), actor=actor, reason=reason)


def open_lanes(chains: Collection[int], address: str, actor: str, reason: str) -> None:
    """Let an address go on where this actor has stopped it. Twice is as good as once."""
    stopped = Lane.objects.select_related("chain").filter(
        chain_id__in=chains, address=address, state=LaneState.PAUSED, state_reason__contains=actor
    )
    for lane in stopped:
        resume_lane(lane, actor=actor, reason=reason)


def require_nothing_under_way(chains: Collection[int]) -> None:
    """Raise TransientError while a run of ours works on one of the chains."""
    runs = Run.objects.filter(workflow__in=OURS, finished_at=None, input__chain_id__in=list(chains))
    found = [f"{run.workflow} {run.pk} ({run.state})" for run in runs.order_by("pk")[:5]]
    if found:
        raise TransientError(
            "RUNS_UNDER_WAY",
            f"these runs must end before a key is handed over; pause what starts them: {', '.join(found)}",
        )


def require_settled(address: str) -> None:
    """Raise TransientError while an address has transactions that have not ended: nobody could replace them later."""
    rows = Transaction.objects.filter(lane__address=address).exclude(state__in=FINAL)
    if count := rows.count():
        raise TransientError(
            "TRANSACTIONS_UNDER_WAY", f"{count} transactions of {address} have not ended: see its lane"
        )
