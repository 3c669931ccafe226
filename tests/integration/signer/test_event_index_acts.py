"""What people do to the event index: pause a contract, resume it, have it read again."""

import pytest

from signer.errors import NotPossibleError
from signer.events import following
from signer.models import EventLog, Holding
from tests.integration.signer.coins import ANN, BEN, CAT, MINT, TALLY, Coins
from tests.sample.models import Effect


def test_a_paused_contract_is_left_where_it_is_and_goes_on_from_there(coins: Coins) -> None:
    from signer import pause_contract, resume_contract

    token, other = coins.deploy(), coins.deploy()
    contract = coins.watch(token)
    coins.watch(other)
    coins.turn()
    pause_contract(contract.pk, actor="ada", reason="looking into it")
    with pytest.raises(NotPossibleError):
        pause_contract(contract.pk, actor="ada", reason="again")
    coins.move(token, (MINT, ANN, 1))
    coins.move(other, (MINT, ANN, 1))
    coins.turn()
    assert (coins.holders(token), coins.holders(other)) == ({}, {ANN: 1})
    resume_contract(contract.pk, actor="ada", reason="found it")
    with pytest.raises(NotPossibleError):
        resume_contract(contract.pk, actor="ada", reason="again")
    coins.turn()
    coins.require_equal()


def test_reading_again_mends_a_table_that_somebody_has_altered(coins: Coins) -> None:
    from signer import reread_contract

    token = coins.deploy()
    contract = coins.watch(token)
    tallied = coins.watch(token, handler=TALLY)
    coins.move(token, (MINT, ANN, 10), (ANN, BEN, 4))
    coins.move(token, (BEN, CAT, 1))
    coins.turn()
    Holding.objects.filter(holder=ANN).update(balance_wei=0)
    with pytest.raises(NotPossibleError):
        reread_contract(contract.pk, from_block=coins.head() + 1, actor="ada", reason="too far")
    reread_contract(contract.pk, from_block=0, actor="ada", reason="a holding was altered")
    reread_contract(tallied.pk, from_block=coins.head(), actor="ada", reason="the last block only")
    coins.turn()
    assert EventLog.objects.filter(removed_at__isnull=False, contract=contract).count() == 3
    assert EventLog.objects.filter(removed_at__isnull=False, contract=tallied).count() == 1
    coins.require_equal()


def test_an_act_takes_the_index_away_from_the_worker_that_has_it(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer import pause_contract

    token = coins.deploy()
    contract = coins.watch(token, handler=TALLY)
    coins.turn()
    coins.move(token, (MINT, ANN, 9))

    def act(reached: str) -> None:
        if reached == "signer.index_read":
            pause_contract(contract.pk, actor="ada", reason="now")

    monkeypatch.setattr(following, "crashpoint", act)
    coins.turn()
    assert not Effect.objects.exists()
    contract.refresh_from_db()
    assert (contract.state, contract.number) == ("PAUSED", coins.head() - 1)
