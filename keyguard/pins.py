"""The PIN of a token is tried once: after it was refused, nobody tries again until a person says so.

Upholds: one login at a time for each token, in all processes, and a refusal is known to all of them before the next one
tries. It is written on a connection of its own, so that it stays although the caller's transaction is rolled back. The
backend is sealed with it, so that everybody is told, wherever seals are told of.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import close_old_connections, connection, connections, transaction
from django.utils import timezone

from keyguard import sealing
from keyguard.backend_errors import HsmPinError
from keyguard.crashpoints import crashpoint
from keyguard.models import HsmToken

T = TypeVar("T")

BACKEND = "pkcs11"

# SQLite lets nobody write while the caller's transaction does, so there this process alone knows of a refusal.
_refused: set[str] = set()


def log_in(label: str, try_pin: Callable[[], T]) -> T:
    """Return what `try_pin` returns, unless the PIN was refused before. Raises HsmPinError, as `try_pin` is to do."""
    try:
        return _tried_once(label, try_pin)
    except HsmPinError as error:
        # By now nobody tries again. Whoever comes after a crash here is refused likewise, and seals.
        crashpoint("keyguard.pin_refused")
        sealing.seal_beside(error, BACKEND)
        raise


def _tried_once(label: str, try_pin: Callable[[], T]) -> T:
    if connection.vendor == "postgresql" or not connection.in_atomic_block:
        return _elsewhere(lambda: _alone(label, try_pin))
    if is_refused(label):
        raise HsmPinError(_words(label))
    try:
        return try_pin()
    except HsmPinError:
        _refused.add(label)
        raise


def allow_pin(label: str) -> bool:
    """Say that the PIN may be tried again; return whether it had been refused."""
    was_refused = label in _refused
    _refused.discard(label)
    return bool(HsmToken.objects.filter(label=label).update(pin_refused_at=None)) or was_refused


def is_refused(label: str) -> bool:
    """Say whether the PIN of this token waits for a person."""
    return label in _refused or HsmToken.objects.filter(label=label, pin_refused_at__isnull=False).exists()


def _elsewhere(do: Callable[[], T]) -> T:
    """Do something on another connection, which is a thread's own."""

    def work() -> T:
        try:
            return do()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _alone(label: str, try_pin: Callable[[], T]) -> T:
    close_old_connections()
    HsmToken.objects.bulk_create([HsmToken(label=label)], ignore_conflicts=True)
    refusal: HsmPinError | None = None
    with transaction.atomic():
        row = HsmToken.objects.select_for_update().get(label=label)
        if row.pin_refused_at is not None:
            raise HsmPinError(_words(label))
        try:
            return try_pin()
        except HsmPinError as error:
            refusal = error
            HsmToken.objects.filter(pk=row.pk).update(pin_refused_at=timezone.now())
    raise refusal


def _words(label: str) -> str:
    return f"the token {label!r} refused the PIN before; it is not tried again"
