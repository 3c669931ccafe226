"""Keys whose custody gives the nonces, offers the fees and sends: one request each, one execution, whatever dies."""

import time
from datetime import timedelta

import pytest
from django.contrib.auth import get_user_model
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone

from keyguard import custodians, handing_over
from keyguard.models import HandOver, Key
from signer import control, lanes, resync, sweeping
from signer.custody import asking
from signer.errors import EnvelopeUnsupportedError, NotPossibleError
from signer.models import Attempt, Chain, Incident, Lane, Transaction
from signer.sentences import why
from tests.integration.signer.custody_server import CustodyServer, HttpCustodian
from tests.integration.signer.stage import Crash, Stage, crash_at

WHO = {"actor": "anna", "reason": "because"}
FAST = 0.3  # seconds that a custody is given, where it is to miss them


def lane() -> Lane:
    return Lane.objects.get(in_custody=True)


def drain() -> None:
    lanes.drain(lane().pk)


def look() -> None:
    """Ask the custody about everything now, whenever it would be due."""
    Transaction.objects.filter(look_at__isnull=False).update(look_at=Now())
    drain()


def state(row: Transaction) -> tuple[str, str]:
    row.refresh_from_db()
    return row.state, row.sub_state


def crash(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """Have the lane's worker die at the point, and another take over."""
    crash_at(monkeypatch, point)
    with pytest.raises(Crash):
        drain()
    Lane.objects.update(lease_until=None)
    look()


@pytest.fixture
def counting(stage: Stage, custody: CustodyServer) -> Stage:
    """A stage with the counter contract."""
    stage.deploy_counter()
    return stage


def test_call_is_executed_by_the_custody_with_its_own_nonce_and_fee(
    counting: Stage, custody: CustodyServer
) -> None:
    rows = [counting.record(each, sender="vault") for each in (7, 8)]
    drain()
    look()
    assert {state(row)[0] for row in rows} == {"BROADCASTING"}
    counting.settle()
    for nonce, row in enumerate(rows):
        row.refresh_from_db()
        assert (row.state, row.nonce, row.error) == ("COMPLETED", nonce, None)
        assert row.winner is not None
        assert (bytes(row.winner.raw), row.winner.send_count) == (b"", 0), "its bytes are the custody's"
        assert row.winner.max_fee_per_gas_wei == 4_000_000_000
    assert (counting.counted(7), counting.counted(8)) == (1, 1)
    assert lane().next_nonce is None, "no nonce is given out here"
    assert custody.seen["submit"] == 2
    assert set(HandOver.objects.values_list("state", flat=True)) == {"SENT"}


@pytest.mark.case("K24", "S74")
@pytest.mark.sqlite_too
def test_worker_that_dies_on_either_side_of_the_custody_leads_to_one_request(
    counting: Stage, custody: CustodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ["signer.planned", "signer.handing_over", "signer.handed_over", "signer.custody_sent"]
    rows = []
    for number, point in enumerate(points, start=1):
        rows.append(counting.record(number, sender="vault"))
        crash(monkeypatch, point)
        look()
        assert (len(custody.requests), custody.seen["submit"]) == (number, number), point
    counting.settle()
    assert [state(row) for row in rows] == [("COMPLETED", "")] * 4
    assert [counting.counted(number) for number in range(1, 5)] == [1] * 4
    assert Attempt.objects.filter(transaction__in=rows).count() == 4


@pytest.mark.case("K24", "S74")
def test_lost_reply_is_found_by_the_external_id(counting: Stage, custody: CustodyServer) -> None:
    custody.lose_replies = 1
    taken = counting.record(7, sender="vault")
    drain()
    assert state(taken) == ("SIGNING", "CUSTODY_SILENT")
    look()
    assert state(taken)[0] == "BROADCASTING"
    assert (custody.seen["submit"], custody.seen["find"]) == (1, 1), "it is looked up, not asked for again"
    custody.lose_requests = 1
    unread = counting.record(8, sender="vault")
    drain()
    assert state(unread) == ("SIGNING", "CUSTODY_SILENT")
    look()
    assert custody.seen["submit"] == 2, "it may still be on its way"
    HandOver.objects.update(asked_at=Now() - handing_over.ASKING)
    look()
    assert list(custody.requests) == [str(taken.pk), str(unread.pk)]
    counting.settle()
    assert (state(taken)[0], state(unread)[0]) == ("COMPLETED", "COMPLETED")
    assert (counting.counted(7), counting.counted(8)) == (1, 1)


# --- The custody takes its time -----------------------------------------------------------------------------


@pytest.mark.case("K25")
def test_what_its_people_have_to_approve_holds_up_nothing_behind_it(
    counting: Stage, custody: CustodyServer
) -> None:
    custody.hold = True
    held = counting.record(7, sender="vault")
    drain()
    assert state(held) == ("SIGNING", "AWAITING_APPROVAL")
    assert why(held) == "waits for the custody's own people, who must approve it there"
    custody.hold = False
    behind = counting.record(8, sender="vault")
    drain()
    counting.watch()
    assert state(behind)[0] == "COMPLETED"
    assert state(held)[0] == "SIGNING"
    custody.approve(held.pk)
    look()
    counting.settle()
    assert (state(held)[0], held.nonce) == ("COMPLETED", 1)
    assert (custody.seen["submit"], counting.counted(7)) == (2, 1)


def test_looks_come_further_apart_while_nothing_is_new_and_the_sweep_rings_when_one_is_due(
    stage: Stage, custody: CustodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[object] = []
    monkeypatch.setattr(sweeping, "ring_lane", rung.append)
    custody.keep = True
    row = stage.submit(sender="vault")
    waits = []
    drain()
    for _ in range(8):
        row.refresh_from_db()
        assert row.look_at is not None
        waits.append(round((row.look_at - timezone.now()).total_seconds()))
        look()
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert state(row) == ("SIGNING", "WITH_CUSTODY")
    sweeping.custody_lanes()
    assert rung == []
    Transaction.objects.update(look_at=timezone.now() - timedelta(seconds=1))
    sweeping.custody_lanes()
    assert rung == [lane().pk]


def test_custody_that_gives_no_answer_keeps_a_worker_for_one_question(
    stage: Stage, custody: CustodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "CALL_SECONDS", FAST)
    custody.delay = 1.0
    rows = [stage.submit(sender="vault") for _ in range(5)]
    began = time.monotonic()
    drain()
    late = stage.submit(sender="vault")
    drain()
    assert time.monotonic() - began < 2 * FAST + 0.5
    assert sum(custody.seen.values()) == 1, "the others wait, and what comes new waits with them"
    assert {state(row) for row in rows[1:]} == {("SIGNING", "HANDING_OVER")}
    assert state(late) == ("SIGNING", "HANDING_OVER")
    custody.delay = 0
    look()
    stage.settle()
    assert [state(row)[0] for row in [*rows, late]] == ["COMPLETED"] * 6
    assert len(custody.requests) == 6


# --- It ends otherwise --------------------------------------------------------------------------------------


@pytest.mark.case("K26")
def test_refusal_ends_it_with_the_custodys_reason(stage: Stage, custody: CustodyServer) -> None:
    custody.refuse = "this address is not on the list"
    refused = stage.submit(sender="vault")
    drain()
    assert state(refused)[0] == "FAILED"
    assert refused.error == {"code": "CUSTODY_REFUSED", "message": "this address is not on the list"}
    custody.refuse, custody.hold = "", True
    rejected = stage.submit(sender="vault")
    drain()
    custody.reject(rejected.pk)
    look()
    assert state(rejected)[0] == "FAILED"
    assert (rejected.error or {})["message"] == "not this month"
    assert not Attempt.objects.exists()


def test_what_would_revert_or_cannot_be_paid_is_not_handed_over(
    counting: Stage, custody: CustodyServer
) -> None:
    with pytest.raises(EnvelopeUnsupportedError):
        counting.submit(sender="vault", envelope="legacy")
    data = counting.counter.encode("record", 7)
    would_revert = counting.submit(sender="vault", to=counting.counter.address, data=data, value=1)
    drain()
    assert (state(would_revert)[0], (would_revert.error or {})["code"]) == (
        "FAILED",
        "TRANSACTION_WOULD_REVERT",
    )
    custody.keep = True
    half = counting.submit(sender="vault", value=6 * 10**23)
    drain()
    assert state(half) == ("SIGNING", "WITH_CUSTODY")
    beyond = counting.submit(sender="vault", value=6 * 10**23)
    drain()
    assert state(beyond) == ("QUEUED", "INSUFFICIENT_FUNDS"), "what the custody has counts as spent"
    Key.objects.filter(alias="vault").update(state="SUSPENDED")
    control.cancel_transaction(beyond, **WHO)
    suspended = counting.submit(sender="vault")
    drain()
    assert state(suspended) == ("QUEUED", "SIGNER_UNAVAILABLE")
    assert len(custody.requests) == 1


def test_custody_that_forgets_a_request_is_not_asked_for_it_again(
    counting: Stage, custody: CustodyServer
) -> None:
    custody.keep = True
    row = counting.record(7, sender="vault")
    drain()
    custody.forget = True
    look()
    assert state(row) == ("SIGNING", "CUSTODY_FORGOT")
    assert (lane().state, custody.seen["submit"]) == ("BLOCKED", 1)
    custody.forget = False
    custody.send(str(row.pk))
    look()
    counting.settle()
    assert (state(row)[0], counting.counted(7)) == ("COMPLETED", 1)


# --- It sends otherwise -------------------------------------------------------------------------------------


def test_hash_that_the_custody_replaced_by_itself_is_followed(
    counting: Stage, custody: CustodyServer
) -> None:
    counting.rpc("evm_setAutomine", False)
    for number, is_noticed in enumerate((True, False), start=1):
        row = counting.record(number, sender="vault")
        drain()
        assert state(row) == ("BROADCASTING", "")
        custody.replace(row.pk)
        if is_noticed:
            look()
        counting.mine()
        counting.watch()
        if not is_noticed:
            assert state(row)[0] == "BROADCASTING", "the nonce is used, no hash that is known is in a block"
            look()
        counting.settle()
        first, second = counting.attempts(row.pk)
        assert (state(row)[0], row.winner_id) == ("COMPLETED", second.pk)
        assert first.nonce == second.nonce
        assert counting.counted(number) == 1


@pytest.mark.case("K22")
def test_custody_that_sends_something_else_is_an_incident_and_no_success(
    stage: Stage, custody: CustodyServer
) -> None:
    custody.keep = True
    twin = stage.submit(sender="vault")
    drain()
    custody.keep, custody.alter = False, {"value": 5}
    row = stage.submit(sender="vault")
    drain()
    stage.watch()
    assert state(row) == ("SIGNING", "CUSTODY_ALTERED")
    assert lane().state == "BLOCKED"
    assert set(Incident.objects.values_list("kind", flat=True)) == {"LANE_BLOCKED", "CUSTODY_ALTERED"}
    behind = stage.submit(sender="vault")
    drain()
    assert state(behind) == ("QUEUED", "LANE_BLOCKED")
    control.give_up_transaction(row, **WHO)
    assert state(row)[0] == "FAILED"
    assert (row.error or {})["code"] == "CUSTODY_SENT_SOMETHING_ELSE"
    control.resume_lane(lane(), **WHO)
    custody.alter = {}
    drain()
    stage.watch()
    assert state(behind)[0] == "COMPLETED"
    # One hash for two of ours: what was executed once is not taken for both.
    custody.requests[str(twin.pk)].hashes = custody.requests[str(behind.pk)].hashes
    look()
    assert state(twin) == ("SIGNING", "CUSTODY_ALTERED")


def test_dropped_by_the_custodys_people_fails_when_the_no_op_is_mined(
    counting: Stage, custody: CustodyServer
) -> None:
    counting.rpc("evm_setAutomine", False)
    row = counting.record(7, sender="vault")
    drain()
    custody.drop(row.pk)
    look()
    assert state(row)[0] == "BROADCASTING"
    counting.mine()
    counting.watch()
    assert (state(row)[0], (row.error or {})["code"]) == ("FAILED", "CUSTODY_DROPPED")
    assert counting.counted(7) == 0


def test_nonce_that_the_custody_took_back_is_the_next_ones(counting: Stage, custody: CustodyServer) -> None:
    counting.rpc("evm_setAutomine", False)
    lost = counting.record(7, sender="vault")
    drain()
    custody.lose_from_pool(lost.pk)
    look()
    assert state(lost) == ("BROADCASTING", "CUSTODY_GAVE_UP")
    following = counting.record(8, sender="vault")
    drain()
    assert state(following) == ("SIGNING", "CUSTODY_SENT"), "its nonce is still the other's"
    counting.mine(20)
    counting.watch()
    assert state(lost) == ("BROADCASTING", "NONCE_FOREIGN")
    look()
    assert (state(lost)[0], lost.nonce, (lost.error or {})["code"]) == ("FAILED", None, "CUSTODY_FAILED")
    look()
    counting.settle()
    assert (state(following)[0], following.nonce) == ("COMPLETED", 0)
    assert (counting.counted(7), counting.counted(8), lane().state) == (0, 1, "ACTIVE")


@pytest.mark.case("S62")
def test_reorganisation_leads_back_to_the_custody(counting: Stage, custody: CustodyServer) -> None:
    counting.rpc("evm_setAutomine", False)
    Chain.objects.update(confirmations=3)
    row = counting.record(7, sender="vault")
    drain()
    counting.mine()
    counting.watch()
    assert state(row)[0] == "CONFIRMING"
    counting.rpc("anvil_reorg", 1, [])
    counting.mine()
    counting.watch()
    assert state(row) == ("BROADCASTING", "REORGED")
    custody.replace(row.pk)
    look()
    assert state(row) == ("BROADCASTING", "")
    counting.mine(3)
    counting.settle()
    assert (state(row)[0], counting.counted(7)) == ("COMPLETED", 1)


# --- What people do -----------------------------------------------------------------------------------------


@pytest.mark.case("K25")
def test_called_off_by_a_person_or_by_its_time(
    stage: Stage, custody: CustodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    custody.hold = True
    unasked = stage.submit(sender="vault")
    crash_at(monkeypatch, "signer.handing_over")
    with pytest.raises(Crash):
        drain()
    Lane.objects.update(lease_until=None)
    control.cancel_transaction(unasked, **WHO)
    drain()
    assert state(unasked)[0] == "CANCELLED"
    assert not custody.seen, "it is not handed over only to be taken back"
    row = stage.submit(sender="vault")
    drain()
    control.cancel_transaction(row, **WHO)
    assert state(row) == ("SIGNING", "CALLING_OFF")
    drain()
    assert (state(row)[0], (row.error or {})["code"]) == ("CANCELLED", "TRANSACTION_CANCELLED")
    assert custody.requests[str(row.pk)].status == "CANCELLED"
    late = stage.submit(sender="vault", valid_until=timezone.now() + timedelta(seconds=60))
    drain()
    Transaction.objects.filter(pk=late.pk).update(valid_until=timezone.now() - timedelta(seconds=60))
    drain()
    assert (state(late)[0], (late.error or {})["code"]) == ("EXPIRED", "TRANSACTION_EXPIRED")
    assert custody.seen["cancel"] == 2


def test_cancelled_too_late_it_is_executed_and_says_so(
    counting: Stage, custody: CustodyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    custody.hold = True
    row = counting.record(7, sender="vault", valid_until=timezone.now() + timedelta(seconds=60))
    drain()
    with monkeypatch.context() as patched:
        patched.setitem(custodians.CUSTODIANS, "custody", lambda: HttpCustodian(custody, can_cancel=False))
        with pytest.raises(NotPossibleError, match="takes nothing back"):
            control.cancel_transaction(row, **WHO)
        Transaction.objects.filter(pk=row.pk).update(valid_until=timezone.now() - timedelta(seconds=60))
        look()
    assert state(row) == ("SIGNING", "AWAITING_APPROVAL"), "its end is for the custody to say"
    Transaction.objects.filter(pk=row.pk).update(valid_until=None)
    custody.approve(row.pk)
    control.cancel_transaction(row, **WHO)
    look()
    with pytest.raises(NotPossibleError, match="only the custody can replace it"):
        control.cancel_transaction(row, **WHO)
    counting.settle()
    assert state(row) == ("COMPLETED", "CANCEL_LOST")
    assert counting.counted(7) == 1


@pytest.mark.filterwarnings("ignore:No directory at:UserWarning")
def test_acts_on_nonces_and_bytes_say_that_they_are_the_custodys(
    stage: Stage, custody: CustodyServer
) -> None:
    stage.rpc("evm_setAutomine", False)
    custody.hold = True
    row = stage.submit(sender="vault")
    drain()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("anna"))
    page = client.get(f"/admin/signer/transaction/{row.pk}/change/").content.decode()
    assert "given by the custody" in page
    assert "must approve it there" in page
    assert "given by the custody" in client.get("/admin/signer/lane/").content.decode()
    custody.approve(row.pk)
    look()
    page = client.get(f"/admin/signer/transaction/{row.pk}/change/").content.decode()
    assert "sent by the custody with nonce 0" in page
    assert "by the custody, seen" in page
    for act in (
        lambda: control.speed_up_transaction(row, **WHO),
        lambda: control.requeue_transaction(row, **WHO),
        lambda: control.resend_transactions(lane(), 0, 5, **WHO),
        lambda: resync.lane_difference(lane()),
        lambda: resync.resync_lane(lane(), **WHO),
    ):
        with pytest.raises(NotPossibleError, match="the custody of this address"):
            act()


def test_pausing_and_draining_hold_back_what_the_custody_does_not_have(
    stage: Stage, custody: CustodyServer
) -> None:
    custody.hold = True
    held = stage.submit(sender="vault")
    drain()
    control.drain_lane(lane(), **WHO)
    behind = stage.submit(sender="vault")
    drain()
    assert state(behind) == ("QUEUED", "LANE_PAUSED")
    assert lane().state == "DRAINING", "the custody may send what it has at any moment"
    custody.approve(held.pk)
    look()
    stage.watch()
    drain()
    assert (state(held)[0], lane().state) == ("COMPLETED", "PAUSED")


def test_nonce_used_by_what_the_custody_does_not_name_waits_for_a_person(
    stage: Stage, custody: CustodyServer
) -> None:
    stage.rpc("evm_setAutomine", False)
    row = stage.submit(sender="vault")
    drain()
    sent = custody.requests[str(row.pk)]
    custody.drop(row.pk)
    sent.hashes = sent.hashes[:1]
    stage.mine(20)
    stage.watch()
    drain()
    assert state(row) == ("BROADCASTING", "NONCE_FOREIGN")
    assert lane().state == "BLOCKED"
    control.give_up_transaction(row, **WHO)
    assert (state(row)[0], row.nonce) == ("FAILED", None), (
        "the custody may have given the nonce to the next one"
    )
    assert [attempt.state for attempt in stage.attempts(row.pk)] == ["VOID"]
