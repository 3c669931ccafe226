"""Which instants a cron expression names, in a time zone whose clock may be put forward and back.

cronsim reads the expression and knows the calendar; it is asked about dates and times only, never about zones. Between two
changes of a zone's clock, local time runs evenly, and what cronsim names is converted by one subtraction. What happens
at a change is decided here:

    hour field        the clock is put forward over a time    a time comes twice
    starts with *     it does not come that day               at each of both
    any other         once, at the instant of the change      at the first; with * in the minute field, at each

So what is meant to happen at an hour of the day happens on every day, and what is meant to happen every few minutes or hours
goes by what the clock on the wall shows. An instant is named once, whatever number of local times lead to it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

FIELDS = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day of month": "1 to 31, L (the last) or LW (the last that is no weekend)",
    "month": "1 to 12 or JAN to DEC",
    "day of week": "0 to 7 (0 and 7: Sunday), SUN to SAT, 5#2 (the second Friday) or 5L (the last Friday)",
}
SHAPES = "*, one value, a range 1-5, steps */10 or 0-30/10, or several of these with commas"
SECOND = timedelta(seconds=1)
# No zone changes its clock twice within a day.
STRIDE = timedelta(days=1)
# cronsim wants a time to begin at even where it only reads the expression.
ANY_TIME = datetime(2000, 1, 1)  # noqa: DTZ001 - no zone, on purpose


class CronError(ValueError):
    """The text is no cron expression, or the zone no zone; the message says what is wrong with it, to a person."""


class Cron:
    """A cron expression of five fields in a time zone."""

    def __init__(self, text: str, timezone: str) -> None:
        """Raises CronError."""
        self.zone = find_zone(timezone)
        self.text = " ".join(text.split())
        _require_readable(self.text)
        minute, hour = self.text.split()[:2]
        self._jumps_are_caught_up = not hour.startswith("*")
        self._repeats_are_left_out = not (hour.startswith("*") or minute.startswith("*"))

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Yield the instants after this one in order, in UTC. Ends when nothing comes for fifty years."""
        since, offset = after, self._offset(after)
        times = self._local_times(_local(since, offset))
        while (local := next(times, None)) is not None:
            due = (local - offset).replace(tzinfo=UTC)
            change = self._first_change(since, due)
            since = change or due
            if change is None:
                if not (self._repeats_are_left_out and due.astimezone(self.zone).fold):
                    yield due
                continue
            offset = self._offset(change)
            begin = _local(change, offset)
            if self._jumps_are_caught_up and local < begin:
                yield change
                times = self._local_times(begin)
            else:
                times = self._local_times(begin - SECOND)

    def next_after(self, after: datetime) -> datetime | None:
        """Return the first instant after this one, None when none comes within fifty years."""
        return next(self.instants(after), None)

    def explain(self) -> str:
        """Return the expression in words."""
        return CronSim(self.text, ANY_TIME).explain()

    def _local_times(self, after: datetime) -> Iterator[datetime]:
        """Yield the dates and times after this one, without a zone."""
        return CronSim(self.text, after)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self.zone).utcoffset() or timedelta(0)

    def _first_change(self, since: datetime, until: datetime) -> datetime | None:
        """Return the first instant after `since` and not after `until` at which the zone's offset is another one."""
        offset = self._offset(since)
        while since < until:
            step = min(since + STRIDE, until)
            if self._offset(step) != offset:
                return self._narrow(since, step)
            since = step
        return None

    def _narrow(self, before: datetime, changed: datetime) -> datetime:
        """Return the instant of the change between these two, to the second."""
        offset, before = self._offset(before), before.replace(microsecond=0)
        while changed - before > SECOND:
            middle = before + (changed - before) // 2
            middle = middle.replace(microsecond=0)
            before, changed = (middle, changed) if self._offset(middle) == offset else (before, middle)
        return changed


def _local(instant: datetime, offset: timedelta) -> datetime:
    """Return what the clock on the wall shows at an instant, without a zone."""
    return instant.astimezone(UTC).replace(tzinfo=None) + offset


@cache
def zone_names() -> tuple[str, ...]:
    """Return the names of the time zones that this machine knows. The file system is read once."""
    return tuple(sorted(available_timezones() - {"Factory", "localtime"}))


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of this name. Raises CronError, with names that are close to it."""
    if name in zone_names():
        return ZoneInfo(name)
    close = get_close_matches(name, zone_names(), n=3)
    places = [known for known in zone_names() if name and known.lower().endswith("/" + name.lower())]
    hint = f"; did you mean {' or '.join(close or places)}?" if close or places else " (Europe/Berlin is one)"
    raise CronError(f"there is no time zone {name!r}{hint}")


def _require_readable(text: str) -> None:
    """Raise CronError unless cronsim reads the expression; the message names the field."""
    values = text.split()
    if len(values) != len(FIELDS):  # cronsim would take a sixth for seconds, which the sweeper cannot keep to
        wanted = ", ".join(FIELDS)
        raise CronError(f"a cron expression has five fields ({wanted}); this one has {len(values)}")
    if _reads(values):
        return
    for position, (name, possible) in enumerate(FIELDS.items()):
        alone = ["*"] * len(FIELDS)
        alone[position] = values[position]
        if not _reads(alone):
            raise CronError(f"{name} {values[position]!r} cannot be read: {possible}, written as {SHAPES}")
    raise CronError(f"no month {values[3]!r} has a day {values[2]!r}")


def _reads(values: list[str]) -> bool:
    try:
        CronSim(" ".join(values), ANY_TIME)
    except (CronSimError, ValueError, AssertionError):
        return False
    return True
