"""Reading receipts: one watcher per chain, in batches, and the end of every transaction that had a nonce.

Owns the chain's row by its epoch, as a drain owns a lane's. Settles nothing but from a receipt in a block that is
linked by parent hash to a head deep enough above it; a failure counts no less than a success. Any attempt's receipt
counts, and an error is never read as "no receipt".
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery

from signer import blocks, chains, queue, reverts, settling
from signer.blocks import Header, Ledger
from signer.errors import RpcError
from signer.models import Attempt, Chain, Lane, Transaction
from signer.receipts import Finding, Verdict, judge, lowest_block
from signer.ringing import after_commit, ring_chain, ring_lane
from signer.rpc import quantity
from signer.rpc.heads import heads
from signer.states import IN_FLIGHT, Purpose, SubState, TransactionState
from workflows import Claim, FencedError, claim, crashpoint, guard, keep, release

log = structlog.get_logger()

# A nonce that is used by none of our attempts is called foreign only at this depth or deeper.
FOREIGN_DEPTH = 16

crashpoint.register("signer.receipts_read", "the receipts are read, nothing is recorded")
crashpoint.register("signer.settling", "in the middle of the commit that settles transactions")
crashpoint.register("signer.settled", "transactions are settled and committed, nobody is woken")


@dataclass(frozen=True)
class Candidate:
    """A transaction in flight that may have been mined."""

    transaction: Transaction
    attempts: Sequence[Attempt]


def watch(chain_id: int) -> None:
    """Follow the chain while it holds something of ours, for one slice; then send the next wake-up."""
    queue.heard(f"chain:{chain_id}")
    held = claim(Chain, chain_id, settings.SIGNER["lease_seconds"])
    if held is None:
        return
    try:
        with keep(held):
            Watch(held).run(settings.SIGNER["watch_slice_seconds"])
    except FencedError:
        return
    finally:
        release(held)
    if in_flight(chain_id).exists():
        ring_chain(chain_id)


def in_flight(chain_id: int) -> QuerySet[Transaction]:
    return Transaction.objects.filter(chain_id=chain_id, state__in=IN_FLIGHT)


class Watch:
    """One worker's ownership of a chain's receipts."""

    def __init__(self, held: Claim[Chain]) -> None:
        self.held = held
        self.chain = held.row
        self.rpc = chains.connect(held.row)
        self.ledger = Ledger(held, self.rpc)
        self._read_head = ""  # nothing can be new while this is the head

    def run(self, seconds: float) -> None:
        """Poll until nothing is in flight or the slice is used."""
        pause = min(max(self.chain.block_time_ms / 4000, 0.05), 3.0)
        deadline = time.monotonic() + seconds
        with heads(self.chain) as next_head:
            while in_flight(self.chain.pk).exists():
                try:
                    self.poll()
                except RpcError as error:
                    log.warning("chain_not_read", chain=self.chain.pk, code=error.code, text=error.message)
                left = deadline - time.monotonic()
                # To its end even when the slice is shorter than the pause: the next watch begins with a look.
                next_head.wait(min(pause, left))
                if left <= pause:
                    return

    def poll(self) -> None:
        """Look at the chain once. Raises RpcError when it cannot be seen; then nothing has changed."""
        # The head is read before the rows: whatever it can hold of ours was committed before it was sent.
        latest = blocks.fetch_latest(self.rpc)
        if latest.hash == self._read_head or not self.ledger.follow(latest):
            return
        candidates = self._candidates(latest)
        answers = self._receipts(candidates)
        crashpoint("signer.receipts_read")
        verdicts = self._judge(candidates, answers, latest)
        self._apply(verdicts)
        self._look_for_foreign([c for c, verdict in verdicts if verdict.finding is Finding.ABSENT], latest)
        if all(verdict.finding is not Finding.UNKNOWN for _, verdict in verdicts):
            self._read_head = latest.hash

    def _candidates(self, latest: Header) -> list[Candidate]:
        """Return what may have been mined: a used nonce, or a block that is deep enough now."""
        rows = list(in_flight(self.chain.pk).defer("data"))
        counts = self._counts({row.lane_id for row in rows if row.state == TransactionState.BROADCASTING})
        canonical = self.ledger.hashes()
        wanted = {row.pk: row for row in rows if self._worth_reading(row, counts, canonical, latest)}
        attempts: dict[UUID, list[Attempt]] = defaultdict(list)
        of_wanted = Attempt.objects.filter(transaction__in=list(wanted)).defer(
            "raw", "receipt", "last_error_message"
        )
        for attempt in of_wanted.order_by("seq"):
            attempts[attempt.transaction_id].append(attempt)
        return [Candidate(row, attempts[pk]) for pk, row in wanted.items()]

    def _worth_reading(
        self, row: Transaction, counts: Mapping[UUID, int], canonical: Mapping[int, str], latest: Header
    ) -> bool:
        assert row.nonce is not None
        if row.state == TransactionState.BROADCASTING:
            return row.nonce < counts.get(row.lane_id, 0)
        assert row.block_number is not None
        is_deep = latest.number - row.block_number + 1 >= self.chain.confirmations
        return is_deep or canonical.get(row.block_number) != row.block_hash

    def _counts(self, lane_ids: set[UUID]) -> dict[UUID, int]:
        """Return the number of mined nonces of each lane; a lane whose count the node does not give is left out."""
        lanes = list(Lane.objects.filter(pk__in=lane_ids).values_list("pk", "address"))
        answers = self.rpc.agreed([("eth_getTransactionCount", [address, "latest"]) for _, address in lanes])
        pairs = zip(lanes, answers, strict=True)
        return {pk: quantity(answer) for (pk, _), answer in pairs if not isinstance(answer, RpcError)}

    def _receipts(self, candidates: Sequence[Candidate]) -> list[list[Any]]:
        """Return the answers for all attempts of each candidate, RpcErrors among them."""
        calls = [("eth_getTransactionReceipt", [attempt.hash]) for c in candidates for attempt in c.attempts]
        answers = iter(self.rpc.agreed(calls))
        return [[next(answers) for _ in candidate.attempts] for candidate in candidates]

    def _judge(
        self, candidates: Sequence[Candidate], answers: Sequence[Sequence[Any]], latest: Header
    ) -> list[tuple[Candidate, Verdict]]:
        pairs = list(zip(candidates, answers, strict=True))
        lowest = [lowest_block(c.attempts, given) or c.transaction.block_number for c, given in pairs]
        deep: dict[int, str] = {}
        for number in {number for number in lowest if number is not None}:
            deep |= self.ledger.cover(number, latest.number)
        canonical = deep | self.ledger.hashes()
        verdicts = []
        for candidate, given in pairs:
            verdict = judge(candidate.attempts, given, canonical, latest.number, self.chain.confirmations)
            if verdict.finding is Finding.ABSENT and _lost_its_block(candidate.transaction, canonical):
                verdict = Verdict(Finding.ORPHANED)
            verdicts.append((candidate, verdict))
        return verdicts

    # --- What follows from it -----------------------------------------------------------------------------

    def _apply(self, verdicts: Sequence[tuple[Candidate, Verdict]]) -> None:
        """Write all that was found in one guarded transaction, and wake who waits for it."""
        found = [(c, verdict) for c, verdict in verdicts if verdict.attempt is not None]
        orphans = {c.transaction.block_hash for c, v in verdicts if v.finding is Finding.ORPHANED}
        if not found and not orphans:
            return
        reasons = reverts.reasons(self.rpc, [(c.transaction.pk, v) for c, v in found if _reverted(c, v)])
        with transaction.atomic():
            guard(self.held)
            reopened = self.ledger.reopen(orphans)
            self._store_receipts([verdict for _, verdict in found])
            settled = self._write(found, reasons)
            crashpoint("signer.settling")
            settling.tell_workflows(settled)
            after_commit(lambda: crashpoint("signer.settled"))
            for lane_id in {c.transaction.lane_id for c, v in found if v.finding is Finding.FINAL}:
                after_commit(partial(ring_lane, lane_id))
        if reopened:
            log.warning("blocks_orphaned_unseen", chain=self.chain.pk, blocks=len(orphans), reopened=reopened)
        for candidate, verdict in found:
            _log(candidate, verdict)

    @staticmethod
    def _store_receipts(verdicts: Sequence[Verdict]) -> None:
        attempts = []
        for verdict in verdicts:
            assert verdict.attempt is not None
            verdict.attempt.receipt = {k: v for k, v in (verdict.receipt or {}).items() if k != "logsBloom"}
            attempts.append(verdict.attempt)
        Attempt.objects.bulk_update(attempts, ["receipt"], batch_size=100)

    def _write(
        self, found: Sequence[tuple[Candidate, Verdict]], reasons: Mapping[UUID, dict[str, str]]
    ) -> list[UUID]:
        """Move the transactions; those that end alike in the same block in one statement. Returns the settled ids."""
        groups: dict[tuple[Any, ...], list[tuple[Candidate, Verdict]]] = defaultdict(list)
        settled = []
        for candidate, verdict in found:
            pk = candidate.transaction.pk
            state = outcome(candidate, verdict)
            block = (verdict.block_number, verdict.block_hash)
            # Each failure has its own error: a group of its own.
            groups[state, block, pk if pk in reasons else None].append((candidate, verdict))
            if verdict.finding is Finding.FINAL:
                settled.append(pk)
        for (state, (number, block_hash), failed), members in groups.items():
            ids = [candidate.transaction.pk for candidate, _ in members]
            updates: dict[str, Any] = {
                "winner": _winner([verdict for _, verdict in members]),
                "block_number": number,
                "block_hash": block_hash,
            }
            if state == TransactionState.CONFIRMING:
                in_flight(self.chain.pk).filter(pk__in=ids).update(state=state, sub_state="", **updates)
                continue
            if failed is not None:
                updates["error"] = reasons[failed]
            elif state == TransactionState.COMPLETED:
                updates["error"] = None
            settling.end(ids, state, **updates)
        return settled

    def _look_for_foreign(self, absent: Sequence[Candidate], latest: Header) -> None:
        """Mark transactions whose nonce was used, deep in the chain, by something that is not ours.

        Only marks them: the drain then stops the lane, and a person decides. The nonce is never given anew from here.
        """
        at = latest.number - max(FOREIGN_DEPTH, self.chain.confirmations)
        fresh = [c.transaction for c in absent if c.transaction.sub_state != SubState.NONCE_FOREIGN]
        if at < 0 or not fresh:
            return
        lanes = list(Lane.objects.filter(pk__in={row.lane_id for row in fresh}).values_list("pk", "address"))
        counts = self.rpc.agreed_or_raise(
            [("eth_getTransactionCount", [address, hex(at)]) for _, address in lanes]
        )
        used = {pk: quantity(count) for (pk, _), count in zip(lanes, counts, strict=True)}
        foreign = [row for row in fresh if row.nonce is not None and row.nonce < used[row.lane_id]]
        if not foreign:
            return
        with transaction.atomic():
            guard(self.held)
            rows = in_flight(self.chain.pk).filter(pk__in=[row.pk for row in foreign])
            rows.filter(state=TransactionState.BROADCASTING).update(sub_state=SubState.NONCE_FOREIGN)
        log.error("nonce_used_by_stranger", transactions=[str(row.pk) for row in foreign])
        for lane_id in {row.lane_id for row in foreign}:
            ring_lane(lane_id)


def _lost_its_block(row: Transaction, canonical: Mapping[int, str]) -> bool:
    """Return whether the chain has another block where the transaction was: a fork while nobody watched."""
    if row.state != TransactionState.CONFIRMING or row.block_number is None:
        return False
    return canonical.get(row.block_number, row.block_hash) != row.block_hash


def _winner(verdicts: Sequence[Verdict]) -> Subquery:
    """Each transaction's mined attempt, for one UPDATE over many transactions."""
    ids = [verdict.attempt.pk for verdict in verdicts if verdict.attempt is not None]
    return Subquery(Attempt.objects.filter(transaction=OuterRef("pk"), pk__in=ids).values("pk")[:1])


def _reverted(candidate: Candidate, verdict: Verdict) -> bool:
    return (
        verdict.finding is Finding.FINAL
        and outcome(candidate, verdict) == TransactionState.FAILED
        and (verdict.attempt is not None and verdict.attempt.purpose == Purpose.PAYLOAD)
    )


def outcome(candidate: Candidate, verdict: Verdict) -> TransactionState:
    """Return the state that a mined attempt gives its transaction."""
    assert verdict.attempt is not None
    if verdict.finding is not Finding.FINAL:
        return TransactionState.CONFIRMING
    if verdict.attempt.purpose == Purpose.NOOP:
        return TransactionState(candidate.transaction.noop_outcome or TransactionState.FAILED)
    return TransactionState.COMPLETED if verdict.succeeded else TransactionState.FAILED


def _log(candidate: Candidate, verdict: Verdict) -> None:
    assert verdict.attempt is not None
    event = "transaction_settled" if verdict.finding is Finding.FINAL else "transaction_mined"
    row = candidate.transaction
    log.info(
        event,
        transaction=str(row.pk),
        lane=str(row.lane_id),
        correlation_id=row.correlation_id,
        state=outcome(candidate, verdict),
        hash=verdict.attempt.hash,
        block=verdict.block_number,
    )
