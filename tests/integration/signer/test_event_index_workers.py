"""The event index and its workers: those that die, that are replaced, that come at the same time."""

from datetime import timedelta

import pytest
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from signer.events import following
from signer.models import EventIndex, EventLog, WatchedContract
from tests.integration.signer.coins import ANN, BEN, MINT, TALLY, Coins, die_at
from tests.integration.signer.stage import Crash
from tests.sample.models import Effect
from tests.threads import at_once


@pytest.mark.sqlite_too
def test_each_log_is_handed_over_once_wherever_the_worker_dies(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in ("signer.index_read", "signer.index_handing_over", "signer.index_handed_over"):
        token = coins.deploy()
        for behind in (True, False):
            coins.move(token, (MINT, ANN, 9), (ANN, BEN, 1))
            coins.watch(token, from_block=1)
            coins.watch(token, handler=TALLY, from_block=1)
            left = die_at(monkeypatch, point)
            with pytest.raises(Crash):
                coins.turn()
            assert left == [0], (point, behind)
            coins.turn()
            coins.require_equal()


def test_of_two_that_index_at_once_one_does(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.watch(token, handler=TALLY)
    for _ in range(20):
        coins.move(token, (MINT, ANN, 9), (ANN, BEN, 1))
    at_once(4, lambda _: [coins.turn() for _ in range(3)])
    coins.turn()
    coins.require_equal()


def frozen_and_replaced(coins: Coins, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker freezes with logs in hand; another reads on; then the first wakes up and commits what it has."""
    token = coins.deploy()
    coins.watch(token, handler=TALLY)
    coins.turn()
    coins.move(token, (MINT, ANN, 9))

    def freeze(reached: str) -> None:
        if reached == "signer.index_read":
            monkeypatch.setattr(following, "crashpoint", lambda name: None)
            EventIndex.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
            coins.turn()

    monkeypatch.setattr(following, "crashpoint", freeze)
    coins.turn()


@pytest.mark.case("PB3")
@pytest.mark.sqlite_too
def test_a_worker_that_was_replaced_hands_nothing_over(coins: Coins, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen_and_replaced(coins, monkeypatch)
    assert Effect.objects.count() == 1
    coins.require_equal()


def test_without_the_fence_the_unique_log_still_refuses_the_second(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that the test above would notice: the replaced worker does come to its commit."""
    monkeypatch.setattr(settings, "DALP_TEST_DISABLE_FENCE", True)
    frozen_and_replaced(coins, monkeypatch)
    [contract] = WatchedContract.objects.all()
    assert contract.state == "FAILED"
    assert "unique" in contract.last_error.lower()
    assert Effect.objects.count() == 1


@pytest.mark.sqlite_too
def test_a_log_is_neither_deleted_nor_altered_and_removed_once(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 1))
    coins.turn()
    rows = EventLog.objects.all()
    refused = {"block_number": 1, "topics": [], "data": "0x00", "transaction_hash": "0x"}
    for name, value in refused.items():
        with pytest.raises(DatabaseError, match="append-only"):
            rows.update(**{name: value})
    with pytest.raises(DatabaseError, match="append-only"):
        rows.delete()
    rows.update(removed_at=timezone.now())
    with pytest.raises(DatabaseError, match="append-only"):
        rows.update(removed_at=None)
