"""What people do to lanes and transactions: each act once, on record, and never a second execution."""

import pytest
from django.db import DatabaseError, connection

from signer import control, resync
from signer.errors import NotPossibleError
from signer.fees import Fees
from signer.models import Act, Attempt, Chain, Incident, Lane, Transaction
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Stage, send_as_stranger

WHO = {"actor": "anna", "reason": "because"}


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


# --- Lanes ------------------------------------------------------------------------------------------------


@pytest.mark.case("S81")
def test_paused_lane_gives_out_no_nonces_and_sees_through_what_has_one(manual: Stage) -> None:
    sent = manual.submit()
    manual.drain()
    control.pause_lane(manual.lane, **WHO)
    held_back = manual.submit()
    manual.drain()
    assert state(held_back) == ("QUEUED", "LANE_PAUSED")
    manual.mine()
    manual.watch()
    assert state(sent)[0] == "COMPLETED"
    control.resume_lane(manual.lane, **WHO)
    manual.drain()
    assert state(held_back)[0] == "BROADCASTING"
    assert list(Act.objects.order_by("at").values_list("verb", "actor")) == [
        ("pause", "anna"),
        ("resume", "anna"),
    ]


@pytest.mark.case("S81")
def test_pause_in_the_middle_of_a_batch_lets_no_nonce_out(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer import granting

    rows = [manual.submit() for _ in range(3)]

    def crashpoint(name: str) -> None:
        if name == "signer.signed":
            control.pause_lane(Lane.objects.get(), **WHO)

    monkeypatch.setattr(granting, "crashpoint", crashpoint)
    manual.drain()
    assert {state(row) for row in rows} == {("QUEUED", "LANE_PAUSED")}
    assert not Attempt.objects.exists()
    assert manual.pool() == {}


@pytest.mark.case("S76")
def test_draining_lane_is_paused_when_nothing_is_in_flight(manual: Stage) -> None:
    """Sixteen are; the first of them is replaced meanwhile, and a block takes what was replaced."""
    rows = [manual.submit() for _ in range(16)]
    manual.drain()
    assert manual.in_flight() == 16
    control.drain_lane(manual.lane, **WHO)
    behind = manual.submit()
    manual.later(700)
    manual.drain()
    old, _ = manual.attempts(rows[0].pk)
    assert manual.lane.state == "DRAINING"
    manual.rpc("anvil_dropAllTransactions")
    manual.rpc("eth_sendRawTransaction", "0x" + bytes(old.raw).hex())
    manual.mine()
    manual.watch()
    manual.later(61)
    manual.drain()
    assert (state(rows[0])[0], rows[0].winner) == ("COMPLETED", old)
    assert (manual.lane.state, manual.in_flight(), len(manual.pool())) == ("DRAINING", 15, 15)
    manual.mine()
    manual.watch()
    manual.drain()
    assert manual.lane.state == "PAUSED"
    assert manual.lane.state_reason == "drained: because (anna)"
    assert {state(row)[0] for row in rows} == {"COMPLETED"}
    assert state(behind)[0] == "QUEUED"


def test_clicked_twice_is_one_act(manual: Stage) -> None:
    manual.submit()
    control.pause_lane(manual.lane, **WHO)
    control.pause_lane(manual.lane, **WHO)
    assert Act.objects.count() == 1


def test_acts_cannot_be_altered(manual: Stage) -> None:
    manual.submit()
    control.pause_lane(manual.lane, **WHO)
    with pytest.raises(DatabaseError, match="append-only"):
        Act.objects.update(actor="somebody else")


# --- Transactions -----------------------------------------------------------------------------------------


@pytest.mark.case("S57")
def test_cancelled_before_its_nonce_costs_nothing(manual: Stage) -> None:
    row = manual.submit()
    control.cancel_transaction(row, **WHO)
    manual.drain()
    assert state(row)[0] == "CANCELLED"
    assert (row.nonce, manual.pool()) == (None, {})


@pytest.mark.case("S57")
def test_cancelled_in_the_pool_is_never_executed_when_the_noop_wins(manual: Stage) -> None:
    row, behind = manual.submit(), manual.submit()
    manual.drain()
    control.cancel_transaction(row, **WHO)
    control.cancel_transaction(row, **WHO)
    assert state(row) == ("BROADCASTING", "CANCELLING")
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(row)[0] == "CANCELLED"
    assert row.winner == manual.attempts(row.pk)[1]
    assert row.error["code"] == "TRANSACTION_CANCELLED"
    assert state(behind)[0] == "COMPLETED"
    received = manual.rpc("eth_getBalance", "0x" + "11" * 20, "latest")
    assert int(received, 16) == 1, "the second one's wei alone"


@pytest.mark.case("S56")
@pytest.mark.parametrize("noop_is_out", [True, False])
def test_cancellation_that_comes_too_late_is_said_to_have_lost(manual: Stage, noop_is_out: bool) -> None:
    """Its no-op is in the pools, and a block takes the original; or a block had that before a no-op was signed."""
    Chain.objects.update(confirmations=3)
    row = manual.submit()
    manual.drain()
    [original] = manual.attempts(row.pk)
    control.cancel_transaction(row, **WHO)
    if noop_is_out:
        manual.drain()
        noop = manual.attempts(row.pk)[1]
        assert (noop.purpose, noop.nonce, manual.pool()["0"]["hash"]) == ("NOOP", 0, noop.hash)
        manual.rpc("anvil_dropTransaction", noop.hash)
        manual.rpc("eth_sendRawTransaction", "0x" + bytes(original.raw).hex())
    manual.mine()
    manual.drain()
    manual.watch()
    assert state(row)[0] == "CONFIRMING"
    with pytest.raises(NotPossibleError, match="waits for confirmations only"):
        control.cancel_transaction(row, **WHO)
    manual.mine(2)
    manual.watch()
    assert state(row) == ("COMPLETED", "CANCEL_LOST")
    assert (row.winner, row.error, manual.balance(row.to)) == (original, None, 1)
    assert [attempt.purpose for attempt in manual.attempts(row.pk)] == ["PAYLOAD", "NOOP"][: 1 + noop_is_out]
    assert manual.lane.next_nonce == manual.mined_nonces() == 1
    assert list(Act.objects.values_list("verb", "actor")) == [("cancel", "anna")]
    with pytest.raises(NotPossibleError, match="it has ended"):
        control.cancel_transaction(row, **WHO)


def test_cancelled_while_a_worker_signs_it_uses_no_nonce(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer import granting

    row, other = manual.submit(), manual.submit()
    armed = [True]

    def crashpoint(name: str) -> None:
        if name == "signer.signed" and armed:
            armed.clear()
            control.cancel_transaction(row, **WHO)

    monkeypatch.setattr(granting, "crashpoint", crashpoint)
    manual.drain()
    manual.drain()
    assert state(row)[0] == "CANCELLED"
    assert state(other)[0] == "BROADCASTING"
    assert (row.nonce, other.nonce) == (None, 0)


def test_sped_up_with_an_offer_is_replaced_at_that_price(manual: Stage) -> None:
    rows = [manual.submit() for _ in range(2)]
    manual.drain()
    [first] = manual.attempts(rows[1].pk)
    least = Fees(first.max_fee_per_gas_wei * 9 // 8 + 1, first.max_priority_fee_per_gas_wei * 9 // 8 + 1)
    offer = Fees(least.max_fee_per_gas_wei * 2, least.max_priority_fee_per_gas_wei * 2)
    control.speed_up_transaction(rows[1], offer, **WHO)  # not the head: a person wants it
    manual.drain()
    second = manual.attempts(rows[1].pk)[-1]
    assert (second.max_fee_per_gas_wei, second.max_priority_fee_per_gas_wei) == (
        offer.max_fee_per_gas_wei,
        offer.max_priority_fee_per_gas_wei,
    )
    assert len(manual.attempts(rows[0].pk)) == 1
    manual.drain()
    assert len(manual.attempts(rows[1].pk)) == 2, "once"


def test_offer_that_a_node_or_the_ceiling_would_refuse_changes_nothing(manual: Stage) -> None:
    row = manual.submit()
    with pytest.raises(NotPossibleError, match="no nonce yet"):
        control.speed_up_transaction(row, **WHO)
    manual.drain()
    [first] = manual.attempts(row.pk)
    same = Fees(first.max_fee_per_gas_wei, first.max_priority_fee_per_gas_wei)
    with pytest.raises(NotPossibleError, match="takes no less than"):
        control.speed_up_transaction(row, same, **WHO)
    with pytest.raises(NotPossibleError, match="ceiling"):
        control.speed_up_transaction(row, Fees(10**13, 10**12), **WHO)
    with pytest.raises(NotPossibleError, match="carries no blobs"):
        control.speed_up_transaction(row, Fees(10**11, 10**10, 1), **WHO)
    row.refresh_from_db()
    assert row.speed_up is None
    assert not Act.objects.exists()


def test_forced_resend_sends_the_same_bytes(manual: Stage) -> None:
    rows = [manual.submit() for _ in range(3)]
    manual.drain()
    hashes = {entry["hash"] for entry in manual.pool().values()}
    manual.rpc("anvil_dropAllTransactions")
    assert control.resend_transactions(manual.lane, 0, 1, **WHO) == 2
    manual.drain()
    assert {entry["hash"] for entry in manual.pool().values()} < hashes
    assert len(manual.pool()) == 2
    assert [len(manual.attempts(row.pk)) for row in rows] == [1, 1, 1]


def test_higher_priority_is_given_its_nonce_first(manual: Stage) -> None:
    rows = [manual.submit(priority=priority) for priority in (0, 5, 0, 9)]
    manual.drain()
    nonces = []
    for row in rows:
        row.refresh_from_db()
        nonces.append(row.nonce)
    assert nonces == [2, 1, 3, 0]


# --- Nonces of others -------------------------------------------------------------------------------------


@pytest.fixture
def taken(manual: Stage, liar: LyingNode) -> Transaction:
    """A transaction whose nonce a stranger provably used; the lane is blocked."""
    row = manual.submit()
    liar.lose_requests, liar.only = True, {"eth_sendRawTransaction"}
    manual.drain()
    send_as_stranger(manual)
    manual.mine(20)
    liar.lose_requests = False
    manual.watch()
    manual.drain()
    assert state(row) == ("BROADCASTING", "NONCE_FOREIGN")
    assert manual.lane.state == "BLOCKED"
    assert Incident.objects.filter(kind="LANE_BLOCKED", closed_at=None).count() == 1
    return row


@pytest.mark.case("S29", "PC4")
def test_requeued_after_proof_is_executed_once_with_another_nonce(manual: Stage, taken: Transaction) -> None:
    control.requeue_transaction(taken, **WHO)
    control.resume_lane(manual.lane, **WHO)
    manual.drain()
    manual.mine()
    manual.watch()
    assert state(taken) == ("COMPLETED", "")
    assert taken.nonce == 1
    assert [(attempt.nonce, attempt.state) for attempt in manual.attempts(taken.pk)] == [
        (0, "VOID"),
        (1, "SENT"),
    ]
    assert int(manual.rpc("eth_getBalance", "0x" + "11" * 20, "latest"), 16) == 1
    assert not Incident.objects.filter(closed_at=None).exists()


@pytest.mark.case("S29")
def test_given_up_fails_and_the_lane_goes_on(manual: Stage, taken: Transaction) -> None:
    behind = manual.submit()
    control.give_up_transaction(taken, **WHO)
    control.resume_lane(manual.lane, **WHO)
    manual.drain()
    manual.mine()
    manual.watch()
    assert (state(taken)[0], taken.error["code"]) == ("FAILED", "NONCE_USED_BY_STRANGER")
    assert (state(behind)[0], behind.nonce) == ("COMPLETED", 1)


@pytest.mark.case("S29")
def test_nothing_is_requeued_without_proof(manual: Stage) -> None:
    row = manual.submit()
    manual.drain()
    with pytest.raises(NotPossibleError, match="not proved"):
        control.requeue_transaction(row, **WHO)
    with pytest.raises(NotPossibleError, match="not proved"):
        control.give_up_transaction(row, **WHO)
    # Not even by SQL: the row keeps its nonce while one of its attempts can be executed.
    with pytest.raises(DatabaseError, match="append-only"):
        Transaction.objects.filter(pk=row.pk).update(nonce=None, state="QUEUED")


@pytest.mark.case("S29", "S69", "PC4")
def test_chain_that_adopts_foreign_nonces_goes_on_by_itself(manual: Stage, liar: LyingNode) -> None:
    manual.chain.foreign_nonces = "ADOPT"
    manual.chain.save()
    row = manual.submit()
    liar.lose_requests, liar.only = True, {"eth_sendRawTransaction"}
    manual.drain()
    send_as_stranger(manual, 2)
    manual.mine(20)
    liar.lose_requests = False
    manual.watch()
    manual.drain()
    manual.mine()
    manual.watch()
    assert (state(row)[0], row.nonce) == ("COMPLETED", 2)
    assert Incident.objects.filter(kind="FOREIGN_NONCE").count() == 1
    assert int(manual.rpc("eth_getBalance", "0x" + "11" * 20, "latest"), 16) == 1


@pytest.mark.case("S80", "S82", "PC8")
def test_resync_shows_the_difference_first_and_acts_when_told(manual: Stage) -> None:
    manual.submit()
    manual.drain()
    manual.mine()
    manual.watch()
    send_as_stranger(manual, 3)
    manual.mine()
    waiting = manual.submit()
    manual.drain()
    assert manual.lane.state == "BLOCKED"
    found = resync.lane_difference(manual.lane)
    assert (found.next_nonce, found.proposed_next_nonce, found.is_in_step) == (1, 4, False)
    assert "another program signs with this key" in found.notes[0]
    assert manual.lane.next_nonce == 1, "nothing is changed by looking"
    resync.resync_lane(manual.lane, **WHO)
    manual.drain()
    manual.mine()
    manual.watch()
    assert (state(waiting)[0], waiting.nonce) == ("COMPLETED", 4)
    assert resync.lane_difference(manual.lane).is_in_step


@pytest.mark.case("S82", "S46")
def test_resync_never_goes_below_a_nonce_that_was_given(manual: Stage, liar: LyingNode) -> None:
    rows = [manual.submit() for _ in range(5)]
    manual.drain()
    manual.mine()
    manual.watch()
    # A node far behind says that nothing was ever sent.
    liar.lie = lambda call: {"result": "0x0"} if call["method"] == "eth_getTransactionCount" else None
    found = resync.resync_lane(manual.lane, **WHO)
    assert (found.chain_latest, found.proposed_next_nonce, manual.lane.next_nonce) == (0, 5, 5)
    assert {state(row)[0] for row in rows} == {"COMPLETED"}


# --- Room -------------------------------------------------------------------------------------------------


@pytest.mark.case("S38")
def test_delegated_address_has_one_in_flight(manual: Stage) -> None:
    manual.rpc("anvil_setCode", manual.key.address, "0xef0100" + "33" * 20)
    rows = [manual.submit(gas_limit=50_000) for _ in range(3)]
    manual.drain()
    assert manual.in_flight() == 1
    manual.mine()
    manual.watch()
    manual.drain()
    assert manual.in_flight() == 1
    assert [state(row)[0] for row in rows] == ["COMPLETED", "BROADCASTING", "QUEUED"]


@pytest.mark.case("S36")
@pytest.mark.parametrize("words", ["txpool is full", "account limit exceeded"])
def test_cap_is_halved_when_a_pool_is_full_and_grows_again(
    manual: Stage, liar: LyingNode, words: str
) -> None:
    manual.chain.max_in_flight_adaptive = 24
    manual.chain.save()
    from tests.integration.signer.lying_node import says

    for _ in range(60):
        manual.submit()
    liar.lie = says("eth_sendRawTransaction", words, times=3)
    manual.drain()
    assert manual.lane.in_flight_cap == 8
    assert manual.in_flight() == 16
    caps = []
    for _ in range(6):
        manual.later(61)
        manual.drain()
        manual.mine()
        manual.watch()
        manual.drain()
        caps.append(manual.lane.in_flight_cap)
    assert caps == sorted(caps)
    assert max(caps) <= 24
    assert caps[-1] > 16, "more than it began with, for the node took all of it"


def test_drain_of_a_full_lane_reads_no_more_rows_than_it_must(manual: Stage) -> None:
    """A thousand in flight cost a look no more than ten."""
    from django.test.utils import CaptureQueriesContext

    manual.chain.max_in_flight = 300
    manual.chain.save()
    for _ in range(300):
        manual.submit(gas_limit=21_000)
    manual.drain()
    assert manual.in_flight() == 300
    with CaptureQueriesContext(connection) as asked:
        manual.drain()
    assert len(asked) < 20


def test_settling_many_reads_no_row_by_itself(manual: Stage) -> None:
    """A column that was left in the database would be fetched again for each transaction."""
    from django.test.utils import CaptureQueriesContext

    manual.chain.max_in_flight = 100
    manual.chain.save()
    for _ in range(100):
        manual.submit(gas_limit=21_000)
    manual.drain()
    manual.mine()
    with CaptureQueriesContext(connection) as asked:
        manual.watch()
    assert not manual.in_flight()
    assert len(asked) < 50
