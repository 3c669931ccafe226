"""What limits leave, whoever asks at once."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.utils import timezone

from keyguard import (
    KeyguardError,
    SigningRequest,
    create_key,
    sign_transactions,
)
from keyguard.errors import (
    LimitExceededError,
)
from keyguard.models import Key, SigningRecord
from keyguard.policies import spending
from keyguard.policies.models import Purse, Spending
from tests.integration.keyguard.policies import (
    ALLOW_ALL,
    limit,
    put_in_force,
    wanted,
)
from tests.integration.keyguard.requests import transfer
from tests.threads import at_once


@pytest.mark.case("K41")
def test_twenty_callers_at_the_edge_of_a_limit_never_exceed_it(fresh_db: str) -> None:
    key = create_key("treasury")
    put_in_force(*ALLOW_ALL, limit(7))

    def one(number: int) -> int:
        try:
            return len(sign_transactions([wanted(key, number, f"payment {number}")]))
        except LimitExceededError:
            return 0

    assert sum(at_once(20, one)) == 7
    assert SigningRecord.objects.filter(state="SIGNED").count() == 7
    assert Spending.objects.count() == 7


@pytest.mark.case("K41")
@pytest.mark.sqlite_too
def test_limit_counts_a_request_once_gives_back_what_failed_and_moves_with_time(
    key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_force(*ALLOW_ALL, limit(2))
    with monkeypatch.context() as failing, pytest.raises(KeyguardError):
        failing.setattr("keyguard.signing.backend_of", lambda name: None)
        sign_transactions([wanted(key)])
    assert not Spending.objects.exists()
    sign_transactions([wanted(key), wanted(key, 1, "second")])
    bumped = (
        SigningRequest(f"bump-{fee}", key.address, transfer(value=1, maxFeePerGas=fee), subject="payment")
        for fee in (8 * 10**9, 9 * 10**9)
    )
    sign_transactions(list(bumped))  # the first, twice more
    with pytest.raises(LimitExceededError):
        sign_transactions([wanted(key, 2)])  # with another nonce it would be paid again
    with pytest.raises(LimitExceededError, match="1 would be more than is left of 2 in 3600 seconds"):
        sign_transactions([wanted(key, 4, "third")])
    Spending.objects.filter(subject__startswith="second ").update(at=F("at") - timedelta(seconds=3601))
    sign_transactions([wanted(key, 4, "third")])


@pytest.mark.case("K41")
@pytest.mark.sqlite_too
@pytest.mark.parametrize(
    ("age", "counts"),
    [
        (timedelta(0), True),
        (timedelta(seconds=3599), True),
        (timedelta(seconds=3600, microseconds=-1), True),
        (timedelta(seconds=3600), False),
        (timedelta(seconds=3600, microseconds=1), False),
        (timedelta(seconds=3601), False),
    ],
    ids=str,
)
def test_what_was_spent_counts_until_the_window_is_over_and_not_at_its_end(
    key: Key, monkeypatch: pytest.MonkeyPatch, age: timedelta, counts: bool
) -> None:
    put_in_force(*ALLOW_ALL, limit(1, seconds=3600))
    sign_transactions([wanted(key)])
    now = timezone.now().replace(microsecond=0)
    Spending.objects.update(at=now - age)
    monkeypatch.setattr(spending, "Now", lambda: now)
    purse = Purse.objects.get()
    assert spending.left(purse.rule, purse.bucket, 1, 3600) == (0 if counts else 1)
    if not counts:
        assert len(sign_transactions([wanted(key, 1, "second")])) == 1
        return
    with pytest.raises(LimitExceededError):
        sign_transactions([wanted(key, 1, "second")])
    assert SigningRecord.objects.filter(state="SIGNED").count() == 1


def test_limits_are_counted_apart_for_what_they_name(key: Key) -> None:
    other = create_key("other")
    put_in_force(*ALLOW_ALL, limit(1, of="count", each=["key"]))
    sign_transactions([wanted(key), wanted(other, 0, "of another key")])
    with pytest.raises(LimitExceededError):
        sign_transactions([wanted(key, 1, "second")])
