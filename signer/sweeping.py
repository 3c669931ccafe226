"""Finding what a lost message, a dead worker or a flushed Redis left lying. Run by beat each second.

Only rings; whether anything is to be done is decided by the drain or the watch, which own the row. Any number of
sweeps may run at once.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from uuid import UUID

import structlog
from django.conf import settings
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now

import keyguard
from signer import control, queue, rechecking, routing
from signer.models import Attempt, Chain, Endpoint, EventIndex, Lane, Transaction, WatchedContract
from signer.ringing import ring_chain, ring_index, ring_lane, ring_probe
from signer.settling import UNBEGUN
from signer.states import IN_FLIGHT, AttemptState, TransactionState, WatchedState

log = structlog.get_logger()

# Younger work has a message under way.
GRACE_SECONDS = 2
LIMIT = 500
# A worker that has missed a new chain serves it after so long at most.
ANNOUNCE_SECONDS = 30


def sweep() -> None:
    """Ring every lane and chain that has work nobody is doing. One rule that fails does not stop the others."""
    rules = (
        waiting_lanes,
        unsent_lanes,
        overdue_lanes,
        custody_lanes,
        answered_approvals,
        watched_chains,
        rechecked_chains,
        indexed_chains,
        paused_endpoints,
        served_chains,
    )
    for rule in rules:
        _try(rule)


def _try(rule: Callable[[], None]) -> None:
    try:
        rule()
    except Exception:  # a fault in one rule must not keep the others from finding what they look for
        log.exception("sweep_rule_failed", rule=rule.__name__)


def waiting_lanes() -> None:
    """Lanes with transactions that wait for a nonce and that nobody has looked at for a moment."""
    ago = Now() - timedelta(seconds=GRACE_SECONDS)
    free = _free_lanes().filter(Q(looked_at__isnull=True) | Q(looked_at__lt=ago))
    # Not by their age: created_at is the submitter's clock, which may be ahead of the database's.
    waiting = Transaction.objects.filter(state__in=UNBEGUN, lane__in=free)
    lane_ids = list(waiting.order_by().values_list("lane_id", flat=True).distinct()[:LIMIT])
    for lane_id in lane_ids:
        if queue.righting_wanted(lane_id):
            _right_queue(lane_id)
        ring_lane(lane_id)


def _right_queue(lane_id: UUID) -> None:
    """Write the lane's queue anew. Redis may have lost it; it is only a count for people, but a true one."""
    oldest = Transaction.objects.filter(lane_id=lane_id, state__in=UNBEGUN).order_by("created_at")[:LIMIT]
    entries = [(pk, at.timestamp()) for pk, at in oldest.values_list("pk", "created_at")]
    queue.replace_oldest(lane_id, entries)


def unsent_lanes() -> None:
    """Lanes with committed bytes that no node is known to have: their worker may have died before it sent them."""
    ago = Now() - timedelta(seconds=GRACE_SECONDS)
    unsent = Attempt.objects.filter(
        Q(last_sent_at__lt=ago) | Q(last_sent_at__isnull=True, created_at__lt=ago), state=AttemptState.SIGNED
    )
    _ring_lanes(_open_lanes().filter(attempts__in=unsent).distinct()[:LIMIT])


def overdue_lanes() -> None:
    """Lanes with something out so long that it must be sent again, raised, or given up because its time has passed."""
    patience = min(settings.SIGNER["resend_seconds"], settings.SIGNER["bump_after_seconds"])
    ago = Now() - timedelta(seconds=patience)
    looked_ago = Now() - timedelta(seconds=GRACE_SECONDS)
    # One that was refused at once has neither instant; its no-op may not be committed yet.
    overdue = Q(broadcast_at__lt=ago) | Q(valid_until__lt=Now()) | Q(noop_outcome__gt="")
    lanes = _open_lanes().filter(overdue, Q(lane__looked_at__isnull=True) | Q(lane__looked_at__lt=looked_ago))
    _ring_lanes(lanes.distinct()[:LIMIT])


def custody_lanes() -> None:
    """Lanes of which something is with the custody of their key, and it is time to ask how that stands."""
    with_custody = [TransactionState.SIGNING, TransactionState.BROADCASTING]
    free = _free_lanes().filter(in_custody=True)
    due = Transaction.objects.filter(state__in=with_custody, lane__in=free, look_at__lte=Now())
    _ring_lanes(due.order_by().values_list("lane_id", flat=True).distinct()[:LIMIT])


def answered_approvals() -> None:
    """Transactions that waited for people, who have answered by now, or have not in time."""
    keyguard.expire_questions()
    waiting = Transaction.objects.filter(state=TransactionState.PENDING_APPROVAL).order_by("pk")
    for ids in _batches(waiting.values_list("pk", flat=True)):
        refused: dict[str, list[UUID]] = defaultdict(list)
        for subject, words in keyguard.answers([str(pk) for pk in ids]).items():
            refused[words].append(UUID(subject))
        control.approve(refused.pop("", []))
        for words, pks in refused.items():
            control.reject(pks, words)


def watched_chains() -> None:
    """Chains that hold something of ours while nobody reads their receipts."""
    free = Chain.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lt=Now()))
    busy = Transaction.objects.filter(chain__in=free, state__in=IN_FLIGHT).order_by()
    for chain_id in busy.values_list("chain_id", flat=True).distinct():
        ring_chain(chain_id)


def rechecked_chains() -> None:
    """Chains whose settled transactions are due for a second look, though nothing else may call for a watcher."""
    free = rechecking.due_chains().filter(Q(lease_until__isnull=True) | Q(lease_until__lt=Now()))
    for chain_id in free.values_list("pk", flat=True):
        if queue.recheck_wanted(chain_id):
            ring_chain(chain_id)


def paused_endpoints() -> None:
    """Chains with an endpoint whose pause is over, and that nobody has asked since whether it works again."""
    over = Endpoint.objects.filter(paused_until__lt=Now()).order_by()
    for chain_id in over.values_list("chain_id", flat=True).distinct():
        ring_probe(chain_id)


def served_chains() -> None:
    """Tell the workers every now and then which chains there are: one may have missed a new one."""
    if queue.announcement_wanted(ANNOUNCE_SECONDS):
        routing.announce(list(Chain.objects.values_list("pk", flat=True)))


def indexed_chains() -> None:
    """Chains whose contracts' logs are to be read, where nobody reads and it is time to look for new blocks."""
    free = EventIndex.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lt=Now()))
    due = free.filter(Q(look_at__isnull=True) | Q(look_at__lt=Now()))
    read = WatchedContract.objects.filter(index=OuterRef("pk")).exclude(state=WatchedState.PAUSED)
    for chain_id in due.filter(Exists(read)).values_list("pk", flat=True):
        ring_index(chain_id)


def _free_lanes() -> QuerySet[Lane]:
    return Lane.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lt=Now()))


def _open_lanes() -> "QuerySet[Transaction, UUID]":
    """Of what was sent from here: what a custody sent is the custody's to send again."""
    free = _free_lanes().filter(in_custody=False)
    rows = Transaction.objects.filter(state=TransactionState.BROADCASTING, lane__in=free)
    return rows.order_by().values_list("lane_id", flat=True)


def _ring_lanes(lane_ids: Iterable[UUID]) -> None:
    for lane_id in lane_ids:
        ring_lane(lane_id)


def _batches(ids: Iterable[UUID]) -> Iterator[list[UUID]]:
    rest = iter(ids)
    while batch := list(islice(rest, LIMIT)):
        yield batch
