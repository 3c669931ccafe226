"""One worker's turn at the logs of a chain: look at its head, go back where it has forked, read on.

Owns the chain's index by its epoch, as a watch owns the chain. Whatever is read goes into one guarded transaction: the
logs, what the handlers make of them, and how far it is read. So a log is handed over once, wherever a worker dies, and a
worker that was replaced commits nothing.
"""

import time

import structlog
from django.conf import settings

from signer import queue
from signer.blocks import Header, fetch_latest
from signer.errors import RpcError, SignerError
from signer.events.catching_up import catch_up
from signer.events.following import follow
from signer.events.forks import newest_known
from signer.events.handing_over import described
from signer.events.reading import hashes_of
from signer.events.rewinding import rewind, take_back_some
from signer.events.turn import PATIENCE, Turn
from signer.incidents import close_incident, open_incident
from signer.models import EventIndex
from signer.ringing import ring_index
from signer.states import Finality, IncidentKind
from workflows import FencedError, claim, in_seconds, keep, release

log = structlog.get_logger()


def index(chain_id: int) -> None:
    """Read the logs of the chain's contracts, for one slice at most; then send the next wake-up if there are more."""
    queue.heard(f"index:{chain_id}")
    held = claim(EventIndex, chain_id, settings.SIGNER["lease_seconds"])
    if held is None:
        return
    turn, is_more = Turn(held), False
    try:
        with keep(held):
            is_more = _work(turn, settings.SIGNER["index_slice_seconds"])
    except FencedError:
        return
    finally:
        release(held, **turn.noted, look_at=None if is_more else in_seconds(_pause(turn)))
    if is_more:
        ring_index(chain_id)


def _work(turn: Turn, seconds: float) -> bool:
    """Do what there is to do until the slice is used; return whether there is more."""
    deadline = time.monotonic() + seconds
    try:
        while _look_and_read(turn):
            _note_success(turn)
            if time.monotonic() >= deadline:
                return True
    except SignerError as error:
        _note_failure(turn, error)
        return False
    _note_success(turn)
    return False


def _look_and_read(turn: Turn) -> bool:
    """Look at the chain once and do one step of everything; return whether there was anything to do. Raises SignerError."""
    turn.latest = fetch_latest(turn.rpc)
    turn.note(head_number=turn.latest.number, head_seen_at=turn.held.now(), final_number=_final_number(turn))
    known = newest_known(turn.index, turn.latest.number)
    if known is not None and _hash_on_chain(turn, known[0]) != known[1]:
        rewind(turn)
        return True
    if turn.latest.number < turn.front[0]:
        raise RpcError(
            f"the node lags: block {turn.front[0]} was read before, and its head is {turn.latest.number}"
        )
    done = [step(turn) for step in (take_back_some, follow, catch_up)]
    return any(done)


def _hash_on_chain(turn: Turn, number: int) -> str:
    return turn.latest.hash if number == turn.latest.number else hashes_of(turn.rpc, [number])[number]


def _final_number(turn: Turn) -> int | None:
    """Return the highest block that is final. It doesn't fall because a node lags."""
    before, head = turn.index.final_number, turn.latest.number
    if turn.chain.finality == Finality.DEPTH:
        found: int | None = head - turn.chain.confirmations + 1
    else:
        [answer] = turn.rpc.batch([("eth_getBlockByNumber", ["finalized", False])])
        # A node that doesn't say which is final has not said that none is.
        found = Header.of(answer).number if isinstance(answer, dict) else None
    return max((each for each in (before, found) if each is not None), default=None)


def _pause(turn: Turn) -> float:
    """Return the seconds until the next look."""
    return min(max(turn.chain.block_time_ms / 4000, 0.05), 3.0)


def _note_failure(turn: Turn, error: SignerError) -> None:
    since = turn.index.failing_since or turn.held.now()
    turn.note(failing_since=since, last_error=described(error))
    log.warning("index_not_read", chain=turn.chain.pk, code=error.code, text=error.message)
    if turn.held.now() - since > PATIENCE:
        text = (
            f"No logs of {turn.chain} have been read since {since:%Y-%m-%d %H:%M:%S} UTC: {described(error)}"
        )
        open_incident(IncidentKind.INDEX_FAILED, str(turn.index), text, chain=turn.chain)


def _note_success(turn: Turn) -> None:
    if turn.index.failing_since is not None:
        turn.note(failing_since=None, last_error="")
        close_incident(IncidentKind.INDEX_FAILED, str(turn.index), "its logs are read again")
