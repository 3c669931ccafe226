"""Handlers that fail: their own contract stands still, and no other."""

import pytest
from django.utils import timezone

from signer.models import EventLog, Incident, WatchedContract
from tests.integration.signer.coins import ANN, BEN, MINT, TALLY, Coins, Trouble
from tests.sample.models import Effect


@pytest.mark.sqlite_too
def test_a_handler_that_raises_stops_its_own_contract_only(coins: Coins) -> None:
    good, bad = coins.deploy(), coins.deploy()
    coins.watch(good)
    coins.watch(bad, handler=TALLY)
    coins.move(bad, (MINT, ANN, 1))
    coins.turn()
    coins.move(bad, (MINT, ANN, 1), (MINT, ANN, 666))
    coins.move(good, (MINT, BEN, 1))
    Trouble.apply = "666"
    coins.turn()
    assert coins.holders(good) == {BEN: 1}
    contract = WatchedContract.objects.get(address=bad)
    assert (contract.state, contract.attempts) == ("FAILED", 1)
    assert contract.last_error == "ValueError: cannot count 666"
    assert Effect.objects.count() == EventLog.objects.filter(contract=contract).count() == 1, "all or none"
    [incident] = Incident.objects.filter(closed_at__isnull=True)
    assert (incident.kind, incident.subject) == ("INDEX_FAILED", str(contract))
    assert "cannot count 666" in incident.text

    coins.move(good, (MINT, BEN, 1))
    coins.turn()  # not due yet
    contract.refresh_from_db()
    assert contract.attempts == 1
    WatchedContract.objects.update(retry_at=timezone.now())
    coins.turn()
    contract.refresh_from_db()
    assert contract.attempts == 2
    assert Incident.objects.count() == 1, "told once"

    Trouble.apply = ""
    WatchedContract.objects.update(retry_at=timezone.now())
    coins.turn()
    contract.refresh_from_db()
    assert (contract.state, contract.attempts, contract.last_error) == ("ACTIVE", 0, "")
    incident.refresh_from_db()
    assert incident.closed_because == "its handler has succeeded"
    coins.require_equal()


def test_a_balance_below_nothing_stops_the_token_instead_of_being_written(coins: Coins) -> None:
    token = coins.deploy()
    coins.move(token, (MINT, ANN, 5))
    contract = coins.watch(token, from_block=coins.head() + 1)
    coins.move(token, (ANN, BEN, 2))
    coins.turn()
    contract.refresh_from_db()
    assert contract.state == "FAILED"
    assert f"{ANN} would hold -2" in contract.last_error
    assert coins.holders(token) == {}
    coins.watch(token, from_block=0)
    coins.turn()
    assert coins.holders(token) == {ANN: 3, BEN: 2}
    contract.refresh_from_db()
    assert contract.state == "ACTIVE"
    coins.require_equal()


def test_a_worker_without_the_handlers_code_leaves_the_contract_to_one_that_has_it(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer.events import handlers

    token, other = coins.deploy(), coins.deploy()
    contract = coins.watch(token, handler=TALLY)
    coins.watch(other)
    coins.turn()
    coins.move(token, (MINT, ANN, 1))
    coins.move(other, (MINT, ANN, 1))
    with monkeypatch.context() as without:
        without.delitem(handlers._handlers, TALLY)
        coins.turn()
    contract.refresh_from_db()
    assert contract.state == "FAILED"
    assert TALLY in contract.last_error
    assert coins.holders(other) == {ANN: 1}
    assert not Incident.objects.exists(), "a deploy is no incident"
    WatchedContract.objects.update(retry_at=None)
    coins.turn()
    coins.require_equal()
