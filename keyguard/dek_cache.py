"""Unwrapped DEKs of KEKs that are far away, for a short while: so that a signature need not wait for Vault each time.

Upholds: few entries, none older than the setting says, each wiped when it goes; what is asked for is the very
ciphertext, with the very binding, that was unwrapped. A DEK alone opens nothing: the ciphertext of the key is read anew
for each signature. A process that was forked starts with none.
"""

import hashlib
import os
import threading
import time
from collections import OrderedDict

from django.conf import settings

from keyguard.curve import wipe
from keyguard.envelope import WrappedDek

_lock = threading.Lock()
_entries: "OrderedDict[bytes, tuple[float, bytearray]]" = OrderedDict()


class _Timer(threading.Timer):
    due = 0.0


_timer: _Timer | None = None


def get(wrapped: WrappedDek, bound: bytes) -> bytearray | None:
    """Return a copy of the DEK, which the caller wipes, or None."""
    with _lock:
        _drop_old()
        found = _entries.get(_name(wrapped, bound))
        return bytearray(found[1]) if found else None


def put(wrapped: WrappedDek, bound: bytes, dek: bytearray) -> None:
    """Keep a copy of the DEK for as long as the settings say."""
    seconds, size = settings.KEYGUARD_DEK_CACHE_SECONDS, settings.KEYGUARD_DEK_CACHE_KEYS
    if seconds <= 0 or size <= 0:
        return
    with _lock:
        _drop(_name(wrapped, bound))
        while len(_entries) >= size:
            _drop(next(iter(_entries)))
        _entries[_name(wrapped, bound)] = (time.monotonic() + seconds, bytearray(dek))
        _wake_in(seconds)


def forget() -> int:
    """Wipe everything that is kept; return how much that was."""
    with _lock:
        count = len(_entries)
        for name in list(_entries):
            _drop(name)
        return count


def _name(wrapped: WrappedDek, bound: bytes) -> bytes:
    return hashlib.sha256(b"|".join((bound, wrapped.nonce, wrapped.ciphertext))).digest()


def _drop(name: bytes) -> None:
    if entry := _entries.pop(name, None):
        wipe(entry[1])


def _drop_old() -> None:
    now = time.monotonic()
    for name in [name for name, (until, _) in _entries.items() if until <= now]:
        _drop(name)


def _wake_in(seconds: float) -> None:
    """See to it that the last entry goes although nobody asks any more."""
    global _timer  # noqa: PLW0603 - one timer for the one cache
    due = time.monotonic() + seconds
    if _timer is not None and _timer.due > due:
        _timer.cancel()
        _timer = None
    if _timer is None:
        _timer = _Timer(seconds, _wake)
        _timer.due = due
        _timer.daemon = True
        _timer.start()


def _wake() -> None:
    global _timer  # noqa: PLW0603
    with _lock:
        _timer = None
        _drop_old()
        if _entries:
            _wake_in(max(0.05, min(until for until, _ in _entries.values()) - time.monotonic()))


def _in_child() -> None:
    """Start empty: the timer did not come along, and another thread may have held the lock."""
    global _lock, _timer
    _lock, _timer = threading.Lock(), None
    forget()


os.register_at_fork(after_in_child=_in_child)
