"""Checking recorded histories of append-only lists: could one copy, written by one at a time, have answered so?

For a list that only grows, what every call saw fixes its place: an append is where its value stands in the final
list, a read after as many values as it returned. So it is enough to look whether these places agree with one another
and with the time at which the calls began and ended.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Appended:
    """An append: acknowledged at `returned`, with the length of the list; or never (None)."""

    value: str
    invoked: float
    returned: float | None = None
    length: int | None = None


@dataclass(frozen=True)
class Read:
    values: tuple[str, ...]
    version: int
    invoked: float
    returned: float


def violations(
    appends: Sequence[Appended], reads: Sequence[Read], final: Sequence[str], version: int
) -> list[str]:
    """Return what is wrong with the history of one list, whose last state is `final`; nothing if it is linearizable."""
    found = _of_final(appends, final, version)
    if found:
        return found
    place = {value: index for index, value in enumerate(final)}
    return [*_of_appends(appends, place), *_of_reads(reads, final), *_between(appends, reads, place)]


def _of_final(appends: Sequence[Appended], final: Sequence[str], version: int) -> list[str]:
    counted, sent = Counter(final), {append.value for append in appends}
    found = [f"{value} stands there {count} times" for value, count in counted.items() if count > 1]
    found += [f"{value} was never sent" for value in counted if value not in sent]
    acknowledged = [append.value for append in appends if append.returned is not None]
    found += [f"{value} was acknowledged, and is lost" for value in acknowledged if value not in counted]
    if version != len(final):
        found.append(f"version {version} of a list of {len(final)}")
    return found


def _of_appends(appends: Sequence[Appended], place: dict[str, int]) -> list[str]:
    """An append that had ended before another began stands before it, and was told its place."""
    found = [
        f"{append.value} is at {place[append.value]}, and was told the length {append.length}"
        for append in appends
        if append.length is not None and append.length != place[append.value] + 1
    ]
    there = sorted((each for each in appends if each.value in place), key=lambda each: place[each.value])
    pairs = ((earlier, later) for index, later in enumerate(there) for earlier in there[:index])
    found += [
        f"{later.value} had ended when {earlier.value} began, and stands behind it"
        for earlier, later in pairs
        if later.returned is not None and later.returned < earlier.invoked
    ]
    return found


def _of_reads(reads: Sequence[Read], final: Sequence[str]) -> list[str]:
    """A read saw a beginning of the list, and no less than a read that had ended before it."""
    found = []
    for read in reads:
        if read.values != tuple(final[: len(read.values)]):
            found.append(f"a read saw {read.values}, no beginning of the list")
        if read.version != len(read.values):
            found.append(f"a read saw version {read.version} of a list of {len(read.values)}")
        found += [
            f"a read saw {len(read.values)} values after one that saw {len(other.values)}"
            for other in reads
            if other.returned < read.invoked and len(other.values) > len(read.values)
        ]
    return found


def _between(appends: Sequence[Appended], reads: Sequence[Read], place: dict[str, int]) -> list[str]:
    """A read saw what was acknowledged before it began, and nothing that was sent after it had ended."""
    found = []
    for read in reads:
        for append in appends:
            seen = append.value in read.values
            if append.returned is not None and append.returned < read.invoked and not seen:
                found.append(f"{append.value} was acknowledged, and a later read did not see it")
            if seen and append.invoked > read.returned:
                found.append(f"a read saw {append.value} before it was sent")
    return found
