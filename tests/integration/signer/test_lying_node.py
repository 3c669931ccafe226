"""A node that loses requests, loses answers and tells untruths: nothing is executed twice, nothing is given up."""

from typing import Any

import pytest

from signer.models import Lane, Transaction
from signer.states import TransactionState
from tests.integration.signer.lying_node import Call, LyingNode, says
from tests.integration.signer.stage import Stage, wait

SEND = "eth_sendRawTransaction"
RECEIPT = "eth_getTransactionReceipt"


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


@pytest.mark.case("S25", "PC1")
def test_lost_answer_of_an_accepted_transaction_sends_nothing_second(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    liar.lose_answers, liar.only = True, {SEND}
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "POSSIBLY_SENT")
    assert liar.seen[SEND] == 1  # not sent again behind our back
    liar.lose_answers = False
    wait(monkeypatch, resend_seconds=0)
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert (attempt.state, set(liar.raw)) == ("SENT", {"0x" + bytes(attempt.raw).hex()})
    manual.mine()
    manual.watch()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 1


@pytest.mark.case("S26")
def test_lost_request_is_sent_again_with_the_same_bytes(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    liar.lose_requests, liar.only = True, {SEND}
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "POSSIBLY_SENT")
    [committed] = manual.attempts(row.pk)
    liar.lose_requests = False
    wait(monkeypatch, resend_seconds=0)
    manual.drain()
    assert manual.pool()["0"]["hash"] == committed.hash
    assert len(manual.attempts(row.pk)) == 1


@pytest.mark.case("S27")
@pytest.mark.parametrize(
    "words", ["already known", "AlreadyKnown", "Known transaction", "transaction already imported"]
)
def test_already_known_on_the_first_send_is_sent(manual: Stage, liar: LyingNode, words: str) -> None:
    row = manual.submit()
    liar.lie = says(SEND, words)
    manual.drain()
    assert manual.attempts(row.pk)[0].state == "SENT"
    assert state(row) == (TransactionState.BROADCASTING, "")


@pytest.mark.case("S30")
def test_nonce_too_low_while_receipts_fail_changes_nothing(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    manual.drain()
    manual.mine(20)
    liar.lie = says(RECEIPT, "internal error")
    manual.watch()
    manual.watch()
    assert state(row)[0] == TransactionState.BROADCASTING
    assert manual.lane.state == "ACTIVE"
    liar.lie = None
    manual.watch()
    assert state(row) == (TransactionState.COMPLETED, "")


def test_half_a_batch_of_receipts_settles_half(manual: Stage, liar: LyingNode) -> None:
    rows = [manual.submit() for _ in range(4)]
    manual.drain()
    manual.mine()
    hidden = {manual.attempts(row.pk)[0].hash for row in rows[:2]}

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] == RECEIPT and call["params"][0] in hidden:
            return {"error": {"code": -32005, "message": "limit exceeded"}}
        return None

    liar.lie = lie
    manual.watch()
    assert [state(row)[0] for row in rows] == ["BROADCASTING", "BROADCASTING", "COMPLETED", "COMPLETED"]
    liar.lie = None
    manual.watch()
    assert {state(row)[0] for row in rows} == {"COMPLETED"}


def test_receipt_of_another_transaction_proves_nothing(manual: Stage, liar: LyingNode) -> None:
    first, second = manual.submit(), manual.submit()
    manual.drain()
    manual.mine()
    wrong = manual.rpc(RECEIPT, manual.attempts(first.pk)[0].hash)
    liar.lie = lambda call: {"result": wrong} if call["method"] == RECEIPT else None
    manual.watch()
    assert (state(first)[0], state(second)[0]) == (TransactionState.COMPLETED, TransactionState.BROADCASTING)


def test_receipt_in_a_block_that_is_not_on_the_chain_proves_nothing(manual: Stage, liar: LyingNode) -> None:
    row = manual.submit()
    manual.drain()
    manual.mine()
    receipt = manual.rpc(RECEIPT, manual.attempts(row.pk)[0].hash)
    forged = {**receipt, "blockHash": "0x" + "ab" * 32}
    liar.lie = lambda call: {"result": forged} if call["method"] == RECEIPT else None
    manual.watch()
    assert state(row)[0] == TransactionState.BROADCASTING


