"""The one clock of the engine: the database's, so that a machine whose own clock is wrong does no harm.

Asked for rarely and carried forward by this process's monotonic clock. What `now` returns is never ahead of the
database, so an instant that one process wrote is over for every other that compares it inside the database (`db_now`).
A test may put the clock forward (`workflows.testing`).
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Now

SYNCHRONISE_SECONDS = 10.0


class _Clock:
    """The database's time, as it was at some reading of the monotonic clock."""

    def __init__(self) -> None:
        self._origin = datetime.min.replace(tzinfo=UTC)
        self._read_at = -SYNCHRONISE_SECONDS
        self._database = ""
        self.offset = timedelta(0)

    def now(self) -> datetime:
        if connection.vendor != "postgresql":  # SQLite lives on this machine and has no other clock
            return datetime.now(UTC) + self.offset
        if _monotonic() - self._read_at > SYNCHRONISE_SECONDS or self._database != _database():
            self._synchronise()
        return self._origin + timedelta(seconds=_monotonic() - self._read_at) + self.offset

    def _synchronise(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            origin = cursor.fetchone()[0]
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


def advance(step: timedelta) -> None:
    """Put this process's clock forward, for tests."""
    _clock.offset += step


def reset() -> None:
    """Take back what `advance` did."""
    _clock.offset = timedelta(0)


def db_now() -> Combinable:
    """Return the clock for use in queries: the database reads it when it carries the query out."""
    if connection.vendor != "postgresql":
        return Value(now(), output_field=DateTimeField())
    return Now() + _clock.offset if _clock.offset else Now()


def in_seconds(seconds: float) -> Combinable:
    """Return the instant so many seconds from now, for use in queries."""
    if connection.vendor != "postgresql":
        return Value(now() + timedelta(seconds=seconds), output_field=DateTimeField())
    return Now() + (timedelta(seconds=seconds) + _clock.offset)


def sql_now() -> tuple[str, list[Any]]:
    """Return the clock as SQL text with its parameters."""
    if connection.vendor != "postgresql":
        return "%s", [connection.ops.adapt_datetimefield_value(now())]
    if _clock.offset:
        return "(statement_timestamp() + %s::interval)", [_clock.offset]
    return "statement_timestamp()", []
