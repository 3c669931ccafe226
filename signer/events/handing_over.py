"""Logs into rows and handlers, and back: always both, in the caller's guarded transaction.

A row of a log that stands says that its handler has had it. A handler that raises leaves no trace of the logs that it
was given, and stops its own contract only.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from keyguard import scrub_secrets
from signer.errors import SignerError
from signer.events.handlers import Event, find_handler
from signer.events.reading import FoundLog
from signer.models import EventLog, WatchedContract
from workflows import FencedError

# What goes into one commit: a fork that takes back more does so in several.
TAKEN_BACK_AT_ONCE = 2_000
ROWS_AT_ONCE = 500


R = TypeVar("R")


class HandlerFailedError(Exception):
    """A handler did not take what it was given; nothing of that is recorded."""


def hand_over(contract: WatchedContract, logs: Sequence[FoundLog]) -> None:
    """Record the logs and give them to the contract's handler, all or none. Raises HandlerFailedError."""
    if not logs:
        return

    def work() -> None:
        handler = find_handler(contract.handler)
        rows = [
            EventLog(
                contract=contract,
                block_number=log.block_number,
                block_hash=log.block_hash,
                log_index=log.log_index,
                transaction_hash=log.transaction_hash,
                topics=list(log.topics),
                data=log.data,
            )
            for log in logs
        ]
        EventLog.objects.bulk_create(rows, batch_size=ROWS_AT_ONCE)
        handler.apply([event_of(contract, row) for row in rows])

    _all_or_none(work)


def take_back(contract: WatchedContract, number: int) -> bool:
    """Undo the newest logs above block `number` and mark them as removed; return whether no more are left above it.

    Raises HandlerFailedError; then none of them is taken back.
    """
    logs = logs_above(contract, number)
    rows = list(logs.order_by("-block_number", "-log_index")[:TAKEN_BACK_AT_ONCE])

    def work() -> int:
        handler = find_handler(contract.handler)
        if handler.forget and not logs_above(contract, -1).filter(block_number__lte=number).exists():
            handler.forget(contract.index_id, contract.address)
            return logs.update(removed_at=Now())
        assert handler.take_back is not None
        handler.take_back([event_of(contract, row) for row in rows])
        return logs.filter(pk__in=[row.pk for row in rows]).update(removed_at=Now())

    if rows:
        _all_or_none(work)
    return not logs.exists()


def logs_above(contract: WatchedContract, number: int) -> QuerySet[EventLog]:
    """Return the contract's logs that stand above a block."""
    return EventLog.objects.filter(contract=contract, removed_at__isnull=True, block_number__gt=number)


def event_of(contract: WatchedContract, row: EventLog) -> Event:
    """Return the event that a log is. Raises ValueError where the handler knows no such event."""
    name, arguments = find_handler(contract.handler).decode(_Entry(contract.address, row))
    return Event(
        chain_id=contract.index_id,
        address=contract.address,
        name=name,
        arguments=arguments,
        block_number=row.block_number,
        block_hash=row.block_hash,
        log_index=row.log_index,
        transaction_hash=row.transaction_hash,
    )


class _Entry:
    """A row as the codec takes logs."""

    def __init__(self, address: str, row: EventLog) -> None:
        self.address, self.topics, self.data = address, row.topics, row.data


def _all_or_none(work: Callable[[], R]) -> R:
    try:
        with transaction.atomic():
            return work()
    except (OperationalError, InterfaceError, FencedError):
        raise  # the database's trouble or another worker's claim, and no fault of the handler
    except Exception as error:
        raise HandlerFailedError(described(error)) from error


def described(error: Exception) -> str:
    """Return what went wrong, for people, without secrets; not longer than a page."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SignerError):
        text = f"{error.message.rstrip('.')}. {error.remedy}"
    return str(scrub_secrets(text))[:1000]
