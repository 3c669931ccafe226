"""One drain at a time, in all workers, for a chain that is slow: so it does not hold up the others.

Whoever waits unusually long for a node marks the chain. While the mark lasts a drain needs the chain's one place; a
drain that does not get it goes away at once, and whoever leaves the chain next rings for one of these. All of it is in
Redis and expires: losing it costs time, never correctness.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from uuid import uuid4

from signer import queue

# Renewed by each call that lets itself be waited for.
SLOW_SECONDS = 10
# As long as a drain's slice and its longest call; one that takes longer shares the chain with the next.
PLACE_SECONDS = 40


@dataclass
class Visit:
    """What a worker's slot does for a chain at the moment."""

    chain_id: int
    token: str = ""  # of the chain's place, when the visit has it
    given_up: bool = False


_current: ContextVar[Visit | None] = ContextVar("signer_visit", default=None)


@contextmanager
def visit(chain_id: int) -> Iterator[bool]:
    """Work for the chain within the block; yields False when it is slow and another worker is at it."""
    here = Visit(chain_id)
    if queue.is_slow(chain_id) and not _take_place(here):
        yield False
        return
    before = _current.set(here)
    try:
        yield True
    finally:
        _current.reset(before)
        if here.token:
            queue.return_place(chain_id, here.token)


def may_wait(chain_id: int) -> bool:
    """Mark the chain as slow, and return whether the caller may go on waiting for its node.

    A caller that is in no drain always may: a person, or the chain's only watcher.
    """
    queue.mark_slow(chain_id, SLOW_SECONDS)
    here = _current.get()
    if here is None or here.chain_id != chain_id or here.token or _take_place(here):
        return True
    here.given_up = True
    return False


def has_given_up(chain_id: int) -> bool:
    """Return whether the caller has given up waiting for this chain before: its slot is to be freed."""
    here = _current.get()
    return here is not None and here.chain_id == chain_id and here.given_up


def _take_place(here: Visit) -> bool:
    token = uuid4().hex
    if queue.take_place(here.chain_id, token, PLACE_SECONDS):
        here.token = token
        return True
    return False
