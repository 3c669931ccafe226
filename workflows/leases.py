"""One writer at a time for a row, proved at every write.

A lease alone is not enough: a frozen worker wakes up believing that it still holds one. So each claim raises the
row's epoch, and every later write carries that epoch (`guard`); the old worker's writes then match no row. All
instants come from the database's clock, so a worker whose clock is wrong does no harm.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, models
from django.db.models import F, Q

from workflows.clock import db_now, in_seconds, since
from workflows.errors import FencedError
from workflows.statements import update_row

log = structlog.get_logger()


class Leased(models.Model):
    """A row that one worker at a time may write to."""

    epoch = models.BigIntegerField(default=0, editable=False)
    lease_owner = models.CharField(max_length=80, default="", blank=True, editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True


L = TypeVar("L", bound=Leased)


@dataclass(eq=False)
class Claim(Generic[L]):
    """The right to write to a row until a newer claim exists."""

    row: L
    epoch: int
    seconds: float
    claimed_at: datetime  # by the database's clock
    _started: float = field(default_factory=time.monotonic)
    lost: bool = False

    def now(self) -> datetime:
        """Return the database's time, carried forward from the claim by this process's monotonic clock."""
        return since(self.claimed_at, self._started)


def claim(
    model: type[L],
    pk: Any,
    seconds: float,
    where: Q | None = None,
    reading: "models.QuerySet[L] | None" = None,
    **updates: Any,
) -> Claim[L] | None:
    """Take the row over if nobody holds a running lease on it, or return None.

    where: a further condition, checked in the same statement; reading: how to read the row once it is claimed, with
    what else is to be known of it; updates: columns to set with the claim.
    Keeps: of any number of simultaneous callers exactly one gets the row, and the epoch rises by one.
    """
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=db_now())
    owner = f"{os.getpid()}:{uuid.uuid4().hex}"
    rows = model._default_manager
    updated = rows.filter(free, where or Q(), pk=pk).update(
        epoch=F("epoch") + 1, lease_owner=owner, lease_until=in_seconds(seconds), **updates
    )
    if updated == 0:
        return None
    found = rows if reading is None else reading
    row = found.annotate(claimed_at=db_now()).filter(pk=pk, lease_owner=owner).first()
    if row is None:  # claimed again by another before it was read: a lease shorter than a query
        return None
    return Claim(row, row.epoch, seconds, cast("Any", row).claimed_at)


def fence_is_off() -> bool:
    """Tell whether a test has switched the fence off, to show that it would be missed."""
    return bool(getattr(settings, "DALP_TEST_DISABLE_FENCE", False))


def guard(held: Claim[L], **updates: Any) -> None:
    """Write `updates` and renew the lease, if the claim still stands.

    To be called in every transaction that writes on behalf of the row's owner.
    Raises FencedError when another worker has claimed the row: the transaction must be rolled back.
    """
    where = {held.row._meta.pk.name: held.row.pk, "epoch": held.epoch}
    if fence_is_off():
        del where["epoch"]
    lease_until = held.now() + timedelta(seconds=held.seconds)
    updated = update_row(type(held.row), where, {"lease_until": lease_until, **updates})
    if updated == 0:
        held.lost = True
        log.warning("fenced", row=str(held.row.pk), model=held.row._meta.label, epoch=held.epoch)
        raise FencedError(f"{held.row._meta.label} {held.row.pk} was taken over by another worker")


def release(held: Claim[L], **updates: Any) -> None:
    """Give the row back at once, if the claim still stands; otherwise do nothing."""
    rows = held.row.__class__._default_manager.filter(pk=held.row.pk, epoch=held.epoch)
    rows.update(lease_until=None, **updates)


class _Keeper:
    """The thread that renews the leases which this process holds for longer than a third of their time."""

    def __init__(self) -> None:
        self._held: dict[Claim[Any], float] = {}
        self._lock = threading.Lock()
        self._pid = 0  # threads do not survive a fork
        self._wake = threading.Event()

    def add(self, held: Claim[Any]) -> None:
        with self._lock:
            self._held[held] = time.monotonic() + held.seconds / 3
            if self._pid != os.getpid():
                self._pid = os.getpid()
                self._held = {held: self._held[held]}
                threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()

    def remove(self, held: Claim[Any]) -> None:
        with self._lock:
            self._held.pop(held, None)

    def _run(self) -> None:
        pause = 1.0
        while True:
            self._wake.wait(pause)
            with self._lock:
                due = [held for held, at in self._held.items() if at <= time.monotonic()]
                pause = min([1.0, *(held.seconds / 6 for held in self._held)])
            for held in due:
                self._renew(held)
            if due:
                close_old_connections()

    def _renew(self, held: Claim[Any]) -> None:
        rows = held.row.__class__._default_manager.filter(
            pk=held.row.pk, epoch=held.epoch, lease_until__isnull=False
        )
        try:
            held.lost = rows.update(lease_until=in_seconds(held.seconds)) == 0
        except DatabaseError as error:  # the fence, not this thread, is what keeps the row safe
            log.warning("lease_not_renewed", row=str(held.row.pk), error=type(error).__name__)
        with self._lock:
            if held in self._held:
                self._held[held] = time.monotonic() + held.seconds / 3


_keeper = _Keeper()


@contextmanager
def keep(held: Claim[L]) -> Iterator[Claim[L]]:
    """Renew the lease in the background while the block runs; `held.lost` turns True when it was taken over."""
    _keeper.add(held)
    try:
        yield held
    finally:
        _keeper.remove(held)
