"""What a lane has in flight, and what is due for each: a sum over all, and pure decisions over the few that are due.

A lane may have a thousand transactions out. Looked at one by one are only its head, those whose `look_at` has come, and
those with an attempt that no node is known to have.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Count, Min, Q, QuerySet, Sum
from django.db.models.functions import Now

from signer import fees
from signer.fees import Fees
from signer.models import Attempt, Lane, Transaction
from signer.rpc_errors import ErrorClass
from signer.states import IN_FLIGHT, AttemptState, Purpose, TransactionState

# A node that refuses a price gets this many new ones at once; then it is given a block's time between them.
QUICK_REQUOTES = 3
UNDERPRICED = {ErrorClass.UNDERPRICED.value, ErrorClass.UNDERPRICED_REPLACEMENT.value}
# These will not pass by asking again soon.
SLOW_ERRORS = {error.value for error in ErrorClass} - {ErrorClass.AMBIGUOUS.value, ErrorClass.RATE.value}
FIRST_RETRY_SECONDS = 2
# The head is raised less and less impatiently: its attempts wait twice as long each, up to this.
BUMP_WAIT_SECONDS_MAX = 600


class Reason(Enum):
    """Why a transaction gets another attempt."""

    NOOP = "noop"  # the node refused it, its time has passed, or it was cancelled: its nonce must be used up
    SPEED_UP = "speed_up"  # a person wants it raised
    REQUOTE = "requote"  # the node takes nothing at this price
    BUMP = "bump"  # the head of the lane is out too long


@dataclass(frozen=True)
class Patience:
    """How long the signer waits, in seconds."""

    resend: float
    bump_after: float
    block_time: float

    @classmethod
    def of(cls, block_time_ms: int) -> "Patience":
        knobs = settings.SIGNER
        return cls(float(knobs["resend_seconds"]), float(knobs["bump_after_seconds"]), block_time_ms / 1000)


@dataclass(frozen=True)
class Flight:
    """A transaction with a nonce, and its attempts in the order they were made."""

    transaction: Transaction
    attempts: Sequence[Attempt]

    @property
    def nonce(self) -> int:
        assert self.transaction.nonce is not None
        return self.transaction.nonce

    @property
    def best(self) -> Attempt:
        """The attempt that stands for the transaction now: the last, for each outbids the one before."""
        return self.attempts[-1]

    @property
    def highest_fees(self) -> Fees:
        return fees.highest([fees_of(attempt) for attempt in self.attempts])

    @property
    def blobs_were_refused(self) -> bool:
        """Whether no node ever took what carried blobs: those in the form of another fork, say."""
        return all(attempt.state == AttemptState.REJECTED for attempt in self.attempts if attempt.blob_count)

    @property
    def wants_noop(self) -> bool:
        return bool(self.transaction.noop_outcome) and all(
            attempt.purpose != Purpose.NOOP for attempt in self.attempts
        )


def fees_of(attempt: Attempt) -> Fees:
    return Fees(
        attempt.max_fee_per_gas_wei, attempt.max_priority_fee_per_gas_wei, attempt.max_fee_per_blob_gas_wei
    )


@dataclass(frozen=True)
class Sky:
    """All that a lane has in flight, in numbers."""

    count: int
    open_count: int  # of which no block holds
    cost_wei: int  # the most that all of it may still take from the balance
    open_gas: int  # the sum of the gas limits of what no block holds yet
    head_nonce: int | None  # the lowest that no block holds yet


def survey(lane: Lane) -> Sky:
    """Return the sums over what the lane has in flight, read from one index."""
    is_open = Q(state=TransactionState.BROADCASTING)
    found = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT).aggregate(
        count=Count("pk"),
        open_count=Count("pk", filter=is_open),
        cost=Sum("reserved_wei"),
        gas=Sum("reserved_gas", filter=is_open),
        head=Min("nonce", filter=is_open),
    )
    return Sky(
        found["count"], found["open_count"], int(found["cost"] or 0), int(found["gas"] or 0), found["head"]
    )


def load_due(lane: Lane, sky: Sky, besides: Collection[UUID] = ()) -> list[Flight]:
    """Return the head and what must be looked at now, lowest nonce first; the raw bytes are left in the database.

    besides: those that are being sent at this moment.
    """
    if sky.head_nonce is None:
        return []
    still_open = Transaction.objects.filter(lane=lane, state=TransactionState.BROADCASTING)
    unsent = Attempt.objects.filter(
        state=AttemptState.SIGNED, transaction__lane=lane, transaction__state=TransactionState.BROADCASTING
    ).exclude(transaction__in=besides)
    # Three small indexes; one condition with OR would look at all that is in flight.
    head = still_open.filter(nonce=sky.head_nonce).order_by()
    late = still_open.filter(look_at__lte=Now()).order_by()
    due = head.values("pk").union(late.values("pk"), unsent.order_by().values("transaction_id"))
    ids = {found["pk"] for found in due} - set(besides)
    rows = list(still_open.filter(pk__in=ids).order_by("nonce").defer("data"))
    attempts: dict[Any, list[Attempt]] = {}
    for attempt in attempts_of(rows):
        attempts.setdefault(attempt.transaction_id, []).append(attempt)
    return [Flight(row, attempts[row.pk]) for row in rows if row.pk in attempts]


def attempts_of(rows: Sequence[Transaction]) -> "QuerySet[Attempt]":
    """Return the attempts that may still be executed, in the order they were made, without their bulky columns."""
    found = Attempt.objects.filter(transaction__in=[row.pk for row in rows]).exclude(state=AttemptState.VOID)
    return found.defer("raw", "receipt", "last_error_message").order_by("seq")


def resend_due(flight: Flight, now: datetime, patience: Patience) -> bool:
    """Return whether the best attempt's bytes must be sent (again).

    What was committed and never sent goes first thing: the worker that committed it may have died before sending.
    What was accepted is sent again now and then: pools forget.
    """
    best = flight.best
    if best.state == AttemptState.REJECTED:
        return False
    if best.send_count == 0 or best.last_sent_at is None:
        return True
    return now - best.last_sent_at >= timedelta(seconds=retry_seconds(best, patience))


def retry_seconds(best: Attempt, patience: Patience) -> float:
    """Return how long after its last sending an attempt is sent again."""
    if best.state == AttemptState.SIGNED and best.last_error not in SLOW_ERRORS:
        return min(patience.resend, FIRST_RETRY_SECONDS * 2.0 ** min(best.send_count - 1, 10))
    return patience.resend


def has_expired(flight: Flight, now: datetime) -> bool:
    row = flight.transaction
    return not row.noop_outcome and row.valid_until is not None and row.valid_until <= now


def replacement_reason(flight: Flight, is_head: bool, now: datetime, patience: Patience) -> Reason | None:
    """Return why the transaction needs another attempt now, or None.

    Only the head is bumped: raising what waits behind a cheaper transaction buys nothing.
    """
    if flight.wants_noop:
        return Reason.NOOP
    if flight.transaction.speed_up is not None:
        return Reason.SPEED_UP
    best = flight.best
    if best.last_error in UNDERPRICED and best.last_sent_at is not None:
        refused = sum(attempt.last_error in UNDERPRICED for attempt in flight.attempts)
        if refused <= QUICK_REQUOTES or now - best.last_sent_at >= timedelta(seconds=patience.block_time):
            return Reason.REQUOTE
        return None
    out_since = best.first_sent_at
    if (
        is_head
        and out_since is not None
        and now - out_since >= timedelta(seconds=bump_wait(flight, patience))
    ):
        return Reason.BUMP
    return None


def bump_wait(flight: Flight, patience: Patience) -> float:
    """Return how long the head's best attempt is given, in seconds: three blocks at least, longer with each raise."""
    first = max(patience.bump_after, 3 * patience.block_time if patience.bump_after else 0)
    return min(first * 2.0 ** min(len(flight.attempts) - 1, 10), max(BUMP_WAIT_SECONDS_MAX, first))
