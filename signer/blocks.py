"""The recent chain as a list of headers linked by parent hash, kept in rows, and what a fork does to it.

A receipt counts only if its block is in this list. Nothing here believes a block because of its number.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Min
from django.db.models.functions import Now

from signer.errors import RpcTransportError
from signer.models import Attempt, Block, Chain, Transaction
from signer.rechecking import tell_of_deep_reorg
from signer.rpc import Rpc, quantity
from signer.states import SubState, TransactionState
from workflows import Claim, guard

log = structlog.get_logger()

# How many headers are kept below the head. A fork that is longer is an incident, not a fork.
WINDOW = 256
# ... and how many the list begins with, so that a fork of ordinary length is recognised at once.
START_DEPTH = 16
FORK_STEP = 32


@dataclass(frozen=True)
class Header:
    number: int
    hash: str
    parent_hash: str

    @classmethod
    def of(cls, raw: Any) -> "Header":
        """Return the header a node sent. Raises RpcTransportError for anything that is none."""
        try:
            return cls(quantity(raw["number"]), raw["hash"].lower(), raw["parentHash"].lower())
        except (TypeError, KeyError, AttributeError):
            raise RpcTransportError("the node sent something that is not a block") from None


def is_linked(headers: Sequence[Header]) -> bool:
    """Return whether each header names the one before it as its parent."""
    return all(
        later.parent_hash == earlier.hash and later.number == earlier.number + 1
        for earlier, later in pairwise(headers)
    )


def fetch_latest(rpc: Rpc) -> Header:
    return Header.of(rpc.latest_header())


def fetch(rpc: Rpc, first: int, last: int) -> list[Header]:
    """Return the headers of the node's chain from `first` to `last`. Raises RpcError."""
    raws = rpc.batch_or_raise(
        [("eth_getBlockByNumber", [hex(number), False]) for number in range(first, last + 1)]
    )
    return [Header.of(raw) for raw in raws]


class Ledger:
    """The canonical headers of a chain, owned by its watcher."""

    def __init__(self, held: Claim[Chain], rpc: Rpc) -> None:
        self.held = held
        self.rpc = rpc
        self.rows = Block.objects.filter(chain=held.row, canonical=True)

    def hashes(self) -> dict[int, str]:
        """Return the canonical hash by number."""
        return dict(self.rows.values_list("number", "hash"))

    def follow(self, latest: Header) -> bool:
        """Bring the rows up to the node's head; return whether the head is now `latest`.

        False: the node lags behind what it said before, or its chain changed while it was read; look again later.
        Raises RpcError.
        """
        top = self.rows.order_by("-number").first()
        if top is None or latest.number - top.number > WINDOW:
            return self._restart(latest)
        if latest.number <= top.number:
            row = self.rows.filter(number=latest.number).first()
            if row is not None and row.hash != latest.hash:
                self._put_aside_fork(min(top.number, latest.number))
            return row is not None and row.hash == latest.hash == top.hash
        headers = [*fetch(self.rpc, top.number + 1, latest.number - 1), latest]
        if not is_linked(headers):
            return False
        if headers[0].parent_hash != top.hash:
            self._put_aside_fork(top.number)
            return False
        self._append(headers)
        return True

    def cover(self, number: int, head: int) -> dict[int, str]:
        """Have the rows reach down to `number` as far as the window allows; return hashes of what lies below it.

        A block below the window is taken as the node gives it: it is deeper than any fork that is followed.
        """
        lowest = self.rows.aggregate(lowest=Min("number"))["lowest"]
        if number >= lowest:
            return {}
        bottom = max(number, head - WINDOW)
        if bottom < lowest:
            headers = fetch(self.rpc, bottom, lowest)
            if not is_linked(headers) or headers[-1].hash != self.rows.get(number=lowest).hash:
                return {}
            self._append(headers[:-1])
        if number < bottom:
            [deep] = fetch(self.rpc, number, number)
            return {number: deep.hash}
        return {}

    def _append(self, headers: Sequence[Header]) -> None:
        with transaction.atomic():
            self._guard(max(header.number for header in headers))
            self._insert(headers)

    def _restart(self, latest: Header) -> bool:
        """Begin the list anew: nobody watched for so long that the gap is not worth filling."""
        depth = max(START_DEPTH, self.held.row.confirmations)
        headers = [*fetch(self.rpc, max(0, latest.number - depth), latest.number - 1), latest]
        if not is_linked(headers):
            return False
        with transaction.atomic():
            self._guard(latest.number)
            self.rows.delete()
            self._insert(headers)
        return True

    def _insert(self, headers: Sequence[Header]) -> None:
        rows = [
            Block(chain=self.held.row, number=header.number, hash=header.hash, parent_hash=header.parent_hash)
            for header in headers
        ]
        # A block that was put aside may come back: then its row is there already.
        Block.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["chain", "hash"], update_fields=["canonical"]
        )
        top = max(header.number for header in headers)
        Block.objects.filter(chain=self.held.row, number__lt=top - WINDOW).delete()

    def _guard(self, head: int) -> None:
        known = self.held.row.head_number
        guard(self.held, head_number=max(head, known or 0), head_seen_at=self.held.now())
        self.held.row.head_number = max(head, known or 0)

    # --- Forks --------------------------------------------------------------------------------------------

    def _put_aside_fork(self, top: int) -> None:
        """Mark what the node no longer has as orphaned, and take back what was concluded from it."""
        fork = self._fork_point(top)
        with transaction.atomic():
            guard(self.held, head_number=max(fork, 0), head_seen_at=self.held.now())
            self.held.row.head_number = max(fork, 0)
            orphans = list(self.rows.filter(number__gt=fork).values_list("hash", flat=True))
            self.rows.filter(number__gt=fork).update(canonical=False)
            reopened = self.reopen(orphans)
            # More confirmations would have waited for this. A person must look: the outcome told may be untrue.
            tell_of_deep_reorg(self.held.row, orphans)
        log.warning(
            "fork", chain=self.held.row.pk, from_block=fork + 1, blocks=len(orphans), reopened=reopened
        )

    def _fork_point(self, top: int) -> int:
        """Return the highest block that is in the rows and on the node's chain, or the number below all rows.

        Raises RpcError.
        """
        hashes = self.hashes()
        lowest = min(hashes)
        while top >= lowest:
            bottom = max(lowest, top - FORK_STEP + 1)
            for header in reversed(fetch(self.rpc, bottom, top)):
                if hashes.get(header.number) == header.hash:
                    return header.number
            top = bottom - 1
        if len(hashes) >= WINDOW:
            log.error("fork_deeper_than_window", chain=self.held.row.pk, window=WINDOW)
        return lowest - 1

    def reopen(self, orphans: Collection[str]) -> int:
        """Take transactions of orphaned blocks back to broadcasting: same nonce, same bytes, as if not mined yet.

        Within the caller's guarded transaction; returns how many.
        """
        rows = Transaction.objects.filter(
            chain=self.held.row, state=TransactionState.CONFIRMING, block_hash__in=orphans
        )
        Attempt.objects.filter(transaction__in=rows).update(receipt=None, last_sent_at=None)
        return rows.update(
            state=TransactionState.BROADCASTING,
            sub_state=SubState.REORGED,
            winner=None,
            block_number=None,
            block_hash="",
            look_at=Now(),
        )
