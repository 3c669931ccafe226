"""Cron in zones whose clocks are put forward and back, against a model that looks at every minute."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.schedules.cron import Cron, CronError, find_zone

pytestmark = pytest.mark.case("E30")

MINUTE = timedelta(minutes=1)
HOURS_LOOKED_AT = 60

# The day before each change of the clock, and some zones in which there is none.
CHANGES = [
    ("Europe/Berlin", datetime(2026, 3, 28, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 3, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 10, 31, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 2, 12, tzinfo=UTC)),  # half an hour
    ("Australia/Lord_Howe", datetime(2026, 4, 3, 12, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 7, tzinfo=UTC)),  # at midnight
    ("Antarctica/Troll", datetime(2026, 3, 28, tzinfo=UTC)),  # two hours
    ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC)),  # a whole day is skipped
    ("Asia/Kolkata", datetime(2026, 3, 28, tzinfo=UTC)),
    ("UTC", datetime(2026, 3, 28, tzinfo=UTC)),
]


def numbers(text: str, low: int, high: int) -> set[int]:
    """Read one field, for the model: `*`, numbers, ranges and steps."""
    found: set[int] = set()
    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        begin, end = (low, high) if body == "*" else (int(first), int(last or (high if step else first)))
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


class Model:
    """What a person with a clock, a calendar and a lot of patience would do."""

    def __init__(self, cron: str, zone: str) -> None:
        minute, hour, day, month, weekday = cron.split()
        self.minutes, self.hours = numbers(minute, 0, 59), numbers(hour, 0, 23)
        self.days, self.months = numbers(day, 1, 31), numbers(month, 1, 12)
        self.weekdays = {number % 7 for number in numbers(weekday, 0, 7)}
        self.either_day = not (day.startswith("*") or weekday.startswith("*"))
        self.follows_the_clock = hour.startswith("*")
        self.repeats = hour.startswith("*") or minute.startswith("*")
        self.zone = ZoneInfo(zone)

    def matches(self, local: datetime) -> bool:
        by_day, by_weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        day = by_day or by_weekday if self.either_day else by_day and by_weekday
        return (
            day and local.month in self.months and local.hour in self.hours and local.minute in self.minutes
        )

    def skipped_before(self, instant: datetime) -> Iterator[datetime]:
        """Yield the local times over which the clock was put forward to reach this minute."""
        local, before = self.naive(instant), self.naive(instant - MINUTE)
        while (before := before + MINUTE) < local:
            yield before

    def naive(self, instant: datetime) -> datetime:
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def fires(self, instant: datetime) -> bool:
        local = instant.astimezone(self.zone)
        if self.matches(local) and (self.repeats or not local.fold):
            return True
        return not self.follows_the_clock and any(map(self.matches, self.skipped_before(instant)))

    def instants(self, begin: datetime, end: datetime) -> list[datetime]:
        minutes = int((end - begin) / MINUTE)
        return [instant for n in range(minutes) if self.fires(instant := begin + n * MINUTE)]


def one_of(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


def ranges(low: int, high: int) -> st.SearchStrategy[str]:
    # Of two numbers at least: cronsim reads the range 5-5/2 as 5/2, from 5 to the end.
    pairs = st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(sorted)
    steps = st.one_of(st.just(""), st.integers(1, high).map(lambda step: f"/{step}"))
    return st.builds(lambda pair, step: f"{pair[0]}-{pair[1]}{step}", pairs, steps)


def field(low: int, high: int) -> st.SearchStrategy[str]:
    value = st.integers(low, high).map(str)
    step = st.integers(1, high).map(lambda step: f"*/{step}")
    term = st.one_of(value, ranges(low, high))
    return st.one_of(st.just("*"), step, st.lists(term, min_size=1, max_size=3).map(",".join))


crons = st.builds(
    " ".join,
    st.tuples(
        field(0, 59),
        st.one_of(field(0, 23), field(0, 4)),  # most clocks are changed early in the morning
        one_of("*", "*", "*", "1-7", "8,29", "*/2"),
        one_of("*", "*", "3,4,10", "*/2"),
        one_of("*", "*", "0", "6,7", "1-5"),
    ),
)


@settings(max_examples=150, deadline=None)
@given(crons, st.sampled_from(CHANGES))
def test_each_instant_is_the_models(cron: str, change: tuple[str, datetime]) -> None:
    zone, begin = change
    end = begin + timedelta(hours=HOURS_LOOKED_AT)
    found = takewhile(lambda instant: instant < end, Cron(cron, zone).instants(begin - MINUTE))
    assert list(found) == Model(cron, zone).instants(begin, end)


@settings(max_examples=150, deadline=None)
@given(crons, st.sampled_from(CHANGES), st.integers(0, HOURS_LOOKED_AT * 3600 * 10**6))
def test_the_next_instant_does_not_depend_on_where_one_asks_from(
    cron: str, change: tuple[str, datetime], microseconds: int
) -> None:
    zone, begin = change
    after = begin + timedelta(microseconds=microseconds)
    asked = Cron(cron, zone)
    on_the_way = (instant for instant in asked.instants(begin - MINUTE) if instant > after)
    assert asked.next_after(after) == next(on_the_way, None)


@given(crons, st.sampled_from(CHANGES))
def test_instants_rise(cron: str, change: tuple[str, datetime]) -> None:
    zone, begin = change
    found = list(islice(Cron(cron, zone).instants(begin), 200))
    assert all(earlier < later for earlier, later in pairwise([begin, *found]))


def local_times(cron: str, zone: str, begin: datetime, days: int = 2) -> list[str]:
    end = begin + timedelta(days=days)
    found = takewhile(lambda instant: instant < end, Cron(cron, zone).instants(begin))
    return [f"{instant.astimezone(ZoneInfo(zone)):%d %H:%M %z}" for instant in found]


SPRING, AUTUMN = datetime(2026, 3, 28, 12, tzinfo=UTC), datetime(2026, 10, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        # The clock is put forward from 02:00 to 03:00: what is meant for the night still comes, once.
        ("30 2 * * *", SPRING, ["29 03:00 +0200", "30 02:30 +0200"]),
        ("0,30 2 * * *", SPRING, ["29 03:00 +0200", "30 02:00 +0200", "30 02:30 +0200"]),
        ("0 2,3 * * *", SPRING, ["29 03:00 +0200", "30 02:00 +0200", "30 03:00 +0200"]),
        ("*/20 2 * * 0", SPRING, ["29 03:00 +0200"]),
        # An hourly one goes by the clock, on which there was no 02:30.
        ("30 1-3 * * 0", SPRING, ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]),
        ("30 */1 29 * *", SPRING, [f"29 {h:02}:30 +0{1 if h < 2 else 2}00" for h in range(24) if h != 2]),
        # The clock is put back from 03:00 to 02:00: what is meant for the night comes once, at the first 02:30.
        ("30 2 * * *", AUTUMN, ["25 02:30 +0200", "26 02:30 +0100"]),
        ("0 3 * * *", AUTUMN, ["25 03:00 +0100", "26 03:00 +0100"]),
        ("*/30 2 25 * *", AUTUMN, ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]),
    ],
)
def test_berlin(cron: str, begin: datetime, expected: list[str]) -> None:
    assert local_times(cron, "Europe/Berlin", begin) == expected


def test_an_hourly_cron_comes_every_real_hour_of_the_longer_day() -> None:
    found = list(islice(Cron("30 * * * *", "Europe/Berlin").instants(AUTUMN), 30))
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_asked_in_the_second_of_two_equal_hours_it_does_not_go_back() -> None:
    second_time_round = datetime(2026, 10, 25, 1, 40, tzinfo=UTC)  # 02:40 again
    assert Cron("45 2 * * *", "Europe/Berlin").next_after(second_time_round) == datetime(
        2026, 10, 26, 1, 45, tzinfo=UTC
    )


def test_years_away() -> None:
    assert Cron("0 0 * 2 MON#5", "Europe/Berlin").next_after(SPRING) == datetime(2044, 2, 28, 23, tzinfo=UTC)
    assert Cron("0 0 29 2 *", "UTC").next_after(SPRING) == datetime(2028, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("61 * * * *", "minute '61' cannot be read: 0 to 59"),
        ("0 24 * * *", "hour '24' cannot be read: 0 to 23"),
        ("0 0 0 * *", "day of month '0' cannot be read: 1 to 31"),
        ("0 0 1 MAI *", "month 'MAI' cannot be read: 1 to 12 or JAN to DEC"),
        ("0 0 * * MON-SUN", "day of week 'MON-SUN' cannot be read"),
        ("*/0 * * * *", r"minute '\*/0' cannot be read"),
        ("0 0 30 2 *", "no month '2' has a day '30'"),
        ("0 0 * *", "has five fields .* this one has 4"),
        ("0 0 0 * * *", "has five fields .* this one has 6"),  # seconds, for cronsim
        ("@daily", "this one has 1"),
        ("", "this one has 0"),
        ("9" * 5000 + " * * * *", "minute '999"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(CronError, match=said):
        Cron(text, "UTC")


@given(st.text(alphabet="0123456789*/,-#LW MONé\t\x00?", max_size=40))
def test_any_text_is_a_cron_expression_or_a_cron_error(text: str) -> None:
    try:
        cron = Cron(text, "UTC")
    except CronError:
        return
    assert cron.next_after(SPRING) is None or cron.explain()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("berlin", "did you mean Europe/Berlin"),
        ("Europe", "there is no time zone 'Europe'"),  # a directory
        ("../../etc/passwd", "there is no time zone"),
        ("\x00", "there is no time zone"),
        ("", "there is no time zone ''"),
    ],
)
def test_unknown_zones_are_refused_with_what_was_meant(name: str, said: str) -> None:
    with pytest.raises(CronError, match=said):
        find_zone(name)
