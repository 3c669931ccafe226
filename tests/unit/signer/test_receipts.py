"""What receipts prove."""

from typing import Any

import pytest

from signer.errors import RpcTransportError
from signer.models import Attempt
from signer.receipts import Finding, is_receipt, judge

OLD, NEW = Attempt(hash="0x" + "aa" * 32, nonce=0), Attempt(hash="0x" + "bb" * 32, nonce=0)
CANONICAL = {9: "0x" + "09" * 32, 10: "0x" + "10" * 32}
ERROR = RpcTransportError("timeout")


def receipt(attempt: Attempt, block: int = 10, **changes: Any) -> dict[str, Any]:
    return {
        "transactionHash": attempt.hash,
        "blockNumber": hex(block),
        "blockHash": CANONICAL[block],
        "status": "0x1",
        "gasUsed": "0x5208",
        "contractAddress": None,
        "logs": [],
        **changes,
    }


def finding(answers: list[Any], head: int = 10, confirmations: int = 1) -> Finding:
    return judge([OLD, NEW], answers, CANONICAL, head, head - confirmations + 1).finding


@pytest.mark.case("S55")
def test_any_attempt_may_have_won() -> None:
    assert judge([OLD, NEW], [receipt(OLD), None], CANONICAL, 10, 10).attempt is OLD
    assert judge([OLD, NEW], [None, receipt(NEW)], CANONICAL, 10, 10).attempt is NEW


def test_depth_counts_the_block_itself() -> None:
    assert finding([receipt(OLD, 9), None], confirmations=2) is Finding.FINAL
    assert finding([receipt(OLD, 10), None], confirmations=2) is Finding.MINED


@pytest.mark.case("S30")
def test_an_error_is_not_an_answer() -> None:
    assert finding([None, None]) is Finding.ABSENT
    assert finding([None, ERROR]) is Finding.UNKNOWN
    assert finding([ERROR, receipt(NEW)]) is Finding.FINAL


def test_block_that_is_not_on_the_chain_proves_nothing() -> None:
    assert finding([receipt(OLD, blockHash="0x" + "99" * 32), None]) is Finding.UNKNOWN
    assert finding([receipt(OLD, blockNumber="0xb"), None]) is Finding.UNKNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"transactionHash": NEW.hash},
        {"transactionHash": None},
        {"blockNumber": 10},
        {"blockNumber": "ten"},
        {"blockHash": "0x1"},
        {"status": None},
        {"status": "0x2"},
        {"gasUsed": ""},
        {"logs": None},
        {"logs": [{"address": "0x12", "topics": [], "data": "0x"}]},
        {"contractAddress": "0x12"},
    ],
)
def test_half_a_receipt_is_none(changes: dict[str, Any]) -> None:
    assert is_receipt(receipt(OLD), OLD)
    assert not is_receipt({**receipt(OLD), **changes}, OLD)
    assert finding([receipt(OLD, **changes), None]) is Finding.UNKNOWN


@pytest.mark.parametrize("answer", [True, "0x1", [], 5, {}])
def test_nonsense_is_neither_a_receipt_nor_an_absence(answer: object) -> None:
    assert finding([answer, None]) is Finding.UNKNOWN
