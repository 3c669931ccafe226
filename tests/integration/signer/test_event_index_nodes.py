"""The event index and nodes that lag, refuse or tell untruths: an error is never read as no logs."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from signer.models import EventIndex, EventLog, Incident, WatchedContract
from tests.integration.signer.coins import ANN, BEN, MINT, Coins
from tests.integration.signer.endpoints import Pair
from tests.integration.signer.lying_node import LyingNode, says

Logs = list[dict[str, Any]]


def test_a_node_that_lags_is_not_believed_that_there_is_nothing(coins: Coins, liar: LyingNode) -> None:
    """It knows the headers by number, but neither the blocks nor their logs: a load balancer's other half."""
    token = coins.deploy()
    coins.watch(token)
    coins.turn()
    before = coins.head()

    def lags(call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] == "eth_getLogs":
            return {"result": []}
        return {"result": None} if call["method"] == "eth_getBlockByHash" else None

    coins.move(token, (MINT, ANN, 3))
    liar.lie = lags
    coins.turn()
    assert coins.index.front_number == before
    assert "not a block" in coins.index.last_error
    liar.lie = None
    coins.turn()
    assert coins.holders(token) == {ANN: 3}
    coins.require_equal()


def test_a_node_whose_head_is_below_what_was_read_takes_nothing_back(coins: Coins, liar: LyingNode) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 3))
    old = coins.rpc("eth_getBlockByNumber", "0x1", False)
    coins.turn()
    liar.lie = lambda call: {"result": old} if call["params"] == ["latest", False] else None
    coins.turn()
    assert coins.holders(token) == {ANN: 3}
    assert "lags" in coins.index.last_error
    liar.lie = None
    coins.turn()
    coins.require_equal()


def test_a_range_that_is_too_much_for_the_node_is_halved_and_grows_again(
    coins: Coins, liar: LyingNode
) -> None:
    """Whatever its words: providers have many for it, and change them."""
    token = coins.deploy()
    for _ in range(15):
        coins.move(token, (MINT, ANN, 1))
    coins.mine(25)
    asked: list[int] = []

    def at_most_7(call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] != "eth_getLogs" or "blockHash" in call["params"][0]:
            return None
        blocks = int(call["params"][0]["toBlock"], 16) - int(call["params"][0]["fromBlock"], 16) + 1
        asked.append(blocks)
        return (
            {"error": {"code": -32005, "message": "words that nobody has seen before"}}
            if blocks > 7
            else None
        )

    liar.lie = at_most_7
    coins.watch(token)
    coins.turn()
    assert coins.holders(token) == {ANN: 15}
    coins.require_equal()
    assert max(asked) > 7 >= coins.index.range_blocks // 2
    assert sum(blocks > 7 for blocks in asked) < len(asked) / 2
    liar.lie = None
    WatchedContract.objects.update(own_number=-1, rewinding=True)
    coins.turn()
    assert coins.index.range_blocks > 7


def test_an_error_is_never_read_as_no_logs(coins: Coins, liar: LyingNode) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.turn()
    coins.move(token, (MINT, ANN, 3))
    for lie in (
        says("eth_getLogs", "the server is busy"),
        lambda call: {"result": None} if call["method"] == "eth_getLogs" else None,
        lambda call: {"result": [{"address": token}]} if call["method"] == "eth_getLogs" else None,
    ):
        liar.lie = lie
        coins.turn()
        assert coins.index.front_number == coins.head() - 1
        assert coins.index.failing_since is not None
    liar.lie = None
    coins.turn()
    assert coins.index.failing_since is None
    coins.require_equal()


def test_logs_of_another_block_are_not_believed(coins: Coins, liar: LyingNode) -> None:
    token = coins.deploy()
    coins.move(token, (MINT, ANN, 3))
    coins.mine(30)
    coins.move(token, (MINT, ANN, 3))
    coins.watch(token)

    for change in ({"blockHash": "0x" + "77" * 32}, {"removed": True}, {"blockNumber": "0x1"}):

        def lie(call: dict[str, Any], change: dict[str, Any] = change) -> dict[str, Any] | None:
            if call["method"] != "eth_getLogs":
                return None
            return {"result": [{**log, **change} for log in coins.rpc("eth_getLogs", *call["params"])]}

        liar.lie = lie
        coins.turn()
        assert coins.index.last_error
        assert not EventLog.objects.exists()
    liar.lie = None
    coins.turn()
    coins.require_equal()


