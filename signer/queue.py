"""The Redis side of a lane: which transactions wait, one worker at a time, one wake-up at a time.

Nothing here decides anything. Whatever Redis says or loses, the lane's row and its epoch keep the nonces right, and
the sweep finds what was forgotten; so every failure of Redis is logged and passed over.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import LockError
from redis.retry import Retry

log = structlog.get_logger()

R = TypeVar("R")

# A wake-up that was never heard stands in the way of the next no longer than this; the sweep does not wait for it.
RING_SECONDS = 5
# How old the count of what waits in a lane may be, where Redis has lost something.
RIGHTING_SECONDS = 20
# A second look that failed is tried again after so long.
RECHECK_SECONDS = 30
# A set of waiting ids that nobody takes from expires: the rows are in the database.
WAITING_SECONDS = 24 * 3600
# What was turned away from a slow chain; the sweep finds it, too.
TURNED_AWAY_SECONDS = 60
# After a failure Redis is left alone for a moment, so that a dead server costs one timeout and not one per call.
REST_SECONDS = 2.0

_clients: dict[str, "redis.Redis"] = {}
_clients_lock = threading.Lock()
_rest = {"until": 0.0}


def connect(url: str) -> "redis.Redis":
    """Return a client that gives up after two seconds and runs no command twice.

    redis-py's default is to re-send after a timeout: an INCR that only answered late would count twice.
    """
    return redis.Redis.from_url(
        url,
        socket_timeout=2,
        socket_connect_timeout=2,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=10,
        decode_responses=True,
    )


def client() -> "redis.Redis":
    """Return this process's client."""
    with _clients_lock:
        if settings.REDIS_URL not in _clients:
            _clients[settings.REDIS_URL] = connect(settings.REDIS_URL)
        return _clients[settings.REDIS_URL]


def _survive(what: str, default: R, work: Callable[[], R]) -> R:
    if time.monotonic() < _rest["until"]:
        return default
    try:
        return work()
    except LockError:  # it ran out while we held it, and may be another's by now
        return default
    except redis.RedisError as error:
        _rest["until"] = time.monotonic() + REST_SECONDS
        log.warning("redis_unavailable", what=what, error=type(error).__name__)
        return default


def _waiting_key(lane_id: UUID) -> str:
    return f"signer:lane:{lane_id}:waiting"


def lane_target(lane_id: UUID) -> str:
    return f"lane:{lane_id}"


def _ring_key(target: str) -> str:
    return f"signer:ring:{target}"


def push(new: Mapping[UUID, Sequence[tuple[UUID, float]]]) -> list[UUID]:
    """Add to the lanes' queues what waits in each, with the instants of their submission.

    Returns the lanes for which a message must be sent, as `ring_wanted` does; all in one round trip.
    """

    def work() -> list[UUID]:
        pipe = client().pipeline(transaction=False)
        for lane_id, entries in new.items():
            pipe.zadd(_waiting_key(lane_id), {str(pk): instant for pk, instant in entries})
            pipe.expire(_waiting_key(lane_id), WAITING_SECONDS)
            pipe.set(_ring_key(lane_target(lane_id)), 1, nx=True, ex=RING_SECONDS)
        return [lane_id for lane_id, is_first in zip(new, pipe.execute()[2::3], strict=True) if is_first]

    return _survive("push", list(new), work)


def replace_oldest(lane_id: UUID, entries: Sequence[tuple[UUID, float]]) -> None:
    """Have the queue hold these and no others up to the instant of the last: they are the oldest, in order."""

    def work() -> None:
        pipe = client().pipeline(transaction=True)
        # What is newer than the last may have been submitted since the rows were read.
        pipe.zremrangebyscore(_waiting_key(lane_id), "-inf", entries[-1][1])
        pipe.zadd(_waiting_key(lane_id), {str(pk): instant for pk, instant in entries})
        pipe.expire(_waiting_key(lane_id), WAITING_SECONDS)
        pipe.execute()

    if entries:
        _survive("replace", None, work)


def righting_wanted(lane_id: UUID) -> bool:
    """Return whether the lane's queue should be compared with the rows again: once in a while, by one process."""
    key = f"signer:lane:{lane_id}:righted"
    return _survive("right", False, lambda: bool(client().set(key, 1, nx=True, ex=RIGHTING_SECONDS)))


def take(lane_id: UUID, ids: Sequence[UUID]) -> None:
    """Remove transactions that wait no longer."""
    if ids:
        _survive("take", None, lambda: _ignore(client().zrem(_waiting_key(lane_id), *map(str, ids))))


def waiting(lane_id: UUID) -> int | None:
    """Return how many transactions wait, or None when Redis cannot say."""
    return _survive("waiting", None, lambda: _count(client().zcard(_waiting_key(lane_id))))


