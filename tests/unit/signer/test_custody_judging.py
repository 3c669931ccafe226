"""What follows from a custody's word, and from what a node shows."""

from typing import Any

import pytest

from keyguard import CustodyState, Report
from signer.custody.judging import Move, judge, seen, wait_seconds
from signer.models import Transaction

US, THEM, TO = "0x" + "11" * 20, "0x" + "33" * 20, "0x" + "22" * 20
HASH, OTHER = "0x" + "aa" * 32, "0x" + "bb" * 32


def row(state: str = "SIGNING", **fields: Any) -> Transaction:
    return Transaction(**{"to": TO, "value": 7, "data": "0x01", "state": state, **fields})


def shown(**changes: Any) -> dict[str, Any]:
    return {
        "hash": HASH,
        "from": US,
        "to": TO,
        "value": "0x7",
        "input": "0x01",
        "nonce": "0x5",
        "gas": "0x5208",
        "maxFeePerGas": "0x64",
        "maxPriorityFeePerGas": "0x1",
        **changes,
    }


def step(
    row: Transaction, report: Report, answer: Any = None, known: tuple[str, ...] = ()
) -> tuple[str, str]:
    found = judge(row, US, set(known), report, seen(answer, report.hash))
    return found.move.value, found.purpose if found.move is Move.SENT else str(found.sub_state)


SENT = Report(CustodyState.SENT, HASH)


@pytest.mark.case("K22")
@pytest.mark.parametrize(
    "change",
    [{"from": THEM}, {"to": THEM}, {"to": None}, {"value": "0x8"}, {"input": "0x"}, {"input": "0x0100"}],
)
def test_what_does_not_do_exactly_what_was_asked_is_no_success(change: dict[str, Any]) -> None:
    assert step(row(), SENT, shown(**change)) == ("alarm", "CUSTODY_ALTERED")


def test_what_does_is_ours_and_a_no_op_is_known_for_one() -> None:
    assert step(row(), SENT, shown()) == ("sent", "PAYLOAD")
    assert step(row(), SENT, shown(to=US, value="0x0", input="0x")) == ("sent", "NOOP")
    assert step(row(to=None), SENT, shown(to=None)) == ("sent", "PAYLOAD")
    assert step(row("BROADCASTING", nonce=5), SENT, shown(), (OTHER,)) == ("sent", "PAYLOAD")


def test_second_hash_with_another_nonce_may_be_a_second_execution() -> None:
    assert step(row("BROADCASTING", nonce=4), SENT, shown(), (OTHER,)) == ("alarm", "CUSTODY_ALTERED")


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"hash": HASH}, shown(hash=OTHER), shown(nonce=None), shown(value="7"), "0x", ValueError()],
)
def test_hash_that_no_node_shows_is_only_the_custodys_word(answer: Any) -> None:
    assert step(row(), SENT, answer) == ("wait", "CUSTODY_SENT")


@pytest.mark.case("K26")
def test_it_ends_only_when_the_custody_says_that_it_sent_nothing() -> None:
    ends = {state: step(row(), Report(state))[0] for state in CustodyState}
    assert {state for state, move in ends.items() if move == "end"} == {"REFUSED", "FAILED"}
    assert step(row(), Report(CustodyState.FAILED, HASH), shown()) == ("sent", "PAYLOAD"), "it reverted, say"
    assert step(row("BROADCASTING", nonce=5), Report(CustodyState.FAILED), None, (HASH,)) == (
        "wait",
        "CUSTODY_GAVE_UP",
    )


def test_nonce_used_otherwise_ends_it_only_together_with_the_custodys_word() -> None:
    lost = row("BROADCASTING", nonce=5, sub_state="NONCE_FOREIGN")
    assert step(lost, Report(CustodyState.FAILED), None, (HASH,))[0] == "end"
    assert step(lost, SENT, None, (HASH,)) == ("stop", "NONCE_FOREIGN")
    assert step(lost, Report(CustodyState.SENT, OTHER), shown(hash=OTHER), (HASH,)) == ("sent", "PAYLOAD")


def test_looks_come_a_minute_apart_at_last() -> None:
    assert [wait_seconds(looks) for looks in (0, 1, 2, 5, 6, 50)] == [1, 2, 4, 32, 60, 60]
