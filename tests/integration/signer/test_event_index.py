"""The event index follows the chain: what it hands over, when, and to whom."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from signer import UnknownHandlerError, compare_holders, compare_index, index_status, tasks
from signer.events import following
from signer.models import Chain, EventIndex, EventLog, Holding, Incident, WatchedContract
from signer.sweeping import sweep
from tests.integration.signer.coins import ANN, BEN, CAT, MINT, TALLY, Coins, Trouble, die_at
from tests.integration.signer.lying_node import LyingNode, says
from tests.integration.signer.stage import Crash, wait
from tests.sample.models import Effect
from tests.threads import at_once
from workflows import NotPossibleError, claim


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


# --- Nodes that do not tell the truth -----------------------------------------------------------------------


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


# --- Handlers that fail -------------------------------------------------------------------------------------


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


# --- Crashes and claims -------------------------------------------------------------------------------------


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


# --- What is said about it ----------------------------------------------------------------------------------


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


# --- What people do -----------------------------------------------------------------------------------------


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
