"""What the answers of several nodes amount to: those that lag, that differ, that stopped following."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dalp.chain_diagnosis import check_chains, check_nodes
from dalp.local.servers import AnvilServer
from signer import RpcTransportError
from signer.chains import connect
from signer.errors import RpcDisagreementError
from signer.models import Chain, Endpoint
from signer.rpc import surveying
from signer.states import TransactionState
from tests.integration.signer.endpoints import Pair, endpoint, state
from tests.integration.signer.lying_node import Call, LyingNode
from tests.integration.signer.stage import Stage

RECEIPT = "eth_getTransactionReceipt"
BLOCK_RECEIPTS = "eth_getBlockReceipts"


@pytest.mark.case("S46", "S67")
def test_lagging_node_makes_nothing_of_ours_seem_lost_or_settled(manual: Stage, pair: Pair) -> None:
    row = manual.submit()
    manual.drain()
    pair[1].freeze()
    manual.mine()
    for _ in range(3):
        manual.watch()
    assert state(row)[0] == TransactionState.BROADCASTING
    assert manual.lane.next_nonce == 1
    pair[1].thaw()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("S46")
def test_older_nonce_of_the_node_that_is_asked_rewinds_nothing(manual: Stage, pair: Pair) -> None:
    pair[0].freeze()
    for _ in range(2):
        manual.submit()
        manual.drain()
        manual.rpc("evm_mine")
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 2
    row = manual.submit()
    manual.drain()
    row.refresh_from_db()
    assert (row.nonce, manual.lane.next_nonce, manual.lane.state) == (2, 3, "ACTIVE")


@pytest.mark.case("S67")
def test_receipt_that_comes_and_goes_between_nodes_moves_nothing(manual: Stage, pair: Pair) -> None:
    Chain.objects.update(confirmations=2)
    row = manual.submit()
    manual.drain()
    manual.mine()
    flaps = [0]

    def lie(call: Call) -> dict[str, Any] | None:
        flaps[0] += call["method"] == RECEIPT
        return {"result": None} if call["method"] == RECEIPT and flaps[0] % 2 else None

    pair[0].lie = lie
    seen = []
    for _ in range(6):
        manual.mine()
        manual.watch()
        seen.append(state(row)[0])
    assert flaps[0] > 1
    assert seen == sorted(seen, key=["BROADCASTING", "CONFIRMING", "COMPLETED"].index)  # never back
    pair[0].lie = None
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.COMPLETED


def saying_failed(node: LyingNode, hashes: set[str]) -> Callable[[Call], dict[str, Any] | None]:
    """Return a lie: these transactions failed."""

    def told(receipt: Any) -> Any:
        return {**receipt, "status": "0x0"} if receipt["transactionHash"] in hashes else receipt

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] not in (RECEIPT, BLOCK_RECEIPTS):
            return None
        node.faults["lie"] += 1
        given = node.forward(call)["result"]
        return {"result": [told(each) for each in given] if isinstance(given, list) else told(given)}

    return lie


@pytest.mark.case("S67", "PC12")
@pytest.mark.parametrize(("liar", "lied_of"), [(0, 25), (1, 25), (0, 1)])
def test_full_block_on_whose_receipts_the_nodes_do_not_agree_settles_nothing_of_it(
    manual: Stage, pair: Pair, liar: int, lied_of: int
) -> None:
    Chain.objects.update(max_in_flight=100)
    rows = [manual.submit(gas_limit=21_000) for _ in range(25)]
    manual.drain()
    manual.mine()
    hashes = [attempt.hash for row in rows for attempt in manual.attempts(row.pk)]
    pair[liar].lie = saying_failed(pair[liar], set(hashes[:lied_of]))
    manual.watch()
    assert pair[liar].faults["lie"] > 0
    states = [state(row)[0] for row in rows]
    assert states == ["BROADCASTING"] * lied_of + ["COMPLETED"] * (25 - lied_of)
    pair[liar].lie = None
    manual.watch()
    assert {state(row)[0] for row in rows} == {TransactionState.COMPLETED}


@pytest.mark.case("PC12")
def test_full_block_on_which_two_nodes_agree_takes_one_call_to_each(manual: Stage, pair: Pair) -> None:
    Chain.objects.update(max_in_flight=100)
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    rows = [manual.submit(gas_limit=21_000) for _ in range(25)]
    manual.drain()
    manual.mine()
    for node in pair:
        node.seen.clear()
    manual.watch()
    assert {state(row)[0] for row in rows} == {TransactionState.COMPLETED}
    # The block, and the last of before, in case its watcher died.
    assert [node.seen[BLOCK_RECEIPTS] for node in pair] == [2, 2]
    assert [node.seen[RECEIPT] for node in pair] == [0, 0]


@pytest.mark.case("PC12")
def test_two_nodes_on_forks_of_their_own_settle_nothing_until_they_agree(
    fresh_db: str, start_anvil: Callable[..., AnvilServer]
) -> None:
    same = ["--no-mining", "--timestamp", "1700000000"]
    stage, other = Stage(start_anvil(extra=same)), start_anvil(extra=same)
    other.fund(stage.key.address)
    Endpoint.objects.create(chain=stage.chain, url=other.url, position=1)
    row = stage.submit()
    stage.drain()
    assert len(stage.pool()) == 1
    assert int(other.rpc("eth_getTransactionCount", stage.key.address, "pending"), 16) == 1
    stage.mine(3)
    stage.watch()
    assert state(row)[0] == TransactionState.BROADCASTING  # one node has it mined
    for _ in range(3):
        other.rpc("evm_mine")
    receipts = [node.rpc(RECEIPT, stage.attempts(row.pk)[0].hash) for node in (stage.anvil, other)]
    assert receipts[0]["blockHash"] != receipts[1]["blockHash"]
    stage.watch()
    assert state(row)[0] == TransactionState.BROADCASTING  # ... both have, in different blocks
    call: Any = (RECEIPT, [stage.attempts(row.pk)[0].hash])
    assert isinstance(connect(stage.chain).agreed([call])[0], RpcDisagreementError)
    endpoint_of_other = Endpoint.objects.get(url=other.url)
    endpoint_of_other.url = stage.anvil.url + "/"  # it has joined the first one's fork
    endpoint_of_other.save()
    stage.watch()
    assert state(row)[0] == TransactionState.COMPLETED


@pytest.mark.case("S30", "PC12")
def test_quorum_of_two_needs_both_until_one_of_them_is_paused(manual: Stage, pair: Pair) -> None:
    pair[1].lose_requests = True
    rpc = connect(manual.chain)
    call: Any = ("eth_getTransactionCount", [manual.key.address, "latest"])
    assert isinstance(rpc.agreed([call])[0], RpcTransportError)
    rpc.agreed([call])
    rpc.agreed([call])
    assert endpoint(pair[1]).paused_until is not None
    assert rpc.agreed([call]) == ["0x0"]


@pytest.mark.case("PC11", "S46")
def test_node_that_stopped_following_is_not_read_until_it_has_caught_up(
    manual: Stage, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "SURVEY_SECONDS", 0.0)
    connect(manual.chain).latest_header()
    pair[0].freeze()
    manual.mine(40)
    connect(manual.chain).latest_header()
    assert (endpoint(pair[0]).is_behind, endpoint(pair[1]).is_behind) == (True, False)
    assert (endpoint(pair[0]).head_number, endpoint(pair[1]).head_number) == (0, 40)
    assert connect(manual.chain).call("eth_blockNumber") == hex(40)
    [chain, first, second] = check_chains()
    assert (chain.ok, first.ok, second.ok) == (True, False, True)
    assert "lags behind" in first.detail
    assert check_nodes()[0].ok
    pair[0].thaw()
    connect(manual.chain).latest_header()
    assert endpoint(pair[0]).is_behind is False


@pytest.mark.case("PC11")
def test_readyz_fails_when_the_only_node_has_stopped_following(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dalp.diagnosis import readiness

    monkeypatch.setattr(surveying, "SURVEY_SECONDS", 0.0)
    monkeypatch.setattr("signer.rpc.freshness.STILL_SECONDS_MIN", 0.0)
    monkeypatch.setattr("signer.rpc.freshness.STILL_BLOCKS", 0)
    rpc = connect(manual.chain)
    rpc.latest_header()
    rpc.latest_header()
    missing = [finding for finding in readiness() if not finding.ok and finding.name == "chains"]
    assert "its head lags behind" in missing[0].detail
    manual.mine()
    rpc.latest_header()
    assert all(finding.ok for finding in readiness() if finding.name == "chains")


# --- Prices -----------------------------------------------------------------------------------------------


def history(gwei: int) -> Callable[[Call], dict[str, Any] | None]:
    """Return a lie: gas costs so much, and as much again as a tip."""
    price = hex(gwei * 10**9)
    said = {"baseFeePerGas": [price] * 2, "reward": [[price] * 3]}
    return lambda call: {"result": said} if call["method"] == "eth_feeHistory" else None


@pytest.fixture
def third(manual: Stage, pair: Pair) -> Iterator[LyingNode]:
    """A third endpoint beside the two."""
    node = LyingNode(manual.anvil.url)
    Endpoint.objects.create(chain=manual.chain, url=node.url, position=2)
    yield node
    node.stop()


@pytest.mark.parametrize("liar", [0, 1])
def test_node_that_quotes_absurd_fees_is_not_believed_where_another_can_be_asked(
    manual: Stage, pair: Pair, liar: int
) -> None:
    pair[liar].lie = history(200)  # below the ceiling, and a hundred times too much
    row = manual.submit()
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert attempt.max_fee_per_gas_wei < 5 * 10**9
    assert attempt.max_priority_fee_per_gas_wei <= 10**9
    assert [node.seen["eth_feeHistory"] for node in pair] == [liar, 1 - liar], "each was asked once"


@pytest.mark.parametrize("gwei", [0, 200])
def test_one_of_three_nodes_makes_fees_neither_too_low_nor_too_high(
    manual: Stage, pair: Pair, third: LyingNode, gwei: int
) -> None:
    pair[0].lie = history(gwei)
    row = manual.submit()
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert 10**9 < attempt.max_fee_per_gas_wei < 5 * 10**9
    assert third.seen["eth_feeHistory"] == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": -32000, "message": "no"}},
        {"result": None},
        {"result": {"baseFeePerGas": ["-0x1"]}},
        {"result": {"baseFeePerGas": 7}},
    ],
)
def test_price_of_the_other_node_that_is_none_changes_nothing(
    manual: Stage, pair: Pair, answer: dict[str, Any]
) -> None:
    pair[1].lie = lambda call: answer if call["method"] == "eth_feeHistory" else None
    row = manual.submit()
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert 10**9 < attempt.max_fee_per_gas_wei < 5 * 10**9


def test_other_node_that_does_not_answer_is_not_waited_for(manual: Stage, pair: Pair) -> None:
    pair[1].delay = 2.0
    gateway = connect(manual.chain)
    opinions = gateway.begin_opinions([("eth_gasPrice", [])])
    began = time.monotonic()
    assert opinions() == []
    assert time.monotonic() - began < 1
