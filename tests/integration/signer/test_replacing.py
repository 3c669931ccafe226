"""Higher fees and no-ops at the same nonce: any attempt may win, and only the head is raised."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.utils import timezone

from signer.fees import DEFAULT_TIP_WEI
from signer.models import Attempt, Chain, Transaction
from signer.states import TransactionState
from tests.integration.signer.lying_node import SEND, Call, LyingNode, says
from tests.integration.signer.stage import Crash, Stage, crash_at, wait


def state(row: Transaction) -> str:
    row.refresh_from_db()
    return row.state


@pytest.mark.case("S58")
def test_only_the_head_is_bumped(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    Chain.objects.update(max_in_flight=32)
    rows = [manual.submit() for _ in range(20)]
    manual.drain()
    assert len(manual.pool()) == 20
    wait(monkeypatch, bump_after_seconds=0)
    monkeypatch.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
    manual.drain()
    assert [len(manual.attempts(row.pk)) for row in rows] == [2] + [1] * 19
    first, second = manual.attempts(rows[0].pk)
    # What geth asks for; anvil would take one wei more.
    assert second.max_fee_per_gas_wei * 100 >= first.max_fee_per_gas_wei * 110
    assert second.max_priority_fee_per_gas_wei * 100 >= first.max_priority_fee_per_gas_wei * 110
    assert manual.pool()["0"]["hash"] == second.hash
    manual.mine()
    manual.watch()
    assert {state(row) for row in rows} == {"COMPLETED"}


@pytest.fixture
def bumped(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> Transaction:
    """A transaction with two attempts, the second one in the pool."""
    row = manual.submit()
    manual.drain()
    with monkeypatch.context() as patience:
        wait(patience, bump_after_seconds=0)
        patience.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
        manual.drain()
    assert len(manual.attempts(row.pk)) == 2
    return row


@pytest.mark.case("S55")
def test_older_attempt_may_win(manual: Stage, bumped: Transaction) -> None:
    old, new = manual.attempts(bumped.pk)
    manual.rpc("anvil_dropTransaction", new.hash)
    manual.rpc("eth_sendRawTransaction", "0x" + bytes(old.raw).hex())
    manual.mine()
    manual.watch()
    assert state(bumped) == TransactionState.COMPLETED
    assert bumped.winner == old


def test_newer_attempt_may_win(manual: Stage, bumped: Transaction) -> None:
    manual.mine()
    manual.watch()
    assert state(bumped) == TransactionState.COMPLETED
    assert bumped.winner == manual.attempts(bumped.pk)[1]


@pytest.mark.case("S6", "S7")
@pytest.mark.parametrize("point", ["signer.bump_committed", "signer.bump_sent"])
def test_death_around_the_send_of_a_bump_keeps_both_hashes(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    row = manual.submit()
    manual.drain()
    with monkeypatch.context() as patience:
        wait(patience, bump_after_seconds=0)
        crash_at(patience, point)
        with pytest.raises(Crash):
            manual.drain()
    _, bump = manual.attempts(row.pk)
    manual.drain()
    assert manual.pool()["0"]["hash"] == bump.hash
    assert [attempt.state for attempt in manual.attempts(row.pk)] == ["SENT", "SENT"]
    manual.mine()
    manual.watch()
    assert state(row) == TransactionState.COMPLETED
    assert row.winner == bump


@pytest.mark.case("S53")
def test_at_the_ceiling_the_same_bytes_are_sent_again(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    row = manual.submit()
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    Chain.objects.update(max_fee_per_gas_wei=attempt.max_fee_per_gas_wei)
    wait(monkeypatch, bump_after_seconds=0, resend_seconds=0)
    manual.rpc("anvil_dropTransaction", attempt.hash)
    manual.drain()
    row.refresh_from_db()
    assert row.sub_state == "FEE_CAPPED"
    assert len(manual.attempts(row.pk)) == 1
    assert manual.pool()["0"]["hash"] == attempt.hash


@pytest.mark.case("S32")
@pytest.mark.parametrize("words", ["replacement transaction underpriced", "could not replace existing tx"])
@pytest.mark.parametrize("winner", [0, 1, 2])
def test_refused_replacement_is_raised_again_and_any_of_the_hashes_may_win(
    manual: Stage, liar: LyingNode, words: str, winner: int
) -> None:
    """The pool of the node may hold any of them: what it says of one proves nothing about the others."""
    row = manual.submit()
    manual.drain()
    liar.lie = says(SEND, words, times=1)
    manual.later(31)  # so late that it is raised, and not yet that it is sent again
    manual.drain()
    attempts = manual.attempts(row.pk)
    assert [(attempt.nonce, attempt.state) for attempt in attempts] == [
        (0, "SENT"),
        (0, "SIGNED"),
        (0, "SENT"),
    ]
    assert attempts[1].last_error == "UNDERPRICED_REPLACEMENT"
    for old, new in pairwise(attempts):
        assert new.max_fee_per_gas_wei * 8 >= old.max_fee_per_gas_wei * 9
        assert new.max_priority_fee_per_gas_wei * 8 >= old.max_priority_fee_per_gas_wei * 9
    manual.rpc("anvil_dropTransaction", attempts[2].hash)
    manual.rpc(SEND, "0x" + bytes(attempts[winner].raw).hex())
    manual.mine()
    manual.watch()
    assert state(row) == TransactionState.COMPLETED
    assert row.winner == attempts[winner]


@pytest.mark.case("S37")
def test_what_may_not_push_out_a_pending_one_waits_for_the_head(manual: Stage, liar: LyingNode) -> None:
    """A full pool takes nothing from far above the head: the same bytes are sent again, later and at the same price."""
    head, behind = manual.submit(), manual.submit()
    is_full = [True]

    def lie(call: Call) -> dict[str, Any] | None:
        if call["method"] != SEND or not is_full or bytes.fromhex(call["params"][0][2:]) != raw_of(behind):
            return None
        return {"error": {"code": -32000, "message": "future transaction tries to replace pending"}}

    def raw_of(row: Transaction) -> bytes:
        return bytes(manual.attempts(row.pk)[0].raw)

    liar.lie = lie
    manual.drain()
    manual.drain()
    assert (state(behind), behind.sub_state, list(manual.pool())) == ("BROADCASTING", "NODE_FULL", ["0"])
    assert manual.attempts(behind.pk)[0].send_count == 1, "asked again at once, it would say the same"
    manual.mine()
    manual.watch()
    assert state(head) == TransactionState.COMPLETED
    is_full.clear()
    manual.later(61)
    manual.drain()
    [attempt] = manual.attempts(behind.pk)
    assert (state(behind), behind.sub_state, attempt.state) == ("BROADCASTING", "", "SENT")
    manual.mine()
    manual.watch()
    assert state(behind) == TransactionState.COMPLETED


@pytest.mark.case("S47")
def test_forgotten_by_the_node_is_sent_again(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [manual.submit() for _ in range(3)]
    manual.drain()
    hashes = [manual.attempts(row.pk)[0].hash for row in rows]
    for transaction_hash in hashes:
        manual.rpc("anvil_dropTransaction", transaction_hash)
    assert manual.pool() == {}
    manual.drain()
    assert manual.pool() == {}  # not before its time
    wait(monkeypatch, bump_after_seconds=10**6)
    manual.later(61)
    manual.drain()
    assert [entry["hash"] for entry in manual.pool().values()] == hashes


@pytest.mark.case("S70")
def test_lowest_that_its_node_dropped_is_sent_again_below_fifteen(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch, bump_after_seconds=10**6)
    rows = [manual.submit() for _ in range(16)]
    manual.drain()
    lowest, *above = [manual.attempts(row.pk)[0].hash for row in rows]
    manual.rpc("anvil_dropTransaction", lowest)
    manual.mine()
    manual.watch()
    assert {state(row) for row in rows} == {"BROADCASTING"}, "none can be mined without it"
    manual.later(61)
    manual.drain()
    assert manual.pool()["0"]["hash"] == lowest
    manual.mine()
    manual.watch()
    assert {state(row) for row in rows} == {"COMPLETED"}
    assert [manual.attempts(row.pk)[0].hash for row in rows] == [lowest, *above]
    assert Attempt.objects.count() == 16, "nothing else was made for its nonce"


@pytest.mark.case("S61")
def test_expired_before_its_nonce_uses_none(manual: Stage) -> None:
    row = manual.submit(valid_until=timezone.now() + timedelta(seconds=0.1))
    Transaction.objects.filter(pk=row.pk).update(valid_until=timezone.now() - timedelta(seconds=1))
    manual.drain()
    assert state(row) == TransactionState.EXPIRED
    assert row.nonce is None
    assert manual.pool() == {}


@pytest.mark.case("S61")
@pytest.mark.parametrize("winner", ["noop", "payload"])
def test_expired_with_a_nonce_is_what_the_chain_says(manual: Stage, winner: str) -> None:
    row = manual.submit(valid_until=timezone.now() + timedelta(hours=1))
    manual.drain()
    Transaction.objects.filter(pk=row.pk).update(valid_until=timezone.now() - timedelta(seconds=1))
    manual.drain()
    assert state(row) == TransactionState.BROADCASTING
    assert row.sub_state == "EXPIRING"
    payload, noop = manual.attempts(row.pk)
    assert noop.purpose == "NOOP"
    if winner == "payload":
        manual.rpc("anvil_dropTransaction", noop.hash)
        manual.rpc("eth_sendRawTransaction", "0x" + bytes(payload.raw).hex())
    manual.mine()
    manual.watch()
    expected = TransactionState.EXPIRED if winner == "noop" else TransactionState.COMPLETED
    assert (state(row), row.winner) == (expected, noop if winner == "noop" else payload)
    assert (row.error is None) == (winner == "payload")


@pytest.mark.parametrize("expires", [False, True])
def test_offered_the_default_tip_is_replaced_where_others_tip_little(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, expires: bool
) -> None:
    """The first offer was made before there was a market to learn from."""
    row = manual.submit(valid_until=timezone.now() + timedelta(hours=1) if expires else None)
    manual.drain()
    assert manual.attempts(row.pk)[0].max_priority_fee_per_gas_wei == DEFAULT_TIP_WEI
    history = {"baseFeePerGas": [hex(7)] * 2, "reward": [["0x1", "0x1", "0x1"]]}
    liar.lie = lambda call: {"result": history} if call["method"] == "eth_feeHistory" else None
    monkeypatch.setattr("signer.lanes.Drain.run", lambda self, deadline, lock: self._round())
    if expires:
        Transaction.objects.update(valid_until=timezone.now() - timedelta(seconds=1))
    else:
        wait(monkeypatch, bump_after_seconds=0)
    manual.drain()
    purposes = [(attempt.purpose, attempt.state) for attempt in manual.attempts(row.pk)]
    assert purposes == [("PAYLOAD", "SENT"), ("NOOP" if expires else "PAYLOAD", "SENT")]
