"""A node that loses requests, loses answers and tells untruths: nothing is executed twice, nothing is given up."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import F

from signer import sweeping
from signer.models import Attempt, Chain, Lane, Transaction
from signer.states import TransactionState
from tests.integration.signer.endpoints import open_incidents
from tests.integration.signer.lying_node import Call, LyingNode, says
from tests.integration.signer.stage import Crash, Stage, crash_at, wait

SEND = "eth_sendRawTransaction"
RECEIPT = "eth_getTransactionReceipt"


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def executed_once(manual: Stage, row: Transaction) -> None:
    manual.mine()
    manual.watch()
    assert state(row) == (TransactionState.COMPLETED, "")
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 1


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
    executed_once(manual, row)


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
    executed_once(manual, row)


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
@pytest.mark.parametrize("trouble", ["an error", "not found", "half of a receipt", "no answer"])
def test_nonce_too_low_while_receipts_fail_changes_nothing(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """So deep that it would be called a stranger's, where strangers' nonces are adopted, if an error were an answer."""
    Chain.objects.update(foreign_nonces="ADOPT")
    row = manual.submit()
    with monkeypatch.context() as death, suppress(Crash):
        crash_at(death, "signer.sent")
        manual.drain()
    manual.mine(20)
    wait(monkeypatch, resend_seconds=0)
    asked = {RECEIPT, "eth_getBlockReceipts"}
    told = {
        "an error": {"error": {"code": -32603, "message": "internal error"}},
        "not found": {"error": {"code": -32000, "message": "transaction indexing is in progress"}},
        "half of a receipt": {"result": {"transactionHash": manual.attempts(row.pk)[0].hash}},
    }
    if trouble in told:
        liar.lie = lambda call: told[trouble] if call["method"] in asked else None
    else:
        liar.lose_requests, liar.only = True, asked
    monkeypatch.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
    for _ in range(2):
        manual.drain()
        manual.watch()
        [attempt] = manual.attempts(row.pk)
        assert (attempt.state, attempt.last_error) == ("SIGNED", "NONCE_LOW"), "the node said so"
        assert (*state(row), row.nonce, row.winner_id) == (
            TransactionState.BROADCASTING,
            "NONCE_USED",
            0,
            None,
        )
        assert (manual.lane.state, manual.lane.next_nonce, open_incidents()) == ("ACTIVE", 1, [])
    liar.lie, liar.lose_requests = None, False
    manual.watch()
    assert (*state(row), row.winner) == (TransactionState.COMPLETED, "", attempt)
    assert (manual.balance(row.to), manual.mined_nonces()) == (1, 1)


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
    executed_once(manual, row)
    assert row.winner == second


@pytest.mark.case("S36")
@pytest.mark.parametrize("words", ["txpool is full", "account limit exceeded"])
def test_full_pool_keeps_the_bytes(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    row = manual.submit()
    liar.lie = says(SEND, words, times=1)
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "NODE_FULL")
    wait(monkeypatch, resend_seconds=0)
    manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "")
    assert len(manual.attempts(row.pk)) == 1
    executed_once(manual, row)


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
    assert "nonce 0" in lane.state_reason


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
    assert "nonce 1" in manual.lane.state_reason


class Backup:
    """What the signer and keyguard had in the database, to be put back as a restored server would have it."""

    def __init__(self) -> None:
        with connection.cursor() as cursor:
            names = connection.introspection.table_names(cursor)
            self.tables = [name for name in names if name.startswith(("signer_", "keyguard_"))]
            for name in self.tables:
                cursor.execute(f"CREATE TEMPORARY TABLE was_{name} AS SELECT * FROM {name}")

    def restore(self, *, minutes: int) -> None:
        """Put it back; restoring takes so long."""
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")  # no triggers, no foreign keys
            for name in self.tables:
                cursor.execute(f"DELETE FROM {name}; INSERT INTO {name} SELECT * FROM was_{name}")
            cursor.execute("SET session_replication_role = DEFAULT")
        Lane.objects.update(looked_at=F("looked_at") - timedelta(minutes=minutes))


@pytest.mark.case("S80")
def test_database_restored_from_before_what_the_pool_holds_sends_nothing_twice(manual: Stage) -> None:
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    first = manual.submit()
    backup = Backup()
    manual.drain()
    assert list(manual.pool()) == ["1"]
    backup.restore(minutes=2)
    urgent = manual.submit(priority=9)
    manual.drain()
    assert [state(row) for row in (first, urgent)] == [(TransactionState.QUEUED, "LANE_BLOCKED")] * 2
    assert "pool holds nonce 1" in manual.lane.state_reason
    manual.mine()
    assert int(manual.rpc("eth_getTransactionCount", manual.key.address, "latest"), 16) == 2
    assert int(manual.rpc("eth_getBalance", "0x" + "11" * 20, "latest"), 16) == 2, "none of them twice"


def test_address_that_others_are_sending_from_is_not_used(manual: Stage) -> None:
    manual.rpc("anvil_impersonateAccount", manual.key.address)
    manual.rpc("eth_sendTransaction", {"from": manual.key.address, "to": "0x" + "22" * 20, "value": "0x1"})
    row = manual.submit()
    manual.drain()
    assert state(row) == (TransactionState.QUEUED, "LANE_BLOCKED")


@pytest.mark.parametrize("why", ["the node fell silent", "the worker died"])
def test_sweep_finds_a_refused_transaction_whose_noop_is_not_committed(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    row = manual.submit()
    refuse = says(SEND, "intrinsic gas too low", times=1)

    def lie(call: Call) -> dict[str, Any] | None:
        answer = refuse(call)
        liar.lose_requests = liar.lose_requests or (answer is not None and why == "the node fell silent")
        return answer

    def die(*_: Any) -> None:
        raise Crash

    liar.lie = lie
    with monkeypatch.context() as death:
        if why == "the worker died":
            death.setattr("signer.replacing.replace", die)
        with suppress(Crash):
            manual.drain()
    liar.lose_requests = False
    assert state(row) == (TransactionState.BROADCASTING, "NODE_REFUSED")
    assert [attempt.state for attempt in manual.attempts(row.pk)] == ["REJECTED"]
    rung: list[object] = []
    monkeypatch.setattr(sweeping, "ring_lane", lambda lane_id, *_: rung.append(lane_id))
    Lane.objects.update(looked_at="2020-01-01T00:00:00Z")
    Attempt.objects.update(created_at="2020-01-01T00:00:00Z", last_sent_at="2020-01-01T00:00:00Z")
    sweeping.sweep()
    assert rung == [manual.lane.pk]
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row)[0] == TransactionState.FAILED


@pytest.mark.parametrize("winner", ["noop", "payload"])
def test_replacement_refused_for_good_gives_its_nonce_to_a_noop(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, winner: str
) -> None:
    """The node forgot the first attempt; or another node has not, and mines it."""
    row, behind = manual.submit(), manual.submit()
    manual.drain()
    manual.rpc("anvil_dropAllTransactions")
    liar.lie = says(SEND, "execution reverted: not now")
    with monkeypatch.context() as patience:
        wait(patience, resend_seconds=0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        manual.drain()
        assert state(row) == (TransactionState.BROADCASTING, "REFUSED_AGAIN")
        wait(patience, resend_seconds=60, bump_after_seconds=0)
        manual.drain()
    assert state(row) == (TransactionState.BROADCASTING, "NODE_REFUSED")
    liar.lie = None
    wait(monkeypatch, resend_seconds=0)
    if winner == "payload":
        manual.rpc("eth_sendRawTransaction", "0x" + bytes(manual.attempts(row.pk)[0].raw).hex())
        manual.mine()
    manual.drain()
    manual.mine()
    manual.watch()
    expected = TransactionState.FAILED if winner == "noop" else TransactionState.COMPLETED
    assert (state(row)[0], (row.error is None)) == (expected, winner == "payload")
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(behind)[0] == TransactionState.COMPLETED


def test_estimate_that_is_not_understood_holds_up_no_other(
    manual: Stage, liar: LyingNode, caplog: pytest.LogCaptureFixture
) -> None:
    Chain.objects.update(max_in_flight=2)
    unclear = [manual.submit(to="0x" + "22" * 20) for _ in range(3)]  # more than a drain looks at in one go
    behind = manual.submit()

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] != "eth_estimateGas" or not call["params"][0]["to"].endswith("22"):
            return None
        return {"error": {"code": -32015, "message": "Transaction execution error."}}

    liar.lie = lie
    manual.drain()
    assert state(behind) == (TransactionState.BROADCASTING, "")
    assert {state(row) for row in unclear} == {(TransactionState.QUEUED, "ESTIMATE_UNCLEAR")}
    assert "Transaction execution error." in caplog.text
    liar.lie = None
    manual.drain()
    assert state(unclear[0])[0] == TransactionState.BROADCASTING
