"""From a request to a receipt, and every way in which a worker may die on it. The chain counts."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

import keyguard
from dalp.local.servers import AnvilServer
from keyguard.errors import Disposition, KeyguardError
from signer import queue
from signer.lanes import drain
from signer.models import Attempt, Chain, Lane, Transaction
from signer.states import TransactionState
from tests.integration.signer.lying_node import LyingNode
from tests.integration.signer.stage import Crash, Stage, crash_at, wait
from tests.threads import at_once
from workflows import Claim, release


class BackendAwayError(KeyguardError):
    """What a key in a service of its own may raise at any moment."""

    code = "KEYGUARD_TEST"
    disposition = Disposition.RETRY


def nonces() -> list[int | None]:
    return list(Transaction.objects.order_by("created_at").values_list("nonce", flat=True))


def test_transaction_is_executed_and_its_receipt_is_kept(stage: Stage) -> None:
    row = stage.submit()
    stage.settle()
    row.refresh_from_db()
    assert (row.state, row.sub_state, row.nonce) == (TransactionState.COMPLETED, "", 0)
    assert row.winner is not None
    assert row.winner.state == "SENT"
    assert row.winner.receipt is not None
    assert row.block_hash == row.winner.receipt["blockHash"]


def test_batch_gets_nonces_in_the_order_of_submission(stage: Stage) -> None:
    stage.deploy_counter()
    rows = [stage.record(n) for n in range(40)]
    stage.settle()
    for expected, row in enumerate(rows, start=1):
        row.refresh_from_db()
        assert (row.nonce, row.state) == (expected, TransactionState.COMPLETED)
    assert [stage.counted(n) for n in range(40)] == [1] * 40


def require_full(manual: Stage, in_flight: int) -> None:
    """Drain, and find so many in flight and the others waiting for room; then have a block take what it can, and drain."""
    manual.drain()
    assert manual.in_flight() == in_flight
    waiting = Transaction.objects.filter(nonce__isnull=True).values_list("state", "sub_state")
    assert set(waiting) == {(TransactionState.QUEUED, "LANE_FULL")}
    manual.mine()
    manual.watch()
    manual.drain()


def test_no_more_than_the_cap_is_in_flight(manual: Stage) -> None:
    for _ in range(20):
        manual.submit()
    require_full(manual, 16)
    manual.mine()
    manual.watch()
    assert sorted(n for n in nonces() if n is not None) == list(range(20))


def test_no_more_than_two_blocks_of_gas_is_in_flight(
    fresh_db: str, start_anvil: Callable[..., AnvilServer]
) -> None:
    """Nodes drop what queues far beyond a block; with less, each second block would be half empty."""
    manual = Stage(start_anvil(gas_limit=70_000, extra=["--no-mining"]))
    for _ in range(10):
        manual.submit(gas_limit=21_000)
    require_full(manual, 6)
    assert sorted(n for n in nonces() if n is not None) == list(range(9))


@pytest.mark.case("S3", "S2")
@pytest.mark.parametrize("point", ["signer.prepared", "signer.signed"])
def test_death_before_the_commit_sends_nothing_and_wastes_no_nonce(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    rows = [manual.submit() for _ in range(3)]
    crash_at(monkeypatch, point)
    with pytest.raises(Crash):
        manual.drain()
    assert manual.pool() == {}
    assert not Attempt.objects.exists()
    manual.drain()
    assert nonces() == [0, 1, 2]
    manual.mine()
    manual.settle()
    assert {Transaction.objects.get(pk=row.pk).state for row in rows} == {"COMPLETED"}


@pytest.fixture
def batches_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a whole batch is sent, the next is prepared."""
    monkeypatch.setattr("signer.granting.BATCH_SIZE", 2)


@pytest.mark.usefixtures("batches_of_two")
def test_batches_sent_while_the_next_is_prepared_come_in_the_order_of_their_nonces(
    manual: Stage, liar: LyingNode
) -> None:
    rows = [manual.submit() for _ in range(7)]
    manual.drain()
    assert liar.raw == [f"0x{bytes(attempt.raw).hex()}" for attempt in Attempt.objects.order_by("nonce")], (
        "each once, in order"
    )
    assert sorted(manual.pool(), key=int) == [str(nonce) for nonce in range(7)]
    assert {(a.state, a.send_count) for a in Attempt.objects.all()} == {("SENT", 1)}
    manual.mine()
    manual.settle()
    assert {Transaction.objects.get(pk=row.pk).state for row in rows} == {"COMPLETED"}


@pytest.mark.usefixtures("batches_of_two")
@pytest.mark.case("S4", "S5")
@pytest.mark.parametrize("point", ["signer.attempts_committed", "signer.sent"])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_death_with_a_batch_under_way_sends_each_once(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, point: str, batch: int
) -> None:
    rows = [manual.submit() for _ in range(5)]
    crash_at(monkeypatch, point, passed=batch)
    with pytest.raises(Crash):
        manual.drain()
    manual.drain()
    assert nonces() == [0, 1, 2, 3, 4]
    manual.mine()
    manual.settle()
    assert {Transaction.objects.get(pk=row.pk).state for row in rows} == {"COMPLETED"}
    assert {attempt.seq for attempt in Attempt.objects.all()} == {0}
    assert manual.rpc("eth_getTransactionCount", manual.key.address, "latest") == hex(5)


