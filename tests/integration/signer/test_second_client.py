"""The signer's promises on EthereumJS: another EVM, another pool, other words, and a consensus client that decides.

Nothing here may use what only anvil can do. Where this client itself is wrong, the test says so.
"""

import pytest
from django.db.models import F

from signer import Contract, Transaction, compare_index, encode_constructor, watch_contract
from signer.control import cancel_transaction
from signer.events import indexing
from signer.events.holders import HOLDERS
from signer.market import read_market
from signer.models import Chain, EventIndex, Holding, Incident, Lane
from signer.rpc import Node
from signer.states import TransactionState
from tests.ethereumjs import FAUCET
from tests.integration.signer.coins import ANN, BEN, COIN, MINT
from tests.integration.signer.stage import Crash, SecondStage, crash_at, wait

BUSY = "already in the TxPool"


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def mined(second: SecondStage) -> int:
    return int(second.rpc("eth_getTransactionCount", second.key.address, "latest"), 16)


def test_chain_younger_than_the_fee_history_is_priced(second: SecondStage) -> None:
    """This client refuses to give the fees of more blocks than there are."""
    assert int(second.rpc("eth_blockNumber"), 16) == 1
    market, _ = read_market(Node(second.node.url), second.chain, second.key.address)
    assert market.quote("standard").max_fee_per_gas_wei > market.base_fee_wei > 0


def test_transaction_is_executed_and_its_receipt_is_kept(second: SecondStage) -> None:
    row = second.submit()
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert row.winner is not None
    assert row.winner.receipt is not None
    assert (row.nonce, row.block_hash) == (0, row.winner.receipt["blockHash"])
    assert int(second.rpc("eth_getBalance", "0x" + "11" * 20, "latest"), 16) == 1


def test_batch_is_executed_once_each_and_in_order(second: SecondStage) -> None:
    second.deploy_counter()
    rows = [second.record(n, simulate=False) for n in range(50)]
    second.settle()
    for expected, row in enumerate(rows, start=1):
        assert (*state(row), row.nonce) == (TransactionState.COMPLETED, "", expected)
    assert [second.counted(n) for n in range(50)] == [1] * 50


@pytest.mark.parametrize("envelope", ["LEGACY", "ACCESS_LIST", "DYNAMIC_FEE"])
def test_every_kind_without_blobs_is_executed(second: SecondStage, envelope: str) -> None:
    row = second.submit(envelope=envelope)
    second.settle()
    assert state(row) == (TransactionState.COMPLETED, "")


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
