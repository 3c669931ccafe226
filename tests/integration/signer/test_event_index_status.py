"""What is said of the event index: how far it is, what of it is final, where it differs from the chain."""

from django.utils import timezone

from signer import compare_holders, compare_index, index_status
from signer.models import Chain, EventLog, Holding
from tests.integration.signer.coins import ANN, BEN, MINT, TALLY, Coins, Trouble
from tests.integration.signer.lying_node import LyingNode, says


def test_lag_and_finality_are_told_for_the_chain_and_each_contract(coins: Coins) -> None:
    assert index_status(31337) is None
    ready, failing = coins.deploy(), coins.deploy()
    coins.watch(ready)
    coins.watch(failing, handler=TALLY)
    coins.turn()
    Trouble.apply = "666"
    coins.mine(2)
    coins.move(failing, (MINT, ANN, 666))
    coins.mine(4)
    coins.turn()
    status, head = index_status(31337), coins.head()
    assert status is not None
    assert (status.head_number, status.read_number, status.lag_blocks) == (head, head, 0)
    assert status.final_number == head - 2, "3 confirmations: the block itself and two more"
    good, bad = status.contracts
    assert (good.read_number, good.lag_blocks, good.final_number, good.state) == (head, 0, head - 2, "ACTIVE")
    assert (bad.read_number, bad.lag_blocks, bad.state) == (head - 7, 7, "FAILED")
    assert bad.final_number == bad.read_number


def test_final_is_what_the_chain_calls_final(coins: Coins, liar: LyingNode) -> None:
    Chain.objects.update(finality="FINALIZED")
    coins.watch(coins.deploy())
    coins.mine(40)
    old = coins.rpc("eth_getBlockByNumber", "0x1e", False)
    liar.lie = lambda call: {"result": old} if call["params"] == ["finalized", False] else None
    coins.turn()
    assert coins.index.final_front == 30
    liar.lie = says("eth_getBlockByNumber", "unknown tag", times=0)
    coins.turn()
    assert coins.index.final_front == 30, "what was final stays so"
    assert coins.index.blocks.filter(number__gt=30).count() == coins.head() - 30


def test_the_comparison_finds_what_is_wrong(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 10), (MINT, BEN, 10))
    coins.turn()
    assert compare_index(31337) == []
    Holding.objects.filter(holder=ANN).update(balance_wei=9)
    assert [(each.what, each.indexed, each.on_chain) for each in compare_index(31337)] == [
        ("total supply", "19", "20"),
        (ANN, "9", "10"),
    ]
    Holding.objects.filter(holder=ANN).delete()
    assert [each.what for each in compare_holders(31337, token)] == ["total supply"]
    EventLog.objects.update(removed_at=timezone.now())
    assert [each.on_chain for each in compare_index(31337)][:2] == ["a log", "a log"]


def test_a_token_that_changes_balances_without_an_event_is_found_out(coins: Coins) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 10))
    coins.send(coins.call(token, "steal", ANN, 1))
    coins.turn()
    assert [(each.what, each.indexed, each.on_chain) for each in compare_index(31337)] == [(ANN, "10", "9")]
