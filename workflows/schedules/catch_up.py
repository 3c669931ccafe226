"""What to do when instants of a schedule have passed: decided here from numbers, carried out in firing.py.

A sweeper comes a second or so after an instant; that is on time. What it finds older than that was missed: nobody swept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from django.db.models import TextChoices

Instants = Callable[[datetime], Iterator[datetime]]

ON_TIME = timedelta(seconds=60)
# Counting goes on for so long only: a year of minutes takes seconds, and the sweeper has more to do.
MISSED_COUNT_MAX = 10_000
# How far to look back for the newest instant before looking from the oldest on.
LOOK_BACK = [timedelta(hours=1), timedelta(days=1), timedelta(days=32)]


class CatchUp(TextChoices):
    """What becomes of the instants that were missed, while no sweeper ran."""

    NONE = "none", "None: skip them all"
    LAST = "last", "Last: start one run, for the newest"
    ALL = "all", "All: start a run for each, in order"


@dataclass(frozen=True)
class Turn:
    """What one transaction does: record the instant that is due, as fired or as skipped, and go on to the next."""

    fires: bool
    missed: int  # when it is skipped: so many instants in a row, this one included; at most MISSED_COUNT_MAX
    next_at: datetime | None


def take_turn(policy: str, instants: Instants, due: datetime, now: datetime) -> Turn:
    """Decide about the instant that is due, `due` <= `now`.

    instants: the schedule's instants after a given one, in order.
    Keeps: turn after turn, each instant is fired once or counted once as missed, and `next_at` rises.
    """
    following = next(instants(due), None)
    if following is None or following > now:
        fires = policy != CatchUp.NONE or now - due <= ON_TIME
        return Turn(fires, 0 if fires else 1, following)
    if policy == CatchUp.ALL:
        return Turn(True, 0, following)
    newest = _newest(instants, due, now)
    too_late = policy == CatchUp.NONE and now - newest > ON_TIME
    go_on_at = next(instants(newest), None) if too_late else newest
    passed = takewhile(lambda instant: go_on_at is None or instant < go_on_at, instants(due))
    return Turn(False, 1 + sum(1 for _ in islice(passed, MISSED_COUNT_MAX - 1)), go_on_at)


def _newest(instants: Instants, due: datetime, now: datetime) -> datetime:
    """Return the newest instant that is not after `now`."""
    for since in [max(due, now - back) for back in LOOK_BACK] + [due]:
        newest = due
        for newest in takewhile(lambda instant: instant <= now, instants(since)):  # noqa: B007 - the last one is wanted
            pass
        if newest > due:
            return newest
    return due
