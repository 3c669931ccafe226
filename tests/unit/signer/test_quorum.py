"""One answer on which several endpoints agree, or none."""

from typing import Any

import pytest

from signer.errors import RpcDisagreementError, RpcError, RpcNodeError, RpcTransportError
from signer.rpc.quorum import agree, asked, majority

COUNT = ("eth_getTransactionCount", ["0x11", "latest"])
RECEIPT = ("eth_getTransactionReceipt", ["0xabc"])
LOST = RpcTransportError("timeout")


def receipt(block: str, status: str = "0x1") -> dict[str, Any]:
    return {
        "blockHash": block,
        "blockNumber": "0x7",
        "transactionHash": "0xABC",
        "status": status,
        "contractAddress": None,
        "logs": [],
    }


@pytest.mark.parametrize(
    ("usable", "are_asked", "needed"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (4, 3, 3), (5, 3, 3), (7, 4, 4)]
)
def test_few_are_all_asked_and_of_many_a_majority(usable: int, are_asked: int, needed: int) -> None:
    assert (asked(usable), majority(usable)) == (are_asked, needed)


@pytest.mark.case("S46")
def test_lagging_node_cannot_make_a_nonce_seem_used() -> None:
    assert agree(COUNT, ["0x7", "0x5"], 2) == "0x5"
    assert agree(COUNT, ["0x10", "0x9"], 2) == "0x9"  # by value, not by text


@pytest.mark.case("S67", "PC12")
@pytest.mark.parametrize(
    "answers",
    [
        [receipt("0xb1"), None],
        [receipt("0xb1"), receipt("0xb2")],
        [receipt("0xb1"), receipt("0xb1", "0x0")],
        [None, receipt("0xb1"), receipt("0xb1")],
    ],
)
def test_receipts_that_differ_are_no_answer(answers: list[Any]) -> None:
    assert isinstance(agree(RECEIPT, answers, 2), RpcDisagreementError)


def test_receipts_of_one_block_agree_whatever_else_they_hold() -> None:
    first, second = receipt("0xB1"), {**receipt("0xb1"), "l1Fee": "0x1", "transactionHash": "0xabc"}
    assert agree(RECEIPT, [first, second], 2) is first
    assert agree(RECEIPT, [None, None], 2) is None


@pytest.mark.case("S67", "PC12")
@pytest.mark.parametrize(
    "changed",
    [
        {"blockHash": "0xb2"},
        {"blockNumber": "0x8"},
        {"transactionHash": "0xabd"},
        {"status": "0x0"},
        {"contractAddress": "0x22"},
    ],
)
def test_receipts_of_a_block_agree_when_all_that_decides_is_the_same(changed: dict[str, str]) -> None:
    whole, one = ("eth_getBlockReceipts", ["0x7"]), receipt("0xb1")
    same = {**receipt("0xB1"), "transactionHash": "0xabc", "logs": [{}], "effectiveGasPrice": "0x1"}
    first = [one, one]
    assert agree(whole, [first, [same, same]], 2) is first
    assert agree(whole, [[], []], 2) == []
    for other in ([one, {**one, **changed}], [one], [], None, one):
        assert isinstance(agree(whole, [first, other], 2), RpcDisagreementError)


@pytest.mark.case("S30")
def test_error_is_no_vote() -> None:
    assert agree(RECEIPT, [None, LOST], 2) is LOST
    assert agree(RECEIPT, [None, LOST, None], 2) is None
    assert agree(COUNT, [LOST, RpcNodeError("header not found")], 1) is LOST


@pytest.mark.parametrize("answers", [["0x5", None], ["0x5", "five"], [5, "0x5"], [{}, "0x5"]])
def test_answer_of_another_kind_is_no_vote_either(answers: list[Any]) -> None:
    assert isinstance(agree(COUNT, answers, 2), RpcError)


@pytest.mark.parametrize(
    "answers", [[{"status": "0x1"}, receipt("0xb1")], ["0x1", None], [[], receipt("0xb1")]]
)
def test_shapeless_receipts_do_not_agree(answers: list[Any]) -> None:
    assert isinstance(agree(RECEIPT, answers, 2), RpcError)


def test_tag_means_the_lowest_block_and_a_number_the_same_one() -> None:
    low, high = {"number": "0x9", "hash": "0xA"}, {"number": "0x10", "hash": "0xB"}
    assert agree(("eth_getBlockByNumber", ["finalized", False]), [high, low], 2) is low
    assert isinstance(agree(("eth_getBlockByNumber", ["0x9", False]), [high, low], 2), RpcDisagreementError)
    assert agree(("eth_getBlockByNumber", ["0x9", False]), [low, {**low, "hash": "0xa"}], 2) is low
    assert isinstance(agree(("eth_getBlockByNumber", ["finalized", False]), [high, None], 2), RpcError)


LOG = {
    "blockHash": "0xB1",
    "blockNumber": "0x7",
    "transactionHash": "0xabc",
    "logIndex": "0x2",
    "address": "0xC0",
    "topics": ["0xD0"],
    "data": "0xE0",
}


def test_logs_agree_in_whatever_order_and_letters_they_are_told() -> None:
    whole, other = ("eth_getLogs", [{"fromBlock": "0x7"}]), {**LOG, "logIndex": "0x3"}
    first = [LOG, other]
    again = [other, {**LOG, "blockHash": "0xb1", "removed": False, "blockTimestamp": "0x1"}]
    assert agree(whole, [first, again], 2) is first
    assert agree(whole, [[], []], 2) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"blockHash": "0xb2"},
        {"blockNumber": "0x8"},
        {"transactionHash": "0xabd"},
        {"logIndex": "0x3"},
        {"address": "0xc1"},
        {"topics": ["0xd0", "0xd0"]},
        {"data": "0xe1"},
        {"removed": True},
        {"data": None},
    ],
)
def test_logs_that_differ_in_anything_are_no_answer(changed: dict[str, Any]) -> None:
    whole = ("eth_getLogs", [{"fromBlock": "0x7"}])
    for other in ([{**LOG, **changed}], [], [LOG, LOG], None, LOG):
        assert isinstance(agree(whole, [[LOG], other], 2), RpcError)


def test_other_answers_must_be_the_same() -> None:
    assert agree(("eth_getCode", ["0x11", "latest"]), ["0x60", "0x60"], 2) == "0x60"
    assert isinstance(agree(("eth_getCode", ["0x11", "latest"]), ["0x60", "0x"], 2), RpcDisagreementError)
