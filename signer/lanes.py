"""Draining a lane: one worker owns it and does all that can be done for it now.

A drain owns the lane's row by its epoch, and goes round until nothing is left to do: send what was committed and not
sent, replace what is stuck, give nonces to what waits (`granting`). New bytes are committed before a node sees
them, and whatever dies in between, the next drain reads from the rows where to go on. Upheld here: no bytes reach a node
before their row is committed; a nonce of a lane belongs to one transaction, and a transaction has one nonce; a worker
whose epoch is past can only send committed bytes again.
"""

import time
from collections.abc import Sequence
from functools import cache, partial
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from signer import authorities, ceilings, flights, foreign, gaps, granting, noops, queue, replacing, sending
from signer.custody.rounds import CustodyDrain
from signer.errors import ChainMismatchError, RpcError
from signer.flights import Flight, Sky
from signer.market import read_market
from signer.models import Attempt, Lane, Transaction
from signer.ringing import ring_lane
from signer.standing import block, has_drained, tell_of_stranger
from signer.states import IN_FLIGHT, ForeignNonces, SubState, TransactionState
from signer.work import Work
from workflows import FencedError, claim, crashpoint, guard, keep, release

log = structlog.get_logger()

# A drain gives its worker back after this long; what is left is found by the wake-up that it sends itself.
SLICE_SECONDS = 20

crashpoint.register("signer.bump_sent", "the node has a replacement, its answer is not recorded")


def drain(lane_id: UUID, *, only_new: bool = False) -> bool:
    """Do all that can be done for the lane now, or nothing when another worker is at it.

    only_new: or nothing when what was submitted was seen to by the drain before, as it is where much is submitted.
    Returns whether it rang for another drain. What came meanwhile is left to that one: lanes that were rung for before
    come first, and more comes together.
    """
    queue.heard(queue.lane_target(lane_id))
    if only_new and not _has_new(lane_id):
        return False
    is_left = _drain_once(lane_id, time.monotonic() + SLICE_SECONDS)
    if is_left:
        ring_lane(lane_id)
    return is_left


def _has_new(lane_id: UUID) -> bool:
    """Return whether there is what no drain has seen."""
    return Transaction.objects.filter(lane=lane_id, state=TransactionState.RECEIVED).exists()


def _drain_once(lane_id: UUID, deadline: float) -> bool:
    """Own the lane and work; return whether something happened that the work did not see."""
    seconds = settings.SIGNER["lease_seconds"]
    with queue.lane_lock(lane_id, seconds) as lock:
        held = claim(Lane, lane_id, seconds, reading=_with_what_is_up()) if lock else None
        if lock is None or held is None:
            return False
        try:
            drain = (CustodyDrain if held.row.in_custody else Drain)(Work.on(held))
            with keep(held):
                drain.run(deadline, lock)
        except FencedError:
            return False
        finally:
            release(held, looked_at=Now())
    return drain.missed_something()


def _with_what_is_up() -> "QuerySet[Lane]":
    """Read a lane with what is seldom the case and must be seen to: one statement says that nothing of it is.

    What is promised later takes the lane from its worker; the rest is found by the next drain.
    """
    lane = OuterRef("pk")
    return Lane.objects.select_related("chain").annotate(
        has_expired=Exists(granting.expired(lane)),
        is_promised=Exists(authorities.under_way(lane)),
        was_told_of_ceiling=Exists(ceilings.told(lane)),
    )


class Drain:
    """One worker's rounds over a lane that it owns."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.held = work.held
        self.lane = work.lane

    def run(self, deadline: float, lock: queue.LaneLock) -> None:
        """Go round until nothing can be done now, or the time is up."""
        if self.work.has_expired:
            granting.expire_waiting(self.work)
        while (self._round() or sending.finish(self.work)) and time.monotonic() < deadline:
            lock.renew()
        sending.finish(self.work)
        if self.work.was_told_of_ceiling:
            ceilings.market_is_back(self.lane)

    def missed_something(self) -> bool:
        """Return whether there is work again. To be asked after the release.

        A wake-up that came while the lane was owned found it so and is gone. RECEIVED means that no drain has seen it.
        """
        if _has_new(self.lane.pk):
            return True
        full_at, in_flight = (
            self.work.full_at,
            Transaction.objects.filter(lane=self.lane, state__in=IN_FLIGHT),
        )
        return full_at is not None and in_flight.count() < full_at

    def _round(self) -> bool:
        """Return whether another round may find something to do."""
        sky = flights.survey(self.lane)
        due = flights.load_due(self.lane, sky, self.work.sending)
        if replacing.expire(self.held, due) or self._stop_for_strangers(due):
            sky = flights.survey(self.lane)
            due = flights.load_due(self.lane, sky, self.work.sending)
        self._resend(due)
        seen_to = self._replace(due, sky)
        if seen_to:  # what is raised may cost more, and a filler costs, too
            sky = flights.survey(self.lane)
        if has_drained(self.held, sky):
            return False
        return granting.grant(self.work, sky) or seen_to

    def _resend(self, due: Sequence[Flight]) -> None:
        """Send committed bytes (again): first of all what a worker that died had not sent."""
        now = self.held.now()
        ids = [flight.best.pk for flight in due if flights.resend_due(flight, now, self.work.patience)]
        if ids:
            attempts = list(Attempt.objects.filter(pk__in=ids))
            log.info("transactions_resent", count=len(attempts))
            sending.send_and_record(self.work, attempts, "signer.sent")

    def _replace(self, due: Sequence[Flight], sky: Sky) -> bool:
        wanted = replacing.due(self.held, due, sky, self.work.patience)
        if not wanted:
            return False
        try:
            market, _ = read_market(self.work.rpc, self.work.chain, self.lane.address)
        except (RpcError, ChainMismatchError) as error:
            log.warning("replacement_postponed", code=error.code, text=error.message)
            return False
        attempts = gaps.fill(self.work, sky, market)
        noop_gas = cache(partial(noops.gas, self.work.rpc, self.lane.address))
        attempts += replacing.replace(self.held, self.work.chain, market, wanted, noop_gas)
        sending.send_and_record(self.work, attempts, "signer.bump_sent")
        return bool(attempts)

    def _stop_for_strangers(self, due: Sequence[Flight]) -> bool:
        """Block the lane for what a stranger's transaction made impossible, or give it another nonce, as the chain says."""
        taken = [flight for flight in due if flight.transaction.sub_state == SubState.NONCE_FOREIGN]
        if not taken:
            return False
        what = f"nonce {taken[0].nonce} was used by a transaction that was not sent from here"
        adopts = self.work.chain.foreign_nonces == ForeignNonces.ADOPT
        with transaction.atomic():
            guard(self.held)
            if adopts:
                tell_of_stranger(self.lane, what)
                foreign.requeue(self.held, [flight.transaction.pk for flight in taken], "signer", what)
            else:
                row = taken[0].transaction
                block(self.lane, f"{what}; transaction {row.pk} can no longer be executed with it")
        return adopts