def ring_wanted(target: str) -> bool:
    """Return whether a message must be sent to wake `target`: not while one is on its way and unheard."""
    return _survive("ring", True, lambda: bool(client().set(_ring_key(target), 1, nx=True, ex=RING_SECONDS)))


def heard(target: str) -> None:
    """Say that the wake-up has arrived. To be called before looking at the database, so that what comes later rings."""
    _survive("heard", None, lambda: _ignore(client().delete(_ring_key(target))))


# --- Chains' queues --------------------------------------------------------------------------------------------


def announcement_wanted(seconds: int) -> bool:
    """Return whether the workers should be told again which chains there are: once in so many seconds, by one process."""
    return _survive("announce", False, lambda: bool(client().set("chains:announced", 1, nx=True, ex=seconds)))


def recheck_wanted(chain_id: int) -> bool:
    """Return whether somebody should be woken for a second look: once in a while, for a node may be away for long."""
    key = f"chains:{chain_id}:rechecked"
    return _survive("recheck", False, lambda: bool(client().set(key, 1, nx=True, ex=RECHECK_SECONDS)))


# --- Chains that are slow -----------------------------------------------------------------------------------


def _slow_key(chain_id: int) -> str:
    return f"chains:{chain_id}:slow"


def _place_key(chain_id: int) -> str:
    return f"chains:{chain_id}:place"


def _turned_away_key(chain_id: int) -> str:
    return f"chains:{chain_id}:turned_away"


def mark_slow(chain_id: int, seconds: int) -> None:
    """Tell the other workers that calls to this chain take long."""
    _survive("slow", None, lambda: _ignore(client().set(_slow_key(chain_id), 1, ex=seconds)))


def is_slow(chain_id: int) -> bool:
    return _survive("slow", False, lambda: bool(client().exists(_slow_key(chain_id))))


def take_place(chain_id: int, token: str, seconds: int) -> bool:
    """Take the chain's one place, unless another has it; without Redis everybody has one."""
    return _survive(
        "place", True, lambda: bool(client().set(_place_key(chain_id), token, nx=True, ex=seconds))
    )


def return_place(chain_id: int, token: str) -> None:
    """Give the place back, unless it ran out and is another's by now."""

    def work() -> None:
        # Not atomic: between the two it may run out and be taken. Then two drains are at the chain for a moment.
        if client().get(_place_key(chain_id)) == token:
            client().delete(_place_key(chain_id))

    _survive("place", None, work)


def turn_away(chain_id: int, lane_id: UUID) -> None:
    """Remember a lane's wake-up for whoever leaves the chain next; it is not heard, so that the sweep sends no others."""

    def work() -> None:
        pipe = client().pipeline(transaction=False)
        pipe.sadd(_turned_away_key(chain_id), str(lane_id))
        pipe.expire(_turned_away_key(chain_id), TURNED_AWAY_SECONDS)
        pipe.execute()

    _survive("turn away", None, work)


def next_turned_away(chain_id: int) -> UUID | None:
    """Return a lane of the chain whose wake-up was turned away, once."""

    def work() -> UUID | None:
        found: Any = client().spop(_turned_away_key(chain_id))
        return UUID(found) if found else None

    return _survive("next", None, work)


# --- One worker at a time for a lane --------------------------------------------------------------------------


@contextmanager
def lane_lock(lane_id: UUID, seconds: float) -> Iterator["LaneLock | None"]:
    """Hold the lane's lock for the block; yields None when another worker holds it.

    Without Redis it yields a lock that is none: the row's lease alone decides then.
    """
    lock = LaneLock(lane_id, seconds)
    if not lock.acquire():
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


class LaneLock:
    """A lock with a token, so that a worker which comes late cannot release another's."""

    def __init__(self, lane_id: UUID, seconds: float) -> None:
        self._lock: Any = None
        self._name = f"signer:lane:{lane_id}:lock"
        self._seconds = seconds

    def acquire(self) -> bool:
        def work() -> bool:
            lock = client().lock(self._name, timeout=self._seconds, blocking=False, thread_local=False)
            if lock.acquire():
                self._lock = lock
                return True
            return False

        return _survive("lock", True, work)

    def renew(self) -> None:
        """Give the lock its full time again. Losing it does no harm: the row's epoch is the fence."""
        if self._lock is not None:
            _survive("renew", None, lambda: _ignore(self._lock.reacquire()))

    def release(self) -> None:
        if self._lock is not None:
            _survive("release", None, lambda: _ignore(self._lock.release()))


def _ignore(_: Any) -> None:
    return None


def _count(value: Any) -> int:
    return int(value)
