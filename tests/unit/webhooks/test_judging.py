"""What the answers of receivers mean."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dalp.webhooks.judging import TRY_FOR, Answer, Outcome, judge, paused_until, retry_after_seconds

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_what_is_taken_is_delivered() -> None:
    for status in (200, 201, 202, 204, 299):
        assert judge(Answer(status), 3, None, NOW, 1).outcome == Outcome.DELIVERED
        assert not Answer(status).is_away


@pytest.mark.case("S78")
def test_attempts_lie_twice_as_far_apart_each_time_and_the_last_is_a_day_after_the_first() -> None:
    at, instants = NOW, [NOW]
    for attempts in range(100):
        verdict = judge(Answer(500), attempts, None if attempts == 0 else NOW, at, 1)
        if verdict.outcome == Outcome.DEAD:
            break
        assert verdict.next_at is not None
        at = verdict.next_at
        instants.append(at)
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(instants)]
    assert gaps[:5] == [5, 10, 20, 40, 80]
    assert instants[-1] == NOW + TRY_FOR
    assert len(instants) == 16


@given(
    st.integers(min_value=0, max_value=10**6),
    st.floats(min_value=0.8, max_value=1.2),
    st.integers(min_value=0, max_value=86399),
    st.floats(min_value=0, max_value=1e12),
)
def test_it_is_sent_again_later_than_now_and_within_the_day(
    attempts: int, spread: float, failing_seconds: int, retry_after: float
) -> None:
    since = NOW - timedelta(seconds=failing_seconds)
    verdict = judge(Answer(503, "", retry_after), attempts, since, NOW, spread)
    assert verdict.outcome == Outcome.AGAIN
    assert verdict.next_at is not None
    assert NOW < verdict.next_at <= since + TRY_FOR


def test_what_the_receiver_asks_for_is_kept_to_within_an_hour() -> None:
    assert judge(Answer(429, "", 120), 0, None, NOW, 1).next_at == NOW + timedelta(seconds=120)
    assert judge(Answer(429, "", 10**9), 0, None, NOW, 1).next_at == NOW + timedelta(hours=1)
    assert paused_until(Answer(429, "", 120), 0, NOW) == NOW + timedelta(seconds=120)


def test_a_receiver_is_left_alone_for_five_minutes_at_most_of_our_own_accord() -> None:
    pauses = [(paused_until(Answer(error="-"), n, NOW) - NOW).total_seconds() for n in range(9)]
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_gone_is_gone() -> None:
    assert judge(Answer(410), 0, None, NOW, 1).outcome == Outcome.GONE


@pytest.mark.parametrize("status", [None, 429, 502, 503, 504])
def test_only_what_concerns_every_event_keeps_the_others_waiting(status: int | None) -> None:
    assert Answer(status).is_away
    for its_own in (400, 404, 422, 500):
        assert not Answer(its_own).is_away


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("120", 120),
        (" 7 ", 7),
        ("-5", 0),
        ("soon", 0),
        ("9" * 400, 999_999_999),
        ("Mon, 23 Nov 2026 12:01:00 GMT", 60),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 23 Nov 2026 12:01:00", 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float) -> None:
    assert retry_after_seconds(header, NOW) == seconds


def test_redirects_are_said_to_be_none_of_ours() -> None:
    assert Answer(302).words == "it answered 302, and redirects are not followed"


def health(answers: list[Answer], failures: int = 0, pause_seconds: float | None = None) -> dict[str, object]:
    from dalp.webhooks.models import Webhook
    from dalp.webhooks.recording import _health

    pause = None if pause_seconds is None else NOW + timedelta(seconds=pause_seconds)
    return _health(Webhook(failures=failures, paused_until=pause), answers, NOW)


def test_what_was_on_its_way_together_counts_as_one_failure() -> None:
    first = health([Answer(503), Answer(503)])
    assert (first["failures"], first["paused_until"]) == (1, NOW + timedelta(seconds=5))
    straggler = health([Answer(503)], failures=1, pause_seconds=4)
    assert (straggler["failures"], straggler["paused_until"]) == (1, NOW + timedelta(seconds=5))
    after_the_pause = health([Answer(503)], failures=1, pause_seconds=-1)
    assert (after_the_pause["failures"], after_the_pause["paused_until"]) == (2, NOW + timedelta(seconds=10))


def test_success_ends_a_pause_that_is_over_and_none_that_was_asked_for() -> None:
    assert (
        health([Answer(200)], failures=3, pause_seconds=-1).items()
        >= {"failures": 0, "paused_until": None}.items()
    )
    assert "paused_until" not in health([Answer(200)], failures=1, pause_seconds=600)
    both = health([Answer(200), Answer(429, "", 600)])
    assert (both["failures"], both["paused_until"]) == (1, NOW + timedelta(seconds=600))
    assert both["delivered_at"] == NOW


def test_what_concerns_one_event_alone_pauses_nothing() -> None:
    assert health([Answer(500), Answer(404)]) == {"last_error": "it answered 404", "last_error_at": NOW}
