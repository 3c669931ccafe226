"""Taking a transaction on: once per key, whoever asks, however often."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.utils import timezone

from signer import IdempotencyConflictError, UnknownChainError, lanes, queue, submit_transaction
from signer.models import Transaction
from signer.requests import TransactionRequest
from signer.sweeping import sweep
from tests.api.callers import Caller
from tests.integration.signer.stage import Stage
from tests.threads import at_once


def request(**fields: object) -> TransactionRequest:
    return TransactionRequest.model_validate(
        {"chain_id": 31337, "sender": "sender", "to": "0x" + "11" * 20, "value": 1, **fields}
    )


@pytest.mark.case("S20")
def test_fifty_at_once_with_one_key_are_one_transaction(manual: Stage) -> None:
    found = at_once(50, lambda _: submit_transaction(request(), idempotency_key="one"))
    assert len(found) == 50
    assert len({row.pk for row, _ in found}) == 1
    assert [created for _, created in found].count(True) == 1
    manual.drain()
    assert manual.lane.next_nonce == 1


@pytest.mark.case("S21")
def test_same_key_with_another_request_is_refused_and_names_the_first(manual: Stage) -> None:
    first, created = submit_transaction(request(), idempotency_key="one")
    assert created
    with pytest.raises(IdempotencyConflictError) as refused:
        submit_transaction(request(value=2), idempotency_key="one")
    assert refused.value.first_id == str(first.pk)
    assert str(first.pk) in refused.value.message
    assert submit_transaction(request(), idempotency_key="one") == (first, False)
    assert Transaction.objects.count() == 1


def test_scopes_keep_their_keys_apart(manual: Stage) -> None:
    first, _ = submit_transaction(request(), idempotency_key="one", scope="a")
    second, _ = submit_transaction(request(value=2), idempotency_key="one", scope="b")
    assert first.pk != second.pk


def test_unknown_chain_and_unknown_key_are_refused(manual: Stage) -> None:
    from keyguard import KeyNotFoundError

    with pytest.raises(UnknownChainError):
        submit_transaction(request(chain_id=5), idempotency_key="one")
    with pytest.raises(KeyNotFoundError):
        submit_transaction(request(sender="nobody"), idempotency_key="one")
    assert not Transaction.objects.exists()


@pytest.mark.case("S1")
def test_sweep_finds_what_nobody_was_woken_for(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process died between the commit and the wake-up: neither Redis nor the broker knows of it."""
    monkeypatch.setattr("signer.submission.queue_after_commit", lambda *_: None)
    manual.submit()
    rung: list[object] = []
    monkeypatch.setattr("signer.ringing._ring", lambda target, task, argument, *_: rung.append(argument))
    sweep()
    assert rung == [str(manual.lane.pk)]
    assert queue.waiting(manual.lane.pk) == 1


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
def test_sweep_does_not_believe_the_clock_of_the_submitter(
    manual: Stage, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    row = manual.submit()
    queue.heard(f"lane:{manual.lane.pk}")
    Transaction.objects.filter(pk=row.pk).update(created_at=timezone.now() + ahead)
    rung: list[object] = []
    monkeypatch.setattr("signer.ringing._ring", lambda target, task, argument, *_: rung.append(argument))
    sweep()
    assert rung == [str(manual.lane.pk)]


def test_sweep_rights_the_count_of_what_waits(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signer.ringing._ring", lambda *_: None)
    gone = uuid4()
    queue.push({manual.submit().lane_id: [(gone, 1.0)]})
    assert queue.waiting(manual.lane.pk) == 2
    sweep()
    assert queue.waiting(manual.lane.pk) == 1


def test_what_ended_without_a_nonce_waits_no_longer_in_redis(stage: Stage) -> None:
    stage.deploy_counter()
    refused = stage.submit(to=stage.counter.address, value=1, data="0xdeadbeef")
    late = stage.submit(valid_until=timezone.now() + timedelta(hours=1))
    Transaction.objects.filter(pk=late.pk).update(valid_until=timezone.now() - timedelta(seconds=1))
    assert queue.waiting(stage.lane.pk) == 2
    stage.settle()
    states = Transaction.objects.filter(pk__in=[refused.pk, late.pk]).order_by("created_at")
    assert list(states.values_list("state", flat=True)) == ["FAILED", "EXPIRED"]
    assert queue.waiting(stage.lane.pk) == 0


@pytest.mark.case("S1", "S4")
def test_sweep_finds_unsent_bytes_and_unwatched_chains(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signer.models import Attempt, Lane
    from tests.integration.signer.stage import Crash, crash_at

    manual.submit()
    crash_at(monkeypatch, "signer.attempts_committed")
    with pytest.raises(Crash):
        manual.drain()
    queue.client().flushall()
    rung: list[object] = []
    monkeypatch.setattr("signer.ringing._ring", lambda target, task, argument, *_: rung.append(argument))
    Attempt.objects.update(created_at="2020-01-01T00:00:00Z")
    Lane.objects.update(looked_at="2020-01-01T00:00:00Z")
    sweep()
    assert set(rung) == {str(manual.lane.pk), 31337}


def test_one_broken_rule_does_not_stop_the_sweep(manual: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from signer import sweeping

    called: list[str] = []

    def broken() -> None:
        raise ValueError("a row that nobody foresaw")

    for rule in ("waiting_lanes", "unsent_lanes"):
        monkeypatch.setattr(sweeping, rule, broken)
    monkeypatch.setattr(sweeping, "watched_chains", lambda: called.append("watched"))
    sweep()
    assert called == ["watched"]


@pytest.mark.case("S72", "S73")
def test_what_can_never_be_executed_uses_no_nonce(stage: Stage) -> None:
    stage.deploy_counter()
    stage.submit(
        to=stage.counter.address, value=0, data=stage.counter.encode("refuse", 7, True), gas_limit=100_000
    )
    stage.settle()
    before = stage.lane.next_nonce
    reverting = stage.record(7, gas_limit=None)
    too_big = stage.submit(gas_limit=10**12)
    fine = stage.submit()
    stage.settle()
    for row in (reverting, too_big, fine):
        row.refresh_from_db()
    assert (reverting.state, reverting.nonce) == ("FAILED", None)
    assert reverting.error == {"code": "TRANSACTION_WOULD_REVERT", "message": "request refused"}
    assert (too_big.state, too_big.nonce) == ("FAILED", None)
    assert (fine.state, fine.nonce) == ("COMPLETED", before)


@pytest.mark.case("S73")
@pytest.mark.parametrize("gas_limit", [None, 5_000_000])
def test_what_is_too_long_is_refused_clearly_and_uses_no_nonce(stage: Stage, gas_limit: int | None) -> None:
    """Call data at the submission, by what every node takes; a contract's code before the nonce, by what a chain takes."""
    body = {"chain_id": 31337, "from": "sender", "to": "0x" + "11" * 20, "gas_limit": gas_limit}
    answer = Caller("operator").post("/transactions", {**body, "data": "0x" + "00" * (128 * 1024 + 1)})
    assert (answer.status_code, answer.json()["code"]) == (422, "API_INVALID_INPUT")
    assert answer.json()["errors"] == {"data": ["Value error, more than 127 KiB, which no node takes"]}
    assert not Transaction.objects.exists()

    too_long, fine = (
        stage.submit(to=None, value=0, data="0x" + "00" * n, gas_limit=gas_limit) for n in (49_153, 49_152)
    )
    behind = stage.submit(data="0x" + "00" * 127 * 1024, gas_limit=gas_limit)
    stage.settle()
    for row in (too_long, fine, behind):
        row.refresh_from_db()
    assert (too_long.state, too_long.nonce, stage.attempts(too_long.pk)) == ("FAILED", None, [])
    assert too_long.error is not None
    if gas_limit is None:
        assert too_long.error == {"code": "TRANSACTION_WOULD_FAIL", "message": "max initcode size exceeded"}
    else:
        assert too_long.error["code"] == "KEYGUARD_DATA_TOO_LARGE"
        assert "48 KiB" in too_long.error["message"]
    assert [(row.state, row.nonce) for row in (fine, behind)] == [("COMPLETED", 0), ("COMPLETED", 1)]


@pytest.mark.case("S35")
def test_what_cannot_be_paid_waits_for_money(stage: Stage) -> None:
    stage.rpc("anvil_setBalance", stage.key.address, hex(10**15))
    row = stage.submit(value=10**15, gas_limit=21_000)
    stage.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state) == ("QUEUED", "INSUFFICIENT_FUNDS")
    stage.rpc("anvil_setBalance", stage.key.address, hex(10**18))
    stage.settle()
    row.refresh_from_db()
    assert row.state == "COMPLETED"


def test_refusal_of_the_key_fails_that_transaction_only(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keyguard
    from keyguard.errors import FloorError

    sign = keyguard.sign_transactions
    rows = [stage.submit(value=value) for value in (1, 13, 2)]

    class RefusedError(FloorError):
        code = "KEYGUARD_TEST"

    def refusing(requests: list[keyguard.SigningRequest]) -> list[keyguard.SignedTransaction]:
        if any(each.transaction["value"] == 13 for each in requests):
            raise RefusedError("value")
        return sign(requests)

    monkeypatch.setattr("keyguard.sign_transactions", refusing, raising=False)
    stage.settle()
    for row in rows:
        row.refresh_from_db()
    assert [(row.state, row.nonce) for row in rows] == [("COMPLETED", 0), ("FAILED", None), ("COMPLETED", 1)]
    assert rows[1].error is not None
    assert rows[1].error["code"] == "KEYGUARD_TEST"


def test_suspended_key_keeps_its_transactions_waiting(stage: Stage) -> None:
    from keyguard.models import Key

    row = stage.submit()
    Key.objects.update(state="SUSPENDED")
    stage.drain()
    row.refresh_from_db()
    assert (row.state, row.sub_state) == ("QUEUED", "SIGNER_UNAVAILABLE")
    Key.objects.update(state="ACTIVE")
    stage.settle()
    row.refresh_from_db()
    assert row.state == "COMPLETED"


def test_wake_up_for_what_was_seen_to_already_costs_one_look(manual: Stage) -> None:
    """Where much is submitted, the drain before often had what the message came for."""
    manual.submit()
    lanes.drain(manual.lane.pk, only_new=True)
    assert manual.in_flight() == 1
    epoch = manual.lane.epoch
    assert lanes.drain(manual.lane.pk, only_new=True) is False
    manual.lane.refresh_from_db()
    assert manual.lane.epoch == epoch
    manual.submit()
    lanes.drain(manual.lane.pk, only_new=True)
    assert manual.in_flight() == 2