@pytest.mark.usefixtures("batches_of_two")
def test_answers_lost_of_a_batch_under_way_are_made_good(manual: Stage, liar: LyingNode) -> None:
    for _ in range(5):
        manual.submit()
    liar.only, liar.lose_answers = {"eth_sendRawTransaction"}, True
    manual.drain()
    assert {attempt.state for attempt in Attempt.objects.all()} == {"SIGNED"}
    liar.lose_answers = False
    manual.later(10)
    manual.drain()
    assert {attempt.state for attempt in Attempt.objects.all()} == {"SENT"}
    manual.mine()
    manual.settle()
    assert manual.rpc("eth_getTransactionCount", manual.key.address, "latest") == hex(5)


@pytest.mark.case("S10")
def test_death_in_the_middle_of_the_commit_leaves_all_or_nothing(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        manual.submit()
    crash_at(monkeypatch, "signer.attempts_inserted")
    with pytest.raises(Crash):
        manual.drain()
    assert not Attempt.objects.exists()
    assert manual.lane.next_nonce is None
    manual.drain()
    assert nonces() == [0, 1, 2, 3, 4]


@pytest.mark.case("S4")
def test_death_after_the_commit_sends_the_committed_bytes(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    crash_at(monkeypatch, "signer.attempts_committed")
    with pytest.raises(Crash):
        manual.drain()
    assert manual.pool() == {}
    [committed] = manual.attempts(row.pk)
    manual.rpc("anvil_setNextBlockBaseFeePerGas", hex(3 * 10**9))  # another price now: the bytes stay
    manual.drain()
    assert manual.pool()["0"]["hash"] == committed.hash
    assert len(manual.attempts(row.pk)) == 1


@pytest.mark.case("S11")
@pytest.mark.parametrize("percent", [50, 1000])
def test_restart_with_other_fees_configured_sends_the_committed_bytes_first(
    manual: Stage, liar: LyingNode, monkeypatch: pytest.MonkeyPatch, percent: int
) -> None:
    """The ceiling is now half of what was offered, or ten times as much, and nobody is patient any more."""
    row = manual.submit()
    crash_at(monkeypatch, "signer.attempts_committed")
    with pytest.raises(Crash):
        manual.drain()
    [committed] = manual.attempts(row.pk)
    ceiling = committed.max_fee_per_gas_wei * percent // 100
    Chain.objects.update(max_fee_per_gas_wei=ceiling, ceiling_percent=113)
    wait(monkeypatch, bump_after_seconds=0)
    manual.drain()
    assert liar.raw[0] == "0x" + bytes(committed.raw).hex()
    assert manual.attempts(row.pk)[0].state == "SENT"
    manual.mine()
    manual.watch()
    row.refresh_from_db()
    assert (row.state, row.nonce) == ("COMPLETED", 0)


@pytest.mark.case("S74")
@pytest.mark.parametrize("is_signed", [False, True])
def test_key_that_fails_for_a_moment_skips_and_doubles_no_nonce(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, is_signed: bool
) -> None:
    """In the middle of a batch whose nonces are chosen. is_signed: only the answer is lost."""
    stage.deploy_counter()
    rows = [stage.record(number) for number in range(4)]
    sign = keyguard.sign_transactions
    third = stage.counter.encode("record", 2)
    left = [4]  # the batch and it alone, in each of two rounds

    def failing(requests: Sequence[keyguard.SigningRequest]) -> list[keyguard.SignedTransaction]:
        if left[0] == 0 or all(each.transaction["data"] != third for each in requests):
            return sign(requests)
        left[0] -= 1
        if is_signed:
            sign(requests)
        raise BackendAwayError("the key's backend does not answer")

    monkeypatch.setattr("keyguard.sign_transactions", failing)
    stage.drain()
    waiting = Transaction.objects.filter(pk__in=[row.pk for row in rows[2:]])
    assert set(waiting.values_list("state", "sub_state", "nonce")) == {("QUEUED", "SIGNER_UNAVAILABLE", None)}
    assert (stage.lane.next_nonce, left) == (3, [0])
    stage.settle()
    assert nonces() == [0, 1, 2, 3, 4]
    assert [stage.counted(number) for number in range(4)] == [1] * 4
    assert Attempt.objects.count() == 5


@pytest.mark.case("S5", "S27")
def test_death_after_the_send_finds_the_bytes_known(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    row = manual.submit()
    crash_at(monkeypatch, "signer.sent")
    with pytest.raises(Crash):
        manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert (attempt.state, attempt.send_count) == ("SIGNED", 0)
    assert manual.pool()["0"]["hash"] == attempt.hash
    manual.drain()
    [attempt] = manual.attempts(row.pk)
    assert (attempt.state, attempt.last_error) == ("SENT", "")


@pytest.mark.case("S28")
def test_nonce_too_low_of_our_own_mined_transaction_completes_it(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = manual.submit()
    crash_at(monkeypatch, "signer.sent")
    with pytest.raises(Crash):
        manual.drain()
    manual.mine()
    manual.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state) == (TransactionState.BROADCASTING, "NONCE_USED")
    manual.watch()
    row.refresh_from_db()
    assert (row.state, row.nonce) == (TransactionState.COMPLETED, 0)


@pytest.mark.case("S13")
def test_lane_drained_ten_times_at_once_gives_each_nonce_once(stage: Stage) -> None:
    stage.deploy_counter()
    for n in range(12):
        stage.record(n)
    lane_id = stage.lane.pk
    at_once(10, lambda _: drain(lane_id))
    stage.settle()
    assert sorted(n for n in nonces() if n is not None) == list(range(13))
    assert [stage.counted(n) for n in range(12)] == [1] * 12
    assert Attempt.objects.count() == 13


@pytest.mark.case("S14")
def test_worker_that_lost_its_lane_writes_nothing(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane changes hands while the first worker holds signed transactions in memory."""
    from signer import granting

    row = manual.submit()
    armed = [True]

    def crashpoint(name: str) -> None:
        if name == "signer.signed" and armed:
            armed.clear()
            # What a lease that ran out looks like to the next worker.
            Lane.objects.update(lease_until=None)
            queue.client().flushall()
            drain(manual.lane.pk)

    monkeypatch.setattr(granting, "crashpoint", crashpoint)
    manual.drain()
    assert not armed
    [attempt] = manual.attempts(row.pk)
    assert attempt.epoch == manual.lane.epoch == 2
    assert manual.pool()["0"]["hash"] == attempt.hash
    assert manual.lane.next_nonce == 1


@pytest.mark.case("S16")
def test_signer_works_without_redis(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "client", lambda: queue.connect("redis://127.0.0.1:1/0"))
    row = stage.submit()
    stage.settle()
    row.refresh_from_db()
    assert (row.state, row.nonce) == (TransactionState.COMPLETED, 0)


def test_dead_worker_leaves_its_lane_to_the_next_after_the_lease(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    manual.submit()
    lane_id = manual.lane.pk
    Lane.objects.filter(pk=lane_id).update(lease_until="2999-01-01T00:00:00Z", epoch=7)
    manual.drain()
    assert manual.in_flight() == 0
    Lane.objects.filter(pk=lane_id).update(lease_until="2000-01-01T00:00:00Z")
    manual.drain()
    assert manual.in_flight() == 1
    assert manual.lane.epoch == 8


def test_wake_up_that_finds_the_lane_owned_is_not_lost(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction comes when the owner has looked for the last time and has not let go yet."""
    late: list[Transaction] = []

    manual.submit()

    def releasing(held: Claim[Any], **updates: Any) -> None:
        if not late:
            late.append(manual.submit())
            drain(manual.lane.pk)  # its wake-up: finds the lane owned
            assert manual.in_flight() == 1
        release(held, **updates)

    monkeypatch.setattr("signer.lanes.release", releasing)
    manual.drain()
    assert manual.in_flight() == 2


def test_room_that_appears_while_the_lane_is_owned_is_used(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(17):
        manual.submit()
    once = [True]

    def releasing(held: Claim[Any], **updates: Any) -> None:
        if once:
            once.clear()
            manual.mine()
            manual.watch()  # its wake-up for the lane is lost: the lane is owned
        release(held, **updates)

    monkeypatch.setattr("signer.lanes.release", releasing)
    manual.drain()
    assert manual.lane.next_nonce == 17


@pytest.mark.case("S14")
def test_watcher_that_lost_its_lease_settles_nothing(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db.models import F

    from signer import watching
    from signer.models import Chain

    row = manual.submit()
    manual.drain()
    manual.mine()

    def crashpoint(name: str) -> None:
        if name == "signer.receipts_read":
            Chain.objects.update(epoch=F("epoch") + 1)

    with monkeypatch.context() as frozen:
        frozen.setattr(watching, "crashpoint", crashpoint)
        manual.watch()
    row.refresh_from_db()
    assert row.state == TransactionState.BROADCASTING
    assert row.winner is None
    Chain.objects.update(lease_until=None)
    manual.watch()
    row.refresh_from_db()
    assert row.state == TransactionState.COMPLETED


def test_signed_bytes_and_nonces_cannot_be_altered(stage: Stage) -> None:
    from django.db import DatabaseError

    row = stage.submit()
    stage.settle()
    changes: list[Callable[[], Any]] = [
        lambda: Attempt.objects.update(raw=b"other"),
        lambda: Attempt.objects.update(hash="0x" + "00" * 32),
        lambda: Attempt.objects.all()._raw_delete("default"),
        lambda: Transaction.objects.filter(pk=row.pk).update(nonce=5),
        lambda: Transaction.objects.filter(pk=row.pk).update(value=5),
        lambda: Transaction.objects.filter(pk=row.pk)._raw_delete("default"),
    ]
    for change in changes:
        with pytest.raises(DatabaseError, match="append-only"):
            change()
