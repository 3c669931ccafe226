"""Draining a lane: the one place where nonces are given out.

A drain owns the lane's row by its epoch, and goes round until nothing is left to do: send what was committed and not
sent, replace what is stuck, give nonces to what waits. A batch of nonces, the signed bytes and the transactions' new
state are one commit; only afterwards does a node see anything. Whatever dies in between, the next drain reads from
the rows where to go on. Upheld here: no bytes reach a node before their row is committed; a nonce of a lane belongs to
one transaction, and a transaction has one nonce; a worker whose epoch is past can only send committed bytes again.
"""

import time
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Q, Subquery
from django.db.models.functions import Now

from signer import authorities, chains, flights, queue, replacing, sending, settling, signing
from signer.admission import Admission, Ready, admit, estimate_call
from signer.errors import ChainMismatchError, RpcError
from signer.flights import Flight, Patience
from signer.market import Market, read_market
from signer.models import Attempt, Chain, Lane, Transaction
from signer.ringing import ring_chain, ring_lane
from signer.rpc import Rpc
from signer.signing import Draft
from signer.states import IN_FLIGHT, WAITING, LaneState, Purpose, SubState, TransactionState, may_become
from workflows import Claim, FencedError, claim, crashpoint, guard, keep, release

log = structlog.get_logger()

# A drain gives its worker back after this long; what is left is found by the wake-up that it sends itself.
SLICE_SECONDS = 20
# How many waiting transactions are looked at and signed in one go.
BATCH_SIZE = 200

crashpoint.register("signer.prepared", "gas and fees are known, nothing is signed")
crashpoint.register("signer.signed", "signed in memory, nothing is committed")
crashpoint.register("signer.attempts_inserted", "in the middle of the commit of a batch of nonces")
crashpoint.register("signer.attempts_committed", "nonces and signed bytes are committed, nothing is sent")
crashpoint.register("signer.sent", "the node has the bytes, its answer is not recorded")
crashpoint.register("signer.bump_sent", "the node has a replacement, its answer is not recorded")


def drain(lane_id: UUID) -> None:
    """Do all that can be done for the lane now. Returns at once when another worker is at it."""
    queue.heard(f"lane:{lane_id}")
    deadline = time.monotonic() + SLICE_SECONDS
    while _drain_once(lane_id, deadline):
        if time.monotonic() >= deadline:
            ring_lane(lane_id)
            return


def _drain_once(lane_id: UUID, deadline: float) -> bool:
    """Own the lane and work; return whether something happened that the work did not see."""
    seconds = settings.SIGNER["lease_seconds"]
    with queue.lane_lock(lane_id, seconds) as lock:
        held = claim(Lane, lane_id, seconds) if lock else None
        if lock is None or held is None:
            return False
        try:
            work = Drain(held)
            with keep(held):
                work.run(deadline, lock)
        except FencedError:
            return False
        finally:
            release(held, looked_at=Now())
    return work.missed_something()


