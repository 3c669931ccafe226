"""When a custody is asked, and when not; and what of its answers is taken for one."""

import time
from collections.abc import Callable
from email.utils import formatdate

import pytest

from keyguard.backends.pacing import LONGEST_HOLD_SECONDS, Answer, Pace, ask, deadline_of
from keyguard.errors import (
    CustodyBusyError,
    CustodyClockError,
    CustodyDeniesError,
    CustodyUnreachableError,
)


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Answer:
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def scripted(*answers: Answer) -> tuple[list[float], Callable[[float], Answer]]:
    left, given = list(answers), []

    def attempt(seconds: float) -> Answer:
        given.append(seconds)
        return left.pop(0)

    return given, attempt


def asked(*answers: Answer, seconds: float = 5, may_repeat: bool = True) -> int:
    """Ask, and return how often."""
    given, attempt = scripted(*answers)
    ask(attempt, Pace(1000), deadline_of(seconds), may_repeat=may_repeat, name="Custody")
    return len(given)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", LONGEST_HOLD_SECONDS),
        ("1e9", LONGEST_HOLD_SECONDS),
        ("soon", None),
        ("", None),
        ("Mon, 99 Nov 2026 99:00:00 GMT", None),
    ],
)
def test_retry_after_is_understood_or_left(text: str, seconds: float | None) -> None:
    assert answer(retry_after=text).retry_after_seconds() == seconds


def test_retry_after_may_be_a_date() -> None:
    found = answer(retry_after=formatdate(time.time() + 30, usegmt=True)).retry_after_seconds()
    assert found is not None
    assert 28 <= found <= 30


@pytest.mark.case("K27")
def test_what_may_have_been_done_is_repeated_after_429_alone() -> None:
    assert asked(answer(429), answer(), may_repeat=False) == 2
    with pytest.raises(CustodyUnreachableError, match="503; it may have taken"):
        asked(answer(503), answer(), may_repeat=False)
    assert asked(answer(503), answer(429), answer()) == 3


@pytest.mark.case("K27")
def test_nobody_waits_longer_than_their_own_time() -> None:
    began = time.monotonic()
    with pytest.raises(CustodyBusyError):
        asked(answer(429, retry_after="60"), seconds=0.5)
    with pytest.raises(CustodyBusyError):
        asked(*[answer(500)] * 20, seconds=0.5)
    assert time.monotonic() - began < 1.2


@pytest.mark.case("K28")
def test_clock_is_blamed_only_where_it_is_off() -> None:
    late = formatdate(time.time() - 120, usegmt=True)
    with pytest.raises(CustodyClockError):
        asked(answer(401, date=late))
    for honest in (
        answer(401, date=formatdate(usegmt=True)),
        answer(401),
        answer(401, date="x"),
        answer(403, date=late),
    ):
        with pytest.raises(CustodyDeniesError):
            asked(honest)


def test_rate_is_kept_by_all_who_share_it() -> None:
    pace = Pace(20)
    began = time.monotonic()
    for _ in range(5):
        pace.wait(deadline_of(5))
    assert time.monotonic() - began >= 0.2
    with pytest.raises(CustodyBusyError):
        Pace(0.1).wait(time.monotonic() - 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"1", b"{", b"\xff", b"[" * 500_000, b'{"a":NaN}', b" " * (4 * 1024 * 1024 + 1)],
)
def test_body_that_is_no_json_object_is_no_answer(body: bytes) -> None:
    with pytest.raises(CustodyUnreachableError):
        answer(body=body).json()


def test_only_the_services_own_404_says_that_something_is_not_there() -> None:
    assert answer(404, b'{"message":"no"}').is_denial_of_existence()
    assert answer(404, b'{"error":{}}').is_denial_of_existence()
    for other in (
        answer(404, b"<html>"),
        answer(404),
        answer(200, b'{"message":"no"}'),
        answer(410, b'{"error":1}'),
    ):
        assert not other.is_denial_of_existence()
