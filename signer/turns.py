"""Turns at a chain that is slow: one drain of it at a time in all workers, so that it does not hold up the others.

Whoever waits unusually long for a node marks the chain. While the mark lasts a drain needs the chain's turn; one
that does not get it goes away at once, and is rung again by the sweep. All of it is in Redis and expires: losing it
costs the other chains time, never correctness.
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
TURN_SECONDS = 40


@dataclass
class Turn:
    """What a worker's slot does for a chain at the moment."""

    chain_id: int
    token: str = ""  # of the turn, when it is held
    given_up: bool = False


_current: ContextVar[Turn | None] = ContextVar("signer_turn", default=None)


@contextmanager
def at_chain(chain_id: int) -> Iterator[bool]:
    """Work for the chain within the block; yields False when it is slow and another worker is at it."""
    turn = Turn(chain_id)
    if queue.is_slow(chain_id) and not _take(turn):
        yield False
        return
    before = _current.set(turn)
    try:
        yield True
    finally:
        _current.reset(before)
        if turn.token:
            queue.return_turn(chain_id, turn.token)


def may_wait(chain_id: int) -> bool:
    """Mark the chain as slow, and return whether the caller may go on waiting for its node.

    A caller that is in no worker's slot always may: a person, or the chain's only watcher.
    """
    queue.mark_slow(chain_id, SLOW_SECONDS)
    turn = _current.get()
    if turn is None or turn.chain_id != chain_id or turn.token or _take(turn):
        return True
    turn.given_up = True
    return False


def has_given_up(chain_id: int) -> bool:
    """Return whether the caller's slot is to be freed: it has given up waiting for this chain before."""
    turn = _current.get()
    return turn is not None and turn.chain_id == chain_id and turn.given_up


def _take(turn: Turn) -> bool:
    token = uuid4().hex
    if queue.take_turn(turn.chain_id, token, TURN_SECONDS):
        turn.token = token
        return True
    return False
