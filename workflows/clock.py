"""The one clock of the engine: the database's, so that a machine whose own clock is wrong does no harm.

Asked for rarely and carried forward by this process's monotonic clock. What `now` returns is never ahead of the
database, so an instant that one process wrote is over for every other that compares it inside the database (`db_now`).
A test may stop the clock and put it forward (`workflows.testing`).
"""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import DateTimeField, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

SYNCHRONISE_SECONDS = 10.0
# A stopped clock moves on by this much at each look, so that no two instants are the same.
TICK = timedelta(microseconds=1)


class _Clock:
    """The database's time, as it was at some reading of the monotonic clock."""

    def __init__(self) -> None:
        self._origin = datetime.min.replace(tzinfo=UTC)
        self._read_at = -SYNCHRONISE_SECONDS
        self._database = ""
        self.offset = timedelta(0)
        self.stopped: datetime | None = None

    def now(self) -> datetime:
        if self.stopped is not None:
            self.stopped += TICK
            return self.stopped + self.offset
        if connection.vendor != "postgresql":  # SQLite lives on this machine and has no other clock
            return datetime.now(UTC) + self.offset
        if self._database != _database():
            self._synchronise()
        elif _monotonic() - self._read_at > SYNCHRONISE_SECONDS:
            # A database that is away for a moment: what was read from it before is still about right.
            with suppress(DatabaseError):
                self._synchronise()
        return self._origin + timedelta(seconds=_monotonic() - self._read_at) + self.offset

    def _synchronise(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            self.learn(cursor.fetchone()[0])

    def learn(self, origin: datetime) -> None:
        # Read after the answer: the way back makes this clock late, never early.
        self._origin, self._read_at, self._database = origin, _monotonic(), _database()


def _monotonic() -> float:
    """Return seconds that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _database() -> str:
    return f"{connection.settings_dict['HOST']}/{connection.settings_dict['NAME']}"


_clock = _Clock()


def now() -> datetime:
    """Return the database's time. Costs a query every ten seconds."""
    return _clock.now()


# More than two machines' clocks drift apart, and an hour's slewing of one, between two readings.
MARGIN = timedelta(milliseconds=100)


def at_once() -> datetime:
    """Return an instant that is over, for a run that may be claimed at once, by whatever clock.

    What `now` returns may be a few milliseconds ahead where the database's clock was slowed down since it was read; a
    worker that comes within these would take the run for one that is not due, and leave it to the sweeper.
    """
    return now() - MARGIN


def learn(at: datetime) -> None:
    """Take over the time that the database has just told, so that it need not be asked."""
    _clock.learn(at - _clock.offset)


def advance(step: timedelta) -> None:
    """Put this process's clock forward, for tests."""
    _clock.offset += step


def stop() -> None:
    """Have this process's clock go on by `advance` alone, for tests."""
    _clock.stopped, _clock.offset = _clock.now(), timedelta(0)


def reset() -> None:
    """Take back what `advance` and `stop` did."""
    _clock.offset, _clock.stopped = timedelta(0), None


def since(instant: datetime, read_at: float) -> datetime:
    """Return the time, carried forward from an instant of it that was read when `time.monotonic` said `read_at`."""
    return instant + timedelta(seconds=time.monotonic() - read_at) if _clock.stopped is None else now()


def _database_tells() -> bool:
    """Whether a query can read the clock itself."""
    return connection.vendor == "postgresql" and _clock.stopped is None


def db_now() -> Combinable:
    """Return the clock for use in queries: the database reads it when it carries the query out."""
    if not _database_tells():
        return Value(now(), output_field=DateTimeField())
    return Now() + _clock.offset if _clock.offset else Now()


def in_seconds(seconds: float) -> Combinable:
    """Return the instant so many seconds from now, for use in queries."""
    if not _database_tells():
        return Value(now() + timedelta(seconds=seconds), output_field=DateTimeField())
    return Now() + (timedelta(seconds=seconds) + _clock.offset)


def sql_now() -> tuple[str, list[Any]]:
    """Return the clock as SQL text with its parameters."""
    if not _database_tells():
        return "%s", [connection.ops.adapt_datetimefield_value(now())]
    if _clock.offset:
        return "(statement_timestamp() + %s::interval)", [_clock.offset]
    return "statement_timestamp()", []
