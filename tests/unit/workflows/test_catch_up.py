"""What becomes of instants that have passed, decided from numbers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.schedules.catch_up import MISSED_COUNT_MAX, ON_TIME, CatchUp, Turn, take_turn

pytestmark = pytest.mark.case("E31")

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hourly(after: datetime) -> Iterator[datetime]:
    begin = after.replace(minute=0, second=0, microsecond=0)
    return (begin + n * HOUR for n in count(1))


@pytest.mark.parametrize(
    ("policy", "late", "turn"),
    [
        (CatchUp.NONE, timedelta(seconds=59), Turn(True, 0, NOON + HOUR)),
        (CatchUp.NONE, timedelta(seconds=61), Turn(False, 1, NOON + HOUR)),
        (CatchUp.NONE, 5 * HOUR, Turn(False, 5, NOON + 5 * HOUR)),  # a sixth is due just now
        (CatchUp.NONE, 5.5 * HOUR, Turn(False, 6, NOON + 6 * HOUR)),
        (CatchUp.LAST, 0.5 * HOUR, Turn(True, 0, NOON + HOUR)),
        (CatchUp.LAST, 5.5 * HOUR, Turn(False, 5, NOON + 5 * HOUR)),
        (CatchUp.ALL, 5.5 * HOUR, Turn(True, 0, NOON + HOUR)),
    ],
)
def test_a_turn(policy: CatchUp, late: timedelta, turn: Turn) -> None:
    assert take_turn(policy, hourly, NOON, NOON + late) == turn


def test_counting_ends_so_that_the_sweeper_goes_on() -> None:
    years = timedelta(days=4000)
    turn = take_turn(CatchUp.LAST, hourly, NOON, NOON + years)
    assert turn == Turn(False, MISSED_COUNT_MAX, NOON + years)


gaps = st.lists(st.integers(1, 200_000), min_size=1, max_size=60)


@given(st.sampled_from(CatchUp), gaps, st.integers(0, 3_000_000))
def test_turn_after_turn_each_instant_is_fired_or_counted_once(
    policy: CatchUp, gaps: list[int], seconds: int
) -> None:
    named = [NOON]
    for gap in gaps:
        named.append(named[-1] + timedelta(seconds=gap))
    now = NOON + timedelta(seconds=seconds)

    def instants(after: datetime) -> Iterator[datetime]:
        return (instant for instant in named if instant > after)

    fired, missed, due = [], 0, named[0]
    while due is not None and due <= now:
        turn = take_turn(policy, instants, due, now)
        assert turn.fires != bool(turn.missed)
        assert turn.next_at is None or turn.next_at > due
        fired += [due] * turn.fires
        missed += turn.missed
        due = turn.next_at
    passed = [instant for instant in named if instant <= now]
    assert len(fired) + missed == len(passed)
    if policy == CatchUp.NONE:
        assert all(now - instant <= ON_TIME for instant in fired)
        assert len(fired) == (now - passed[-1] <= ON_TIME)
    else:
        assert fired == (passed if policy == CatchUp.ALL else passed[-1:])
