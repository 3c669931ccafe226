"""The event index follows the chain: what it hands over, when, and to whom."""

from datetime import timedelta

import pytest
from django.utils import timezone

from signer import UnknownHandlerError, tasks
from signer.models import EventIndex, EventLog, WatchedContract
from signer.sweeping import sweep
from tests.integration.signer.coins import ANN, BEN, CAT, MINT, TALLY, Coins
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import wait
from workflows import claim


@pytest.mark.sqlite_too
def test_holders_are_what_the_token_says(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 2**256 - 1), (ANN, BEN, 5), (BEN, CAT, 2), (CAT, CAT, 1))
    coins.move(token, (BEN, MINT, 3), (ANN, ANN, 7))
    coins.turn()
    assert coins.holders(token) == {ANN: 2**256 - 6, CAT: 2}
    coins.require_equal()


def test_only_what_a_handler_wants_is_read_and_each_gets_its_own(coins: Coins) -> None:
    token, other, stranger = coins.deploy(), coins.deploy(), coins.deploy()
    coins.watch(token)
    coins.watch(token, handler=TALLY)
    coins.watch(other, handler=TALLY)
    for each in (token, other, stranger):
        coins.move(each, (MINT, ANN, 1))
        coins.send(coins.call(each, "note", "hello"))
    coins.turn()
    kept = EventLog.objects.order_by("id").values_list("contract__address", "contract__handler")
    assert sorted(kept) == sorted([(token, "erc20.holders"), *[(token, TALLY), (other, TALLY)] * 2])
    coins.require_equal()


def test_a_contract_registered_late_is_read_from_its_beginning(coins: Coins) -> None:
    old = coins.deploy()
    coins.watch(old)
    for range_blocks in (1, 7, 1000):
        late = coins.deploy()
        born = coins.head()
        coins.move(late, (MINT, ANN, 9), (ANN, BEN, 4))
        coins.move(old, (MINT, ANN, 1))
        coins.mine(20)
        coins.turn()
        coins.move(late, (BEN, CAT, 1))
        EventIndex.objects.update(range_blocks=range_blocks)
        coins.watch(late, from_block=born)
        coins.move(old, (ANN, BEN, 1))
        coins.turn()
        assert coins.holders(late) == {ANN: 5, BEN: 3, CAT: 1}
        coins.require_equal()


def test_a_long_catching_up_does_not_hold_back_the_others(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, late = coins.deploy(), coins.deploy()
    coins.watch(ready)
    coins.mine(60)
    coins.turn()
    late_row = coins.watch(late)
    wait(monkeypatch, index_slice_seconds=0)  # one step of everything for each turn
    EventIndex.objects.update(range_blocks=1)
    for number in range(1, 5):
        coins.move(ready, (MINT, ANN, 1))
        coins.turn()
        assert coins.holders(ready) == {ANN: number}
    late_row.refresh_from_db()
    assert late_row.own_number is not None
    assert late_row.own_number < 20


def test_contracts_at_the_same_block_are_read_in_one_request(coins: Coins, liar: LyingNode) -> None:
    tokens = [coins.deploy() for _ in range(6)]
    for token in tokens:
        coins.watch(token, from_block=1)
    coins.mine(30)
    coins.turn()
    liar.seen.clear()
    coins.move(tokens[0], (MINT, ANN, 1))
    coins.turn()
    assert liar.seen["eth_getLogs"] == 1
    assert coins.holders(tokens[0]) == {ANN: 1}


def test_registering_twice_is_registering_once_and_earlier_blocks_are_read_too(coins: Coins) -> None:
    token = coins.deploy()
    coins.move(token, (MINT, ANN, 3))
    first = coins.watch(token, from_block=coins.head() + 1)
    coins.move(token, (MINT, BEN, 1))
    coins.turn()
    assert coins.holders(token) == {BEN: 1}
    assert coins.watch(token, from_block=coins.head()) == first
    coins.turn()
    assert coins.holders(token) == {BEN: 1}
    assert coins.watch(token, from_block=0) == first
    coins.turn()
    assert coins.holders(token) == {ANN: 3, BEN: 1}
    assert WatchedContract.objects.count() == 1
    coins.require_equal()


def test_registration_is_undone_with_the_transaction_that_it_joins(coins: Coins) -> None:
    from django.db import transaction

    token = coins.deploy()
    with pytest.raises(RuntimeError), transaction.atomic():
        coins.watch(token)
        raise RuntimeError
    assert not WatchedContract.objects.exists()


def test_unknown_handler_is_refused_at_registration(coins: Coins) -> None:
    with pytest.raises(UnknownHandlerError, match="acme"):
        coins.watch(coins.deploy(), handler="acme.nothing")


def test_the_sweep_rings_a_chain_that_is_due_and_nobody_reads(
    coins: Coins, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[int] = []
    monkeypatch.setattr("signer.sweeping.ring_index", rung.append)
    sweep()
    assert rung == [], "nothing is registered"
    contract = coins.watch(coins.deploy())
    sweep()
    assert rung == [31337]
    EventIndex.objects.update(look_at=timezone.now() + timedelta(minutes=1))
    sweep()
    assert rung == [31337], "not due"
    EventIndex.objects.update(look_at=None)
    held = claim(EventIndex, 31337, 30)
    sweep()
    assert held is not None
    assert rung == [31337], "somebody reads"
    EventIndex.objects.update(lease_until=None)
    WatchedContract.objects.filter(pk=contract.pk).update(state="PAUSED")
    sweep()
    assert rung == [31337], "paused"


def test_the_task_reads_the_chain_that_it_names(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    tasks.index(31337)
    tasks.index(5)  # nothing is registered there
    coins.require_equal()


def test_nothing_new_costs_one_look(coins: Coins, liar: LyingNode) -> None:
    coins.watch(coins.deploy())
    coins.turn()
    liar.seen.clear()
    coins.turn()
    assert liar.seen == {"eth_getBlockByNumber": 1}
