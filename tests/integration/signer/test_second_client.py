"""The signer's promises on EthereumJS: another EVM, another pool, other words, and a consensus client that decides.

Nothing here may use what only anvil can do. Where this client itself is wrong, the test says so.
"""

import secrets
from typing import Any

import pytest
from eth_account import Account
from eth_account.signers.local import LocalAccount

import keyguard
from dalp.local.servers import RpcCallError
from signer import Contract, Transaction, compare_index, encode_constructor, watch_contract
from signer.control import cancel_transaction
from signer.events import indexing
from signer.events.holders import HOLDERS
from signer.lanes import drain
from signer.market import read_market
from signer.models import Chain, EventIndex, Holding, Incident, Lane
from signer.rpc import Node
from signer.states import TransactionState
from tests.integration.signer.coins import ANN, BEN, COIN, MINT
from tests.integration.signer.stage import Crash, SecondStage, crash_at, wait


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def to_somebody() -> str:
    """Return an address that has nothing: the chain is shared."""
    return "0x" + secrets.token_hex(20)


def received(second: SecondStage, row: Transaction) -> int:
    return int(second.rpc("eth_getBalance", row.to, "latest"), 16)


def mined(second: SecondStage) -> int:
    return int(second.rpc("eth_getTransactionCount", second.key.address, "latest"), 16)


def test_chain_younger_than_the_fee_history_is_priced(second_alone: SecondStage) -> None:
    """This client refuses to give the fees of more blocks than there are."""
    assert int(second_alone.rpc("eth_blockNumber"), 16) == 1
    market, _ = read_market(Node(second_alone.node.url), second_alone.chain, second_alone.key.address)
    assert market.quote("standard").max_fee_per_gas_wei > market.base_fee_wei > 0


def test_transaction_is_executed_and_its_receipt_is_kept(second: SecondStage) -> None:
    row = second.submit(to=to_somebody(), value=5)
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert row.winner is not None
    assert row.winner.receipt is not None
    assert (row.nonce, row.block_hash) == (0, row.winner.receipt["blockHash"])
    assert received(second, row) == 5


def test_batch_is_executed_once_each_and_in_order(second: SecondStage) -> None:
    second.deploy_counter()
    Chain.objects.update(max_in_flight=50)
    rows = [second.record(n) for n in range(50)]
    second.settle()
    for expected, row in enumerate(rows, start=1):
        assert (*state(row), row.nonce) == (TransactionState.COMPLETED, "", expected)
    assert [second.counted(n) for n in range(50)] == [1] * 50


def test_every_kind_that_its_pool_takes_is_executed(second: SecondStage) -> None:
    wanted: list[dict[str, Any]] = [
        {"envelope": "legacy"},
        {
            "envelope": "access_list",
            "access_list": [{"address": "0x" + "22" * 20, "storageKeys": ["0x" + "00" * 32]}],
        },
        {"envelope": "dynamic_fee"},
    ]
    rows = [second.submit(**fields) for fields in wanted]
    second.settle()
    assert {state(row) for row in rows} == {(TransactionState.COMPLETED, "")}
    receipts = [row.winner.receipt for row in rows if row.winner is not None]
    assert [receipt["type"] for receipt in receipts if receipt is not None] == ["0x0", "0x1", "0x2"]


def test_blobs_in_a_form_that_it_does_not_take_hold_up_nobody(second: SecondStage) -> None:
    """Its chain is at Cancun, where blobs have no proofs of cells. A no-op with such a blob would be refused too."""
    row = second.submit(blobs=["0x" + "00" * 131_072])
    behind = second.submit()
    second.settle()
    assert state(row)[0] == TransactionState.FAILED
    assert row.error is not None
    assert row.error["code"] == "TRANSACTION_REFUSED"
    assert (state(behind)[0], behind.nonce) == (TransactionState.COMPLETED, 1)


@pytest.mark.case("S5", "S25", "S27")
def test_sent_and_not_recorded_is_known_to_the_pool(
    second: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    second.deploy_counter()
    row = second.record(7)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, "signer.sent")
        second.drain()
    [attempt] = second.attempts(row.pk)
    assert (attempt.state, attempt.send_count) == ("SIGNED", 0)
    second.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    [attempt] = second.attempts(row.pk)
    assert (attempt.state, attempt.send_count, attempt.last_error) == ("SENT", 1, "")
    assert Incident.objects.count() == 0
    second.settle()
    assert second.counted(7) == 1