@pytest.mark.case("S49")
def test_lane_signs_nothing_for_another_chain(manual: Stage, liar: LyingNode) -> None:
    row = manual.submit()
    liar.lie = lambda call: {"result": "0x1"} if call["method"] == "eth_chainId" else None
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    assert liar.seen[SEND] == 0


def test_silent_node_keeps_everything_queued(manual: Stage, liar: LyingNode) -> None:
    row = manual.submit()
    liar.lose_requests = True
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "NODE_UNAVAILABLE")
    liar.lose_requests = False
    manual.drain()
    assert state(row)[0] == TransactionState.BROADCASTING


@pytest.mark.case("S42")
def test_refused_for_good_ends_failed_only_when_the_noop_is_mined(manual: Stage, liar: LyingNode) -> None:
    row, behind = manual.submit(), manual.submit()
    liar.lie = says(SEND, "execution reverted: nonce too low", times=1)
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "NODE_REFUSED")
    refused, noop = manual.attempts(row.pk)
    assert (refused.state, noop.purpose, noop.nonce) == ("REJECTED", "NOOP", 0)
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.FAILED
    assert row.error == {"code": "TRANSACTION_REFUSED", "message": "nonce too low"}
    assert state(behind)[0] == TransactionState.COMPLETED


@pytest.mark.case("S33", "S34")
@pytest.mark.parametrize("words", ["transaction underpriced", "max fee per gas less than block base fee"])
def test_underpriced_is_quoted_anew_at_the_same_nonce(manual: Stage, liar: LyingNode, words: str) -> None:
    row = manual.submit()
    liar.lie = says(SEND, words, times=1)
    manual.drain()
    first, second = manual.attempts(row.pk)
    assert (second.nonce, second.state) == (first.nonce, "SENT")
    assert second.max_fee_per_gas_wei * 8 >= first.max_fee_per_gas_wei * 9


@pytest.mark.case("S36")
def test_full_pool_keeps_the_bytes(manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch) -> None:
    row = manual.submit()
    liar.lie = says(SEND, "txpool is full", times=1)
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "NODE_FULL")
    wait(monkeypatch, resend_seconds=0)
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    assert len(manual.attempts(row.pk)) == 1


@pytest.mark.case("S29", "S69")
def test_nonce_used_by_a_stranger_stops_the_lane_and_executes_nothing_again(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    liar.lose_requests, liar.only = True, {SEND}
    manual.drain()
    manual.rpc("anvil_impersonateAccount", manual.key.address)
    manual.rpc("eth_sendTransaction", {"from": manual.key.address, "to": "0x" + "22" * 20, "value": "0x1"})
    manual.mine()
    liar.lose_requests = False
    manual.watch()
    assert state(row)[0] == TransactionState.BROADCASTING  # one block deep proves nothing yet
    assert row.sub_state != "NONCE_FOREIGN"
    manual.mine(20)
    manual.watch()
    assert state(row) == (TransactionState.BROADCASTING, "NONCE_FOREIGN")
    waiting = manual.submit()
    manual.drain()
    assert state(waiting) == (TransactionState.QUEUED, "LANE_BLOCKED")
    lane = Lane.objects.get()
    assert lane.state == "BLOCKED"
    assert "nonce 0" in lane.blocked_reason


@pytest.mark.case("S80")
def test_chain_ahead_of_the_database_stops_the_lane(manual: Stage) -> None:
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    manual.rpc("anvil_impersonateAccount", manual.key.address)
    manual.rpc("eth_sendTransaction", {"from": manual.key.address, "to": "0x" + "22" * 20, "value": "0x1"})
    manual.mine()
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "LANE_BLOCKED")
    assert "nonce 1" in manual.lane.blocked_reason


def test_address_that_others_are_sending_from_is_not_used(manual: Stage) -> None:
    manual.rpc("anvil_impersonateAccount", manual.key.address)
    manual.rpc("eth_sendTransaction", {"from": manual.key.address, "to": "0x" + "22" * 20, "value": "0x1"})
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "LANE_BLOCKED")
