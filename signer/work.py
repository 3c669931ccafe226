"""One worker's ownership of a lane, and what it has at hand while it lasts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from signer import capacity, chains
from signer.capacity import Limits
from signer.errors import LaneBusyError
from signer.flights import Patience
from signer.models import Chain, Lane
from signer.rpc.gateway import Gateway
from workflows import Claim, claim, release

PATIENCE_SECONDS = 5
LEASE_SECONDS = 30


@contextmanager
def owned(lane: Lane) -> Iterator[Claim[Lane]]:
    """Own the lane for the block as a worker does, for what a person decides. Raises LaneBusyError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    held = claim(Lane, lane.pk, LEASE_SECONDS)
    while held is None:
        if time.monotonic() > deadline:
            raise LaneBusyError(f"a worker is at the lane of {lane.address}")
        time.sleep(0.1)
        held = claim(Lane, lane.pk, LEASE_SECONDS)
    try:
        yield held
    finally:
        release(held)


@dataclass
class Work:
    """A claimed lane with its chain, its node and how patient one is with it."""

    held: Claim[Lane]
    chain: Chain
    rpc: Gateway
    patience: Patience
    limits: Limits
    has_expired: bool  # something that waits is past its time
    is_promised: bool  # a nonce of the lane is some authorisation's that is under way
    was_told_of_ceiling: bool
    full_at: int | None = None  # how many were in flight when there was no room for more
    filled: bool = False  # what was committed last took the last places
    unclear: set[UUID] = field(default_factory=set)  # passed over by this drain; the next one asks again
    sending: set[UUID] = field(default_factory=set)  # what is being sent while the next batch is prepared
    finish_sending: Callable[[], list[Any]] = list  # ... waits for the answers

    @classmethod
    def on(cls, held: Claim[Lane]) -> "Work":
        """Return the work on a lane that was read as `lanes` reads it."""
        row: Any = held.row
        chain = held.row.chain
        limits = Limits.of(chain.max_in_flight, chain.max_in_flight_adaptive)
        seldom = (row.has_expired, row.is_promised, row.was_told_of_ceiling)
        return cls(held, chain, chains.connect(chain), Patience.of(chain.block_time_ms), limits, *seldom)

    @property
    def lane(self) -> Lane:
        return self.held.row

    def cap(self, delegated: bool = False) -> int:
        """Return how many may be in flight now."""
        return capacity.current(self.lane.in_flight_cap, self.limits, delegated)