class Drain:
    """One worker's ownership of a lane."""

    def __init__(self, held: Claim[Lane]) -> None:
        self.held = held
        self.lane = held.row
        self.chain: Chain = held.row.chain
        self.rpc: Rpc = chains.connect(self.chain)
        self.patience = Patience.of(self.chain.block_time_ms)
        self.full_at: int | None = None  # how many were in flight when there was no room for more
        self.unclear: set[UUID] = set()  # passed over by this drain; the next one asks again
        self.authority_nonces: dict[str, int] = {}

    def run(self, deadline: float, lock: queue.LaneLock) -> None:
        """Go round until nothing can be done now, or the time is up."""
        while self._round() and time.monotonic() < deadline:
            lock.renew()

    def missed_something(self) -> bool:
        """Return whether there is work again. To be asked after the release.

        A wake-up that came while the lane was owned found it so and is gone. RECEIVED means that no drain has seen it.
        """
        rows = Transaction.objects.filter(lane=self.lane)
        if rows.filter(state=TransactionState.RECEIVED).exists():
            return True
        return self.full_at is not None and rows.filter(state__in=IN_FLIGHT).count() < self.full_at

    def _round(self) -> bool:
        """Return whether another round may find something to do."""
        in_flight = flights.load(self.lane)
        if replacing.expire(self.held, in_flight):
            in_flight = flights.load(self.lane)
        self._stop_for_strangers(in_flight)
        self._resend(in_flight)
        replaced = self._replace(in_flight)
        admitted = self._admit(in_flight)
        return replaced or admitted

    def _resend(self, in_flight: Sequence[Flight]) -> None:
        """Send committed bytes (again): first of all what a worker that died had not sent."""
        now = self.held.now()
        due = [flight.best.pk for flight in in_flight if flights.resend_due(flight, now, self.patience)]
        if due:
            attempts = list(Attempt.objects.filter(pk__in=due))
            log.info("transactions_resent", count=len(attempts))
            self._send(attempts, "signer.sent")

    def _replace(self, in_flight: Sequence[Flight]) -> bool:
        wanted = replacing.due(self.held, in_flight, self.patience)
        if not wanted:
            return False
        try:
            market, _ = read_market(self.rpc, self.chain, self.lane.address)
        except (RpcError, ChainMismatchError) as error:
            log.warning("replacement_postponed", code=error.code, text=error.message)
            return False
        attempts = replacing.replace(self.held, self.chain, market, wanted)
        self._send(attempts, "signer.bump_sent")
        return bool(attempts)

    def _send(self, attempts: Sequence[Attempt], sent_point: str) -> None:
        if not attempts:
            return
        outcomes = sending.send(self.rpc, attempts)
        crashpoint(sent_point)
        sending.record(self.held, outcomes)
        ring_chain(self.chain.pk)

    # --- New nonces ---------------------------------------------------------------------------------------

    def _admit(self, in_flight: Sequence[Flight]) -> bool:
        """Give nonces to as many waiting transactions as room and funds allow; return whether more may follow."""
        self._expire_waiting()
        waiting = Transaction.objects.filter(lane=self.lane, state__in=WAITING)
        waiting = waiting.exclude(Q(state=TransactionState.PENDING_APPROVAL) | Q(pk__in=self.unclear))
        if self.lane.state == LaneState.BLOCKED:
            return self._hold(SubState.LANE_BLOCKED)
        if authorities.is_promised(self.lane):
            return self._hold(SubState.AUTHORIZING)
        room = min(BATCH_SIZE, self.chain.max_in_flight - len(in_flight))
        candidates = list(waiting.order_by("created_at", "id")[: max(0, room)])
        if room <= 0:
            self.full_at = len(in_flight)
            return self._hold(SubState.LANE_FULL)
        if not candidates:
            return False
        self.authority_nonces = authorities.read_nonces(self.rpc, candidates)
        candidates, late = authorities.admissible(self.lane, candidates, self.authority_nonces)
        self._put_off(late)
        if not candidates:
            return bool(late)
        self._move(candidates, TransactionState.PREPARING)
        admission = self._prepare(candidates, in_flight)
        attempts = self._sign(admission)
        if attempts:
            self._commit(attempts)
            crashpoint("signer.attempts_committed")
        queue.take(self.lane.pk, [*admission.refused, *(attempt.transaction_id for attempt in attempts)])
        self._send(attempts, "signer.sent")
        if attempts or admission.refused or admission.unclear:
            return True
        self.full_at = len(in_flight) if admission.why == SubState.LANE_FULL else None
        return self._hold(admission.why)

    def _prepare(self, candidates: Sequence[Transaction], in_flight: Sequence[Flight]) -> Admission:
        """Ask the chain, decide, and write down all but the nonces."""
        asked = [row for row in candidates if row.gas_limit is None]
        try:
            market, answers = read_market(
                self.rpc,
                self.chain,
                self.lane.address,
                [estimate_call(row, self.lane.address) for row in asked],
            )
            self._check_nonces(market)
        except (RpcError, ChainMismatchError) as error:
            log.warning("lane_waits", code=error.code, text=error.message)
            admission = Admission(waiting=[row.pk for row in candidates], why=SubState.NODE_UNAVAILABLE)
        else:
            admission = admit(
                candidates,
                {row.pk: answer for row, answer in zip(asked, answers, strict=True)},
                market,
                sum(flight.max_cost_wei for flight in in_flight),
                sum(flight.gas_limit for flight in in_flight if flight.is_open),
            )
        if self.lane.state == LaneState.BLOCKED:
            admission = Admission(waiting=[row.pk for row in candidates], why=SubState.LANE_BLOCKED)
        with transaction.atomic():
            guard(self.held)
            settling.end_unsent(admission.refused)
            self._requeue(list(admission.unclear), SubState.ESTIMATE_UNCLEAR)
            self._requeue(admission.waiting, admission.why)
            self._set_state([ready.transaction for ready in admission.ready], TransactionState.SIGNING)
        self._pass_over([row for row in candidates if row.pk in admission.unclear], admission.unclear)
        crashpoint("signer.prepared")
        return admission

    def _put_off(self, rows: Sequence[Transaction]) -> None:
        """Have those that wait for an authority wait alone."""
        self.unclear.update(row.pk for row in rows)
        if rows:
            states = (
                *may_become(TransactionState.QUEUED),
                TransactionState.RECEIVED,
                TransactionState.QUEUED,
            )
            with transaction.atomic():
                guard(self.held)
                late = Transaction.objects.filter(pk__in=[row.pk for row in rows], state__in=states)
                late.update(state=TransactionState.QUEUED, sub_state=SubState.AUTHORIZING)

    def _pass_over(self, rows: Sequence[Transaction], words: Mapping[UUID, str]) -> None:
        self.unclear.update(row.pk for row in rows)
        for row in rows:
            if row.sub_state != SubState.ESTIMATE_UNCLEAR:  # said once, not by each drain
                log.warning("estimate_unclear", transaction=str(row.pk), text=words[row.pk])

    def _sign(self, admission: Admission) -> list[Attempt]:
        if not admission.ready:
            return []
        drafts = self._drafts(admission.ready)
        signed = signing.sign(self.held, self.chain, drafts, self.authority_nonces)
        if signed.refused or signed.postponed:
            with transaction.atomic():
                guard(self.held)
                settling.end_unsent(signed.refused)
                self._requeue(signed.postponed, SubState.SIGNER_UNAVAILABLE)
            admission.refused |= signed.refused
            admission.why = SubState.SIGNER_UNAVAILABLE
        crashpoint("signer.signed")
        return signed.attempts

    def _drafts(self, ready: Sequence[Ready]) -> list[Draft]:
        assert self.lane.next_nonce is not None
        return [
            Draft(item.transaction, 0, Purpose.PAYLOAD, nonce, item.gas_limit, item.fees)
            for nonce, item in enumerate(ready, start=self.lane.next_nonce)
        ]

    def _commit(self, attempts: Sequence[Attempt]) -> None:
        """Nonces, bytes and states of the whole batch: all of it or nothing."""
        ids = [attempt.transaction_id for attempt in attempts]
        next_nonce = authorities.next_nonce(self.lane, attempts)
        of_row = Attempt.objects.filter(transaction=OuterRef("pk"), seq=0)
        with transaction.atomic():
            guard(self.held, next_nonce=next_nonce)
            Attempt.objects.bulk_create(attempts)
            crashpoint("signer.attempts_inserted")
            moved = Transaction.objects.filter(pk__in=ids, state=TransactionState.SIGNING).update(
                state=TransactionState.BROADCASTING, sub_state="", nonce=Subquery(of_row.values("nonce")[:1])
            )
            if moved != len(ids):
                raise FencedError(
                    f"lane {self.lane.pk}: {len(ids) - moved} transactions were moved by another worker"
                )
            authorities.promise(self.held, attempts, self.authority_nonces)
        self.lane.next_nonce = next_nonce

    # --- What goes wrong ----------------------------------------------------------------------------------

    def _check_nonces(self, market: Market) -> None:
        """Learn the first nonce, or notice that somebody else uses this address; then give out no more of them."""
        expected = self.lane.next_nonce
        if expected is None:
            if market.pooled_nonces > market.mined_nonces:
                self._block(
                    f"the node's pool holds {market.pooled_nonces - market.mined_nonces} transactions of this address "
                    "that were not sent from here"
                )
            self.lane.next_nonce = market.mined_nonces
        elif market.mined_nonces > expected:
            self._block(
                f"the chain has used nonce {market.mined_nonces - 1}, the next to be given here was {expected}: "
                "another program signs with this key, or this database is older than the chain"
            )

    def _stop_for_strangers(self, in_flight: Sequence[Flight]) -> None:
        taken = [flight for flight in in_flight if flight.transaction.sub_state == SubState.NONCE_FOREIGN]
        if taken and self.lane.state == LaneState.ACTIVE:
            self._block(
                f"nonce {taken[0].nonce} was used by a transaction that was not sent from here; "
                f"transaction {taken[0].transaction.pk} can no longer be executed"
            )

    def _block(self, reason: str) -> None:
        with transaction.atomic():
            guard(self.held, state=LaneState.BLOCKED, state_reason=reason)
        self.lane.state = LaneState.BLOCKED
        log.error("lane_blocked", reason=reason)

    def _expire_waiting(self) -> None:
        late = Transaction.objects.filter(lane=self.lane, state__in=WAITING, valid_until__lte=Now())
        ids = list(late.values_list("pk", flat=True))
        if ids:
            error = {"code": "TRANSACTION_EXPIRED", "message": "valid_until passed before it was sent"}
            with transaction.atomic():
                guard(self.held)
                settling.end_unsent(dict.fromkeys(ids, error), TransactionState.EXPIRED)
            queue.take(self.lane.pk, ids)

    # --- States before the nonce --------------------------------------------------------------------------

    def _hold(self, why: SubState) -> bool:
        """Mark what is new as queued, with the reason: nothing in this lane can go on now. Returns False."""
        received = Transaction.objects.filter(lane=self.lane, state=TransactionState.RECEIVED)
        if received.exists():
            with transaction.atomic():
                guard(self.held)
                received.update(state=TransactionState.QUEUED, sub_state=why)
        return False

    def _move(self, rows: Sequence[Transaction], state: TransactionState) -> None:
        with transaction.atomic():
            guard(self.held)
            self._set_state(rows, state)

    @staticmethod
    def _set_state(rows: Sequence[Transaction], state: TransactionState) -> None:
        ids = [row.pk for row in rows]
        if ids:
            Transaction.objects.filter(pk__in=ids, state__in=may_become(state)).update(
                state=state, sub_state=""
            )

    @staticmethod
    def _requeue(ids: Sequence[UUID], why: SubState) -> None:
        if ids:
            rows = Transaction.objects.filter(pk__in=ids, state__in=may_become(TransactionState.QUEUED))
            rows.update(state=TransactionState.QUEUED, sub_state=why)