@pytest.mark.parametrize("liar_s_place", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda logs: logs[:-1],
        lambda logs: [*logs, *({**log, "logIndex": "0x63"} for log in logs[:1])],
        lambda logs: [{**log, "data": "0x" + "00" * 31 + "99"} for log in logs],
    ],
    ids=["leaves one out", "makes one up", "changes an amount"],
)
def test_nothing_is_taken_from_a_node_that_the_other_contradicts(
    coins: Coins, pair: Pair, change: Callable[[Logs], Logs], liar_s_place: int
) -> None:
    """Of final blocks, which are read in ranges, and of those that are read one by one."""
    token = coins.deploy()
    coins.move(token, (MINT, ANN, 3))
    coins.mine(30)
    coins.watch(token)

    def lie(call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] != "eth_getLogs":
            return None
        return {"result": change(coins.rpc("eth_getLogs", *call["params"]))}

    pair[liar_s_place].lie = lie
    coins.turn()
    assert not EventLog.objects.exists()
    assert "do not agree on eth_getLogs {'fromBlock'" in coins.index.last_error
    pair[liar_s_place].lie = None
    coins.turn()
    coins.move(token, (MINT, BEN, 4))
    pair[liar_s_place].lie = lie
    coins.turn()
    assert coins.holders(token) == {ANN: 3}
    assert "do not agree on eth_getLogs {'blockHash'" in coins.index.last_error
    pair[liar_s_place].lie = None
    coins.turn()
    assert coins.holders(token) == {ANN: 3, BEN: 4}
    coins.require_equal()


@pytest.mark.parametrize("late", [0, 1])
def test_with_a_node_that_is_always_a_block_behind_the_index_follows_that_one(
    coins: Coins, pair: Pair, late: int
) -> None:
    token = coins.deploy()
    coins.watch(token)
    coins.move(token, (MINT, ANN, 3))
    pair[late].freeze()
    coins.move(token, (MINT, BEN, 4))
    coins.turn()
    assert (coins.holders(token), coins.index.last_error) == ({ANN: 3}, "")
    assert coins.index.front_number == coins.head() - 1
    pair[late].thaw()
    coins.turn()
    coins.require_equal()


def test_what_the_node_refuses_of_one_contract_holds_up_none_of_the_others(
    coins: Coins, liar: LyingNode
) -> None:
    ready, pruned, late = coins.deploy(), coins.deploy(), coins.deploy()
    coins.watch(ready)
    coins.mine(40)
    coins.move(late, (MINT, BEN, 1))
    coins.turn()

    def has_forgotten(call: dict[str, Any]) -> dict[str, Any] | None:
        wanted = call["params"][0] if call["method"] == "eth_getLogs" else {}
        if pruned in wanted.get("address", []) and "fromBlock" in wanted:
            return {"error": {"code": 4444, "message": "pruned history unavailable"}}
        return None

    liar.lie = has_forgotten
    contract = coins.watch(pruned)
    coins.watch(late, from_block=1)
    coins.move(ready, (MINT, ANN, 1))
    coins.turn()
    assert (coins.holders(ready), coins.holders(late)) == ({ANN: 1}, {BEN: 1})
    contract.refresh_from_db()
    assert (contract.state, coins.index.last_error) == ("FAILED", "")
    assert "pruned history" in contract.last_error
    assert not Incident.objects.exists()
    WatchedContract.objects.filter(pk=contract.pk).update(attempts=5, retry_at=None)
    coins.turn()
    assert "pruned history" in Incident.objects.get().text
    liar.lie = None
    WatchedContract.objects.filter(pk=contract.pk).update(retry_at=None)
    coins.turn()
    coins.require_equal()
    assert not Incident.objects.filter(closed_at__isnull=True).exists()


def test_people_are_told_when_a_chain_cannot_be_read_for_long(coins: Coins, liar: LyingNode) -> None:
    coins.watch(coins.deploy())
    coins.turn()
    liar.lose_requests = True
    coins.turn()
    assert not Incident.objects.exists()
    EventIndex.objects.update(failing_since=timezone.now() - timedelta(minutes=6))
    coins.turn()
    [incident] = Incident.objects.filter(kind="INDEX_FAILED", closed_at__isnull=True)
    assert incident.subject == "index of chain 31337"
    liar.lose_requests = False
    coins.turn()
    incident.refresh_from_db()
    assert incident.closed_at is not None
