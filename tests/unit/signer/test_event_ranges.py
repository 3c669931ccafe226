"""How many blocks are asked for at once."""

from hypothesis import given
from hypothesis import strategies as st

from signer.events.ranges import MANY_LOGS, MOST_BLOCKS, after_success, smaller

blocks = st.integers(1, MOST_BLOCKS)


@given(blocks)
def test_a_refusal_always_asks_for_less_and_never_for_nothing(asked: int) -> None:
    assert 1 <= smaller(asked) <= max(1, asked - 1)


@given(blocks, st.integers(0, MANY_LOGS))
def test_success_grows_slowly_and_to_a_limit(asked: int, logs: int) -> None:
    grown = after_success(asked, asked, logs)
    assert asked < grown <= asked * 5 // 4 + 1 or grown == MOST_BLOCKS


def test_a_range_that_was_cut_short_says_nothing_about_a_full_one() -> None:
    assert after_success(1000, 3, 5) == 1000


def test_many_logs_make_the_next_range_shorter() -> None:
    assert after_success(1000, 1000, MANY_LOGS + 1) == 500


@given(st.integers(1, MOST_BLOCKS))
def test_just_below_a_limit_most_requests_succeed(limit: int) -> None:
    asked, refused, granted = 1000, 0, 0
    for _ in range(200):
        if asked > limit:
            refused += 1
            asked = smaller(asked)
        else:
            granted += 1
            asked = after_success(asked, asked, 0)
    # Coming down from the first guess costs ten at most; near one block there is nothing in between.
    assert granted > refused - 10 if limit < 8 else granted > 2 * (refused - 10)
