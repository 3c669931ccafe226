"""What a lane has in flight, and what is due for each: pure decisions over rows read once per pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from django.conf import settings

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


class Reason(Enum):
    """Why a transaction gets another attempt."""

    NOOP = "noop"  # the node refused it, or its time has passed: its nonce must be used up
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
        return fees.highest([_fees(attempt) for attempt in self.attempts])

    @property
    def max_cost_wei(self) -> int:
        return max(attempt.max_cost_wei for attempt in self.attempts)

    @property
    def gas_limit(self) -> int:
        return max(attempt.gas_limit for attempt in self.attempts)

    @property
    def is_open(self) -> bool:
        """Whether no block holds it, as far as the watcher knows."""
        return self.transaction.state == TransactionState.BROADCASTING


def _fees(attempt: Attempt) -> Fees:
    return Fees(
        attempt.max_fee_per_gas_wei, attempt.max_priority_fee_per_gas_wei, attempt.max_fee_per_blob_gas_wei
    )


def load(lane: Lane) -> list[Flight]:
    """Return what the lane has in flight, lowest nonce first; the raw bytes are left in the database."""
    rows = Transaction.objects.filter(lane=lane, state__in=IN_FLIGHT).order_by("nonce")
    attempts: dict[Any, list[Attempt]] = {}
    of_rows = Attempt.objects.filter(transaction__lane=lane, transaction__state__in=IN_FLIGHT)
    for attempt in of_rows.defer("raw", "receipt", "last_error_message").order_by("seq"):
        attempts.setdefault(attempt.transaction_id, []).append(attempt)
    return [Flight(row, attempts[row.pk]) for row in rows.defer("data") if row.pk in attempts]


def resend_due(flight: Flight, now: datetime, patience: Patience) -> bool:
    """Return whether the best attempt's bytes must be sent (again).

    What was committed and never sent goes first thing: the worker that committed it may have died before sending.
    What was accepted is sent again now and then: pools forget.
    """
    best = flight.best
    if not flight.is_open or best.state == AttemptState.REJECTED:
        return False
    if best.send_count == 0 or best.last_sent_at is None:
        return True
    wait = patience.resend
    if best.state == AttemptState.SIGNED and best.last_error not in SLOW_ERRORS:
        wait = min(wait, FIRST_RETRY_SECONDS * 2.0 ** min(best.send_count - 1, 10))
    return now - best.last_sent_at >= timedelta(seconds=wait)


def has_expired(flight: Flight, now: datetime) -> bool:
    row = flight.transaction
    return flight.is_open and not row.noop_outcome and row.valid_until is not None and row.valid_until <= now


def replacement_reason(flight: Flight, is_head: bool, now: datetime, patience: Patience) -> Reason | None:
    """Return why the transaction needs another attempt now, or None.

    Only the head is bumped: raising what waits behind a cheaper transaction buys nothing.
    """
    if not flight.is_open:
        return None
    best = flight.best
    if flight.transaction.noop_outcome and all(
        attempt.purpose != Purpose.NOOP for attempt in flight.attempts
    ):
        return Reason.NOOP
    if best.last_error in UNDERPRICED and best.last_sent_at is not None:
        refused = sum(attempt.last_error in UNDERPRICED for attempt in flight.attempts)
        if refused <= QUICK_REQUOTES or now - best.last_sent_at >= timedelta(seconds=patience.block_time):
            return Reason.REQUOTE
        return None
    out_since = best.first_sent_at
    if is_head and out_since is not None and now - out_since >= timedelta(seconds=patience.bump_after):
        return Reason.BUMP
    return None


def head(flights: Sequence[Flight]) -> Flight | None:
    """Return the lowest nonce that no block holds yet."""
    return next((flight for flight in flights if flight.is_open), None)
