"""One worker's turn at the logs of a chain: look at its head, go back where it has forked, read on.

Owns the chain's index by its epoch, as a watch owns the chain. Whatever is read goes into one guarded transaction: the
logs, what the handlers make of them, and how far it is read. So a log is handed over once, wherever a worker dies, and a
worker that was replaced commits nothing.
"""

import time

import structlog
from django.conf import settings

from signer import queue
from signer.blocks import Header
from signer.errors import RpcError, SignerError
from signer.events.catching_up import catch_up
from signer.events.following import follow
from signer.events.forks import newest_known
from signer.events.handing_over import described
from signer.events.reading import hashes_of
from signer.events.rewinding import rewind, take_back_some
from signer.events.tenure import PATIENCE, Tenure
from signer.incidents import close_incident, open_incident
from signer.models import EventIndex
from signer.ringing import ring_index
from signer.rpc.door import LATEST
from signer.states import Finality, IncidentKind
from workflows import FencedError, claim, in_seconds, keep, release

log = structlog.get_logger()


def index(chain_id: int) -> None:
    """Read the logs of the chain's contracts, for one slice at most; then send the next wake-up if there are more."""
    queue.heard(f"index:{chain_id}")
    held = claim(EventIndex, chain_id, settings.SIGNER["lease_seconds"])
    if held is None:
        return
    tenure, is_more = Tenure(held), False
    try:
        with keep(held):
            is_more = _work(tenure, settings.SIGNER["index_slice_seconds"])
    except FencedError:
        return
    finally:
        release(held, **tenure.noted, look_at=None if is_more else in_seconds(_pause(tenure)))
    if is_more:
        ring_index(chain_id)


def _work(tenure: Tenure, seconds: float) -> bool:
    """Do what there is to do until the slice is used; return whether there is more."""
    deadline = time.monotonic() + seconds
    try:
        while _look_and_read(tenure):
            _note_success(tenure)
            if time.monotonic() >= deadline:
                return True
    except SignerError as error:
        _note_failure(tenure, error)
        return False
    _note_success(tenure)
    return False


def _look_and_read(tenure: Tenure) -> bool:
    """Look at the chain once and do one step of everything; return whether there was anything to do. Raises SignerError."""
    tenure.latest = Header.of(tenure.rpc.agreed_or_raise([LATEST])[0])  # the lowest of its nodes
    final_before = tenure.index.final_front
    tenure.note(
        head_number=tenure.latest.number, head_seen_at=tenure.held.now(), final_number=_final_number(tenure)
    )
    known = newest_known(tenure.index, tenure.latest.number)
    if known is not None and _hash_on_chain(tenure, known[0]) != known[1]:
        rewind(tenure, final_before)
        return True
    if tenure.latest.number < tenure.front[0]:
        raise RpcError(
            f"the node lags: block {tenure.front[0]} was read before, and its head is {tenure.latest.number}"
        )
    done = [step(tenure) for step in (take_back_some, follow, catch_up)]
    return any(done)


def _hash_on_chain(tenure: Tenure, number: int) -> str:
    return tenure.latest.hash if number == tenure.latest.number else hashes_of(tenure.rpc, [number])[number]


def _final_number(tenure: Tenure) -> int | None:
    """Return the highest block that is final. It doesn't fall because a node lags."""
    before, head = tenure.index.final_number, tenure.latest.number
    if tenure.chain.finality == Finality.DEPTH:
        deep = head - tenure.chain.confirmations + 1
        found = deep if deep >= 0 else None
    else:
        [answer] = tenure.rpc.agreed([("eth_getBlockByNumber", ["finalized", False])])
        # A node that doesn't say which is final has not said that none is.
        found = Header.of(answer).number if isinstance(answer, dict) else None
    return max((each for each in (before, found) if each is not None), default=None)


def _pause(tenure: Tenure) -> float:
    """Return the seconds until the next look."""
    return min(max(tenure.chain.block_time_ms / 4000, 0.05), 3.0)


def _note_failure(tenure: Tenure, error: SignerError) -> None:
    since = tenure.index.failing_since or tenure.held.now()
    tenure.note(failing_since=since, last_error=described(error))
    log.warning("index_not_read", chain=tenure.chain.pk, code=error.code, text=error.message)
    if tenure.held.now() - since > PATIENCE:
        text = f"No logs of {tenure.chain} have been read since {since:%Y-%m-%d %H:%M:%S} UTC: {described(error)}"
        open_incident(IncidentKind.INDEX_FAILED, str(tenure.index), text, chain=tenure.chain)


def _note_success(tenure: Tenure) -> None:
    if tenure.index.failing_since is not None:
        tenure.note(failing_since=None, last_error="")
        close_incident(IncidentKind.INDEX_FAILED, str(tenure.index), "its logs are read again")
