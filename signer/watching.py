"""Reading receipts: one watcher per chain, in batches, and the end of every transaction that had a nonce.

Owns the chain's row by its epoch, as a drain owns a lane's. Settles nothing but from a receipt in a block that is
linked by parent hash to a head deep enough above it; a failure counts no less than a success. Any attempt's receipt
counts, and an error is never read as "no receipt".
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction

from signer import blocks, candidates, chains, foreign, money, queue, rechecking, reverts, settling
from signer.blocks import Header, Ledger
from signer.candidates import Candidate, Receipts, in_flight
from signer.errors import RpcError
from signer.models import Attempt, Chain, Transaction
from signer.receipts import Finding, Verdict, judge, lowest_block
from signer.ringing import after_commit, ring_chain, ring_lane
from signer.rpc.heads import heads
from signer.standing import waiting_lanes
from signer.statements import update_each
from signer.states import IN_FLIGHT, Finality, Purpose, SubState, TransactionState
from workflows import Claim, FencedError, claim, crashpoint, guard, keep, release

log = structlog.get_logger()

crashpoint.register("signer.receipts_read", "the receipts are read, nothing is recorded")
crashpoint.register("signer.receipts_stored", "the receipts are written, no transaction has moved yet")
crashpoint.register("signer.settling", "in the middle of the commit that settles transactions")
crashpoint.register("signer.settled", "transactions are settled and committed, nobody is woken")


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


class Watch:
    """One worker's ownership of a chain's receipts."""

    def __init__(self, held: Claim[Chain]) -> None:
        self.held = held
        self.chain = held.row
        self.rpc = chains.connect(held.row)
        self.ledger = Ledger(held, self.rpc)
        self.receipts = Receipts(self.rpc)
        self._read_head = ""  # nothing can be new while this is the head
        # Whoever watched before has read what it followed, but for the last block when it died.
        known = held.row.head_number
        self._read_number = None if known is None else known - 1

    def run(self, seconds: float) -> None:
        """Poll until nothing is in flight or the slice is used."""
        pause = min(max(self.chain.block_time_ms / 4000, 0.05), 3.0)
        deadline = time.monotonic() + seconds
        if self._try(self._recheck) and not in_flight(self.chain.pk).exists():
            return  # woken for that alone
        with heads(self.chain) as next_head:
            while in_flight(self.chain.pk).exists():
                if self._try(self.poll):
                    continue  # there is more than one look takes in
                left = deadline - time.monotonic()
                # To its end even when the slice is shorter than the pause: the next watch begins with a look.
                next_head.wait(max(0.0, min(pause, left)))
                if left <= pause:
                    return

    def _try(self, look: Callable[[], bool]) -> bool:
        try:
            return look()
        except RpcError as error:
            log.warning("chain_not_read", chain=self.chain.pk, code=error.code, text=error.message)
            return False

    def _recheck(self) -> bool:
        """Now and then look again at what was settled: a reorganisation may have been deeper than was waited for."""
        if not rechecking.is_due(self.held):
            return False
        rechecking.recheck(self.held, self.rpc)
        return True

    def poll(self) -> bool:
        """Look at the chain once; return whether there is more to be seen at once.

        Raises RpcError when it cannot be seen; then nothing has changed.
        """
        # The head is read before the rows: whatever it can hold of ours was committed before it was sent.
        latest = blocks.fetch_latest(self.rpc)
        if latest.hash == self._read_head or not self.ledger.follow(latest):
            return False
        final = self._final(latest)
        canonical = self.ledger.hashes()
        found = candidates.find(self.rpc, self.chain.pk, canonical, final)
        answers = self.receipts.of(found, self._fresh_blocks(latest), canonical)
        crashpoint("signer.receipts_read")
        verdicts = self._agreed(self._judge(found, answers, latest, final))
        self._apply(verdicts)
        absent = [c.transaction for c, verdict in verdicts if verdict.finding is Finding.ABSENT]
        foreign.look(self.held, self.rpc, absent, final)
        if len(found) == candidates.LIMIT:
            return any(verdict.finding is Finding.FINAL for _, verdict in verdicts)
        if all(verdict.finding is not Finding.UNKNOWN for _, verdict in verdicts):
            self._read_head, self._read_number = latest.hash, latest.number
        return False

    def _fresh_blocks(self, latest: Header) -> range:
        """Return the blocks in which what was newly mined must be, or most likely is."""
        first = latest.number - 1 if self._read_number is None else self._read_number + 1
        return range(max(0, first), latest.number + 1)

    def _final(self, latest: Header) -> int:
        """Return the highest block that counts as final."""
        if self.chain.finality == Finality.DEPTH:
            return latest.number - self.chain.confirmations + 1
        number = Header.of(self.rpc.call("eth_getBlockByNumber", "finalized", False)).number
        # A node that lags may say less than another has said.
        known = max(number, self.chain.finalized_number or 0)
        if known != self.chain.finalized_number:
            guard(self.held, finalized_number=known)
            self.chain.finalized_number = known
        return known

    def _judge(
        self, found: Sequence[Candidate], answers: Sequence[Sequence[Any]], latest: Header, final: int
    ) -> list[tuple[Candidate, Verdict]]:
        pairs = list(zip(found, answers, strict=True))
        lowest = [lowest_block(c.attempts, given) or c.transaction.block_number for c, given in pairs]
        deep: dict[int, str] = {}
        for number in {number for number in lowest if number is not None}:
            deep |= self.ledger.cover(number, latest.number)
        canonical = deep | self.ledger.hashes()
        verdicts = []
        for candidate, given in pairs:
            verdict = judge(candidate.attempts, given, canonical, latest.number, final)
            if verdict.finding is Finding.ABSENT and _lost_its_block(candidate.transaction, canonical):
                verdict = Verdict(Finding.ORPHANED)
            verdicts.append((candidate, verdict))
        return verdicts

    def _agreed(self, verdicts: list[tuple[Candidate, Verdict]]) -> list[tuple[Candidate, Verdict]]:
        """Leave open what would end by a block that the chain's nodes do not agree on."""
        settling_by = {v.block_number: v.block_hash for _, v in verdicts if v.finding is Finding.FINAL}
        if not self.rpc.has_several or not settling_by:
            return verdicts
        headers = self.rpc.agreed([("eth_getBlockByNumber", [hex(each), False]) for each in settling_by])
        sure = {
            (number, block_hash)
            for (number, block_hash), header in zip(settling_by.items(), headers, strict=True)
            if isinstance(header, dict) and Header.of(header).hash == block_hash
        }
        unsure = Verdict(Finding.UNKNOWN)
        return [
            (c, unsure if v.finding is Finding.FINAL and (v.block_number, v.block_hash) not in sure else v)
            for c, v in verdicts
        ]

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
            crashpoint("signer.receipts_stored")
            settled = self._write(found, reasons)
            final = [(c.transaction.lane_id, v) for c, v in found if v.finding is Finding.FINAL]
            money.count_spent(self.held.now(), final)
            crashpoint("signer.settling")
            settling.tell_workflows(settled)
            after_commit(lambda: crashpoint("signer.settled"))
            after_commit(lambda: _wake({lane_id for lane_id, _ in final}))
        if reopened:
            log.warning("blocks_orphaned_unseen", chain=self.chain.pk, blocks=len(orphans), reopened=reopened)
        for candidate, verdict in found:
            _log(candidate, verdict)

    @staticmethod
    def _store_receipts(verdicts: Sequence[Verdict]) -> None:
        rows = {}
        for verdict in verdicts:
            assert verdict.attempt is not None
            rows[verdict.attempt.pk] = [
                {k: v for k, v in (verdict.receipt or {}).items() if k != "logsBloom"}
            ]
        update_each(Attempt, ("receipt",), rows)

    def _write(
        self, found: Sequence[tuple[Candidate, Verdict]], reasons: Mapping[UUID, dict[str, str]]
    ) -> list[UUID]:
        """Move the transactions; those that end alike in the same block in one statement. Returns the settled ids."""
        groups: dict[tuple[Any, ...], dict[UUID, UUID]] = defaultdict(dict)
        settled = []
        for candidate, verdict in found:
            assert verdict.attempt is not None
            pk = candidate.transaction.pk
            state = outcome(candidate, verdict)
            # Each failure has its own error: a group of its own.
            failed = pk if pk in reasons else None
            group = (state, verdict.block_number, verdict.block_hash, failed, _afterword(candidate, state))
            groups[group][pk] = verdict.attempt.pk
            if verdict.finding is Finding.FINAL:
                settled.append(pk)
        now = self.held.now()
        for (state, number, block_hash, failed, afterword), winners in groups.items():
            block = {"block_number": number, "block_hash": block_hash}
            if state == TransactionState.CONFIRMING:
                rows = {pk: (attempt,) for pk, attempt in winners.items()}
                updates: dict[str, Any] = {"state": state, "sub_state": "", **block}
                update_each(Transaction, ("winner",), rows, states=IN_FLIGHT, **updates)
                continue
            if failed is not None:
                block["error"] = reasons[failed]
            elif state == TransactionState.COMPLETED:
                block["error"] = None
            settling.end_mined(winners, state, now, sub_state=afterword, **block)
        return settled


def _wake(settled: Collection[UUID]) -> None:
    """Wake those of the lanes in which something waited for the end of what was settled."""
    for lane_id in waiting_lanes(settled) if settled else ():
        ring_lane(lane_id)


def _lost_its_block(row: Transaction, canonical: Mapping[int, str]) -> bool:
    """Return whether the chain has another block where the transaction was: a fork while nobody watched."""
    if row.state != TransactionState.CONFIRMING or row.block_number is None:
        return False
    return canonical.get(row.block_number, row.block_hash) != row.block_hash


def _afterword(candidate: Candidate, state: TransactionState) -> SubState:
    """Return what is to be said of a transaction beside its final state."""
    was_cancelled = candidate.transaction.noop_outcome == TransactionState.CANCELLED
    return SubState.CANCEL_LOST if was_cancelled and state != TransactionState.CANCELLED else SubState.NONE


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