@pytest.mark.case("S32", "PC6")
def test_stuck_head_is_replaced_as_this_pool_wants_it(
    second: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = second.submit()
    second.drain()
    with monkeypatch.context() as patience:
        wait(patience, bump_after_seconds=0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        second.drain()
    first, bump = second.attempts(row.pk)
    assert (bump.state, bump.last_error) == ("SENT", ""), "taken in the first one's place"
    with pytest.raises(RpcCallError, match="replacement gas too low"):
        second.rpc("eth_sendRawTransaction", "0x" + bytes(first.raw).hex())
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert row.winner == bump
    assert mined(second) == 1


@pytest.mark.case("S32")
def test_replacement_that_this_pool_finds_too_cheap_is_raised(
    second: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = second.submit()
    second.drain()
    with monkeypatch.context() as patience:
        patience.setattr("signer.fees.raised", lambda wei: wei + 1)
        wait(patience, bump_after_seconds=0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        second.drain()
    _, cheap = second.attempts(row.pk)
    assert (cheap.state, cheap.last_error) == ("SIGNED", "UNDERPRICED_REPLACEMENT")
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert len(second.attempts(row.pk)) > 2
    assert mined(second) == 1


@pytest.mark.case("S57")
def test_cancelled_is_a_noop_at_its_nonce(second: SecondStage) -> None:
    row = second.submit(to=to_somebody())
    second.drain()
    cancel_transaction(row, actor="ann", reason="not wanted")
    second.settle()
    assert state(row) == (TransactionState.CANCELLED, "")
    assert mined(second) == 1
    assert received(second, row) == 0


@pytest.mark.case("S35")
def test_want_of_money_is_waited_out(second: SecondStage) -> None:
    keyguard.create_key("poor")
    row = second.submit(sender="poor", gas_limit=21_000, simulate=False)
    lane = Lane.objects.get(address=keyguard.find_key("poor").address)
    drain(lane.pk)
    assert state(row) == (TransactionState.QUEUED, "INSUFFICIENT_FUNDS")
    second.fund(lane.address)
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")


@pytest.mark.case("S35")
def test_pool_that_cannot_see_the_money_keeps_the_bytes(
    second: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keyguard.create_key("poor")
    row = second.submit(sender="poor", gas_limit=21_000, simulate=False)
    lane = Lane.objects.get(address=key.address)
    with monkeypatch.context() as patch:
        patch.setattr("signer.admission._obstacle", lambda *_: "")
        drain(lane.pk)
    assert state(row) == (TransactionState.BROADCASTING, "INSUFFICIENT_FUNDS")
    second.fund(key.address)
    wait(monkeypatch, resend_seconds=0)
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")


# --- Calls that revert ------------------------------------------------------------------------------------


@pytest.mark.case("S72", "PC14")
def test_call_that_reverts_is_told_with_its_reason(second: SecondStage) -> None:
    second.deploy_counter()
    second.submit(to=second.counter.address, value=0, data=second.counter.encode("refuse", 7, True))
    second.settle()
    tried = second.record(7, simulate=True)
    second.drain()
    assert (state(tried)[0], tried.nonce) == (TransactionState.FAILED, None)
    assert tried.error == {"code": "TRANSACTION_WOULD_REVERT", "message": "request refused"}
    # This client estimates it like any other call: without a gas limit too, only the chain finds it out.
    for nonce, gas_limit in ((2, 100_000), (3, None)):
        row = second.record(7, gas_limit=gas_limit)
        second.settle()
        assert (state(row)[0], row.nonce) == (TransactionState.FAILED, nonce)
        assert row.error == {"code": "TRANSACTION_REVERTED", "message": "request refused"}


# --- What the chain takes back, and what the node forgets ---------------------------------------------------


@pytest.mark.case("S63", "PC3")
def test_reorganised_away_is_sent_again_with_its_nonce(second: SecondStage) -> None:
    second.deploy_counter()
    Chain.objects.update(confirmations=6)
    for depth in (1, 3):
        row = second.record(depth)
        second.drain()
        second.mine(depth)
        second.watch()
        assert state(row) == (TransactionState.CONFIRMING, "")
        [before] = second.attempts(row.pk)
        second.consensus.reorganise(depth)
        second.watch()
        assert state(row) == (TransactionState.BROADCASTING, "REORGED")
        assert second.counted(depth) == 0, "this client puts nothing back into its pool"
        second.settle()
        assert (*state(row), row.nonce) == (TransactionState.COMPLETED, "", before.nonce)
        assert [attempt.hash for attempt in second.attempts(row.pk)] == [before.hash]
        assert second.counted(depth) == 1
    assert Incident.objects.count() == 0


def test_what_its_consensus_client_finalized_is_final(second: SecondStage) -> None:
    Chain.objects.update(finality="FINALIZED")
    row = second.submit()
    second.drain()
    second.mine(5)
    second.watch()
    assert state(row) == (TransactionState.CONFIRMING, "")
    assert row.block_number is not None
    second.consensus.finalize(row.block_number)
    second.mine()
    second.watch()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert Chain.objects.get().finalized_number == row.block_number


@pytest.mark.case("S47")
def test_node_that_died_gets_the_same_bytes_again(
    second_alone: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_alone.deploy_counter()
    rows = [second_alone.record(n) for n in range(5)]
    second_alone.drain()
    sent = [second_alone.attempts(row.pk)[0].hash for row in rows]
    second_alone.restart()
    second_alone.mine()
    assert mined(second_alone) == 1, "its pool was empty"
    wait(monkeypatch, resend_seconds=0)
    second_alone.settle()
    assert [second_alone.attempts(row.pk)[0].hash for row in rows] == sent
    assert [len(second_alone.attempts(row.pk)) for row in rows] == [1] * 5
    assert [second_alone.counted(n) for n in range(5)] == [1] * 5


@pytest.fixture
def shared(second: SecondStage) -> LocalAccount:
    """A wallet whose key a stranger has too."""
    wallet: LocalAccount = Account.from_key(secrets.token_bytes(32))
    keyguard.import_key("shared", wallet.key)
    second.fund(wallet.address)
    return wallet


def send_as_stranger(second: SecondStage, wallet: LocalAccount) -> None:
    fees = {"maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9}
    foreign = {"chainId": 31337, "nonce": 0, "to": "0x" + "22" * 20, "value": 1, "gas": 21_000, **fees}
    second.rpc("eth_sendRawTransaction", wallet.sign_transaction(foreign).raw_transaction.to_0x_hex())


@pytest.mark.case("S69")
def test_what_a_stranger_has_in_the_pool_blocks_a_lane_that_begins(
    second: SecondStage, shared: LocalAccount
) -> None:
    """This client counts its pool for an address in lower case only."""
    send_as_stranger(second, shared)
    row = second.submit(sender="shared")
    lane = Lane.objects.get(address=shared.address)
    drain(lane.pk)
    lane.refresh_from_db()
    assert (lane.state, row.nonce) == ("BLOCKED", None)
    assert "pool holds 1 transactions" in lane.state_reason
    second.mine()


@pytest.mark.case("S29", "S69")
def test_nonce_that_a_stranger_used_is_proved(
    second: SecondStage, shared: LocalAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = second.submit(sender="shared")
    lane = Lane.objects.get(address=shared.address)
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(patch, "signer.attempts_committed")
        drain(lane.pk)
    send_as_stranger(second, shared)
    second.mine()
    drain(lane.pk)
    second.watch()
    assert state(row) == (TransactionState.BROADCASTING, "NONCE_USED"), "one block deep proves nothing yet"
    second.mine(20)
    second.watch()
    assert state(row) == (TransactionState.BROADCASTING, "NONCE_FOREIGN")
    drain(lane.pk)
    lane.refresh_from_db()
    assert lane.state == "BLOCKED"


@pytest.mark.case("S29", "PC4")
def test_receipt_that_the_node_denies_makes_nobody_a_stranger(
    second: SecondStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back on blocks that it had dropped, this client holds a transaction and has no receipt of it, for ever."""
    Chain.objects.update(foreign_nonces="ADOPT", confirmations=40)
    row = second.submit()
    second.drain()
    second.mine()
    first_home = second.consensus.head()
    second.watch()
    second.consensus.reorganise(1)
    second.watch()
    wait(monkeypatch, resend_seconds=0)
    second.drain()
    second.mine()  # it is in another block now, and its receipt is kept under that one
    second.consensus.choose(first_home)
    Chain.objects.update(confirmations=1)
    second.mine(20)
    [attempt] = second.attempts(row.pk)
    assert second.rpc("eth_getTransactionReceipt", attempt.hash) is None
    assert mined(second) == 1
    second.watch()
    second.watch()
    second.drain()
    assert state(row)[0] == TransactionState.BROADCASTING
    assert row.sub_state != "NONCE_FOREIGN"
    second.mine()
    assert mined(second) == 1, "nothing is executed twice"
    [incident] = Incident.objects.all()
    assert (incident.kind, incident.chain) == ("NODE_ANOMALY", second.chain)


# --- The event index --------------------------------------------------------------------------------------


def test_index_equals_the_chain_after_a_reorganisation(second: SecondStage) -> None:
    Chain.objects.update(confirmations=4)
    created = second.submit(to=None, value=0, data=encode_constructor(COIN["abi"], COIN["bytecode"]))
    second.settle()
    created.refresh_from_db()
    assert created.winner is not None
    assert created.winner.receipt is not None
    coin = Contract(COIN["abi"]).at(created.winner.receipt["contractAddress"])
    watch_contract(31337, coin.address, handler=HOLDERS, from_block=created.block_number or 0)

    def move(*moves: tuple[str, str, int]) -> Transaction:
        return second.submit(
            to=coin.address, value=0, data=coin.encode("move", list(moves)), gas_limit=300_000
        )

    def holders() -> dict[str, int]:
        indexing.index(31337)
        assert EventIndex.objects.get().last_error == ""
        assert compare_index(31337) == []
        return dict(Holding.objects.filter(balance_wei__gt=0).values_list("holder", "balance_wei"))

    move((MINT, ANN, 10))
    second.settle()
    moved = move((ANN, BEN, 4))
    second.drain()
    second.mine(2)
    second.watch()
    assert holders() == {ANN: 6, BEN: 4}
    second.consensus.reorganise(2)
    assert holders() == {ANN: 10}
    second.settle()
    assert state(moved) == (TransactionState.COMPLETED, "")
    assert holders() == {ANN: 6, BEN: 4}
