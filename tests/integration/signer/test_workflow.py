"""A step that returns a transaction: the run waits for its receipt, or learns why there is none."""

import time
from typing import ClassVar

import pytest
from pydantic import BaseModel

from signer import Receipt, Transaction, TransactionRequest, control
from signer.foreign import DEPTH
from signer.models import Chain
from tests.integration.signer.endpoints import open_incidents, state
from tests.integration.signer.stage import Stage
from tests.threads import at_once
from workflows import (
    NotReplayableError,
    Operation,
    Retry,
    TransientError,
    Workflow,
    cancel_run,
    replay_dead_letter,
    step,
)
from workflows.engine.drive import advance
from workflows.models import DeadLetter, Run


class Orders(BaseModel):
    counter: str
    data: list[str]


class PlaceOrders(Workflow[Orders, list[str]]):
    """Send several transactions at once and wait for all of them."""

    class Meta:
        name, version, queue = "signer.test_orders", 1, "workflows"

    @step
    def send(self, input: Orders) -> list[TransactionRequest]:
        return [
            TransactionRequest(
                chain_id=31337, sender="sender", to=input.counter, data=data, gas_limit=100_000
            )
            for data in input.data
        ]

    @step
    def report(self, send: list[Receipt], operation: Operation) -> list[str]:
        return [receipt.transaction_hash for receipt in send]


def finish(stage: Stage, run: Run) -> Run:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and run.finished_at is None and run.state != "DEAD_LETTER":
        advance(run.pk)
        stage.settle()
        run.refresh_from_db()
    return run


def start(stage: Stage, *requests: int) -> Run:
    data = [stage.counter.encode("record", number) for number in requests]
    assert stage.counter.address is not None
    run: Run = PlaceOrders.start(Orders(counter=stage.counter.address, data=data), correlation_id="case-7")
    return run


def test_run_gets_the_receipts_of_its_transactions_in_order(stage: Stage) -> None:
    stage.deploy_counter()
    run = finish(stage, start(stage, 1, 2, 3))
    rows = list(Transaction.objects.filter(scope="workflow").order_by("nonce"))
    assert run.state == "SUCCEEDED"
    assert run.output == [row.winner.hash for row in rows if row.winner]
    assert [row.nonce for row in rows] == [1, 2, 3]
    assert {row.correlation_id for row in rows} == {"case-7"}
    assert [stage.counted(number) for number in (1, 2, 3)] == [1, 1, 1]


def test_run_learns_the_decoded_reason_of_a_revert(stage: Stage) -> None:
    stage.deploy_counter()
    stage.submit(
        to=stage.counter.address, value=0, data=stage.counter.encode("refuse", 2, True), gas_limit=100_000
    )
    stage.settle()
    run = finish(stage, start(stage, 1, 2))
    assert run.state == "FAILED"
    assert run.error is not None
    assert run.error["code"] == "TRANSACTION_REVERTED"
    assert "request refused" in run.error["message"]
    assert stage.counted(1) == 1


@pytest.mark.case("S8")
def test_death_in_the_settling_commit_neither_settles_nor_wakes(
    manual: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.integration.signer.stage import Crash, crash_at
    from workflows.models import Wait

    manual.rpc("evm_setAutomine", True)
    manual.deploy_counter()
    manual.rpc("evm_setAutomine", False)
    run = start(manual, 1)
    advance(run.pk)
    manual.drain()
    manual.mine()
    crash_at(monkeypatch, "signer.settling")
    with pytest.raises(Crash):
        manual.watch()
    assert Wait.objects.get(run=run).state == "PENDING"
    manual.watch()
    assert Wait.objects.get(run=run).state == "DONE"


@pytest.mark.case("PC4", "S29")
@pytest.mark.parametrize("foreign_nonces", ["BLOCK", "ADOPT"])
def test_run_whose_nonce_a_fork_gave_to_a_stranger_is_executed_once_with_another(
    manual: Stage, foreign_nonces: str
) -> None:
    manual.rpc("evm_setAutomine", True)
    manual.deploy_counter()
    manual.rpc("evm_setAutomine", False)
    Chain.objects.update(confirmations=3, foreign_nonces=foreign_nonces)
    run = start(manual, 1)
    advance(run.pk)
    manual.drain()
    manual.mine()
    manual.watch()
    row = Transaction.objects.get(scope="workflow")
    assert (*state(row), row.nonce, manual.counted(1)) == ("CONFIRMING", "", 1, 1)
    manual.rpc("anvil_impersonateAccount", manual.key.address)
    taking = {"from": manual.key.address, "to": "0x" + "22" * 20, "value": "0x1", "nonce": "0x1"}
    manual.rpc("anvil_reorg", 1, [[taking, 0]])
    for blocks in (0, DEPTH - 1):  # neither is a proof: another fork may bring ours back
        manual.mine(blocks)
        manual.watch()
        manual.later(61)
        manual.drain()
        assert (state(row), row.nonce) == (("BROADCASTING", "NONCE_USED"), 1)
        assert (manual.lane.state, manual.lane.next_nonce, open_incidents()) == ("ACTIVE", 2, [])
    manual.mine()
    manual.watch()
    assert state(row) == ("BROADCASTING", "NONCE_FOREIGN")
    manual.drain()
    if foreign_nonces == "BLOCK":
        assert (open_incidents(), row.nonce) == (["LANE_BLOCKED"], 1), "a person decides"
        control.requeue_transaction(row, actor="anna", reason="known")
        control.resume_lane(manual.lane, actor="anna", reason="known")
        manual.drain()
    assert (state(row), row.nonce) == (("BROADCASTING", ""), 2)
    assert open_incidents() == ([] if foreign_nonces == "BLOCK" else ["FOREIGN_NONCE"])
    manual.mine(3)
    manual.watch()
    advance(run.pk)
    run.refresh_from_db()
    first, second = manual.attempts(row.pk)
    assert (run.state, run.output) == ("SUCCEEDED", [second.hash])
    assert [(each.nonce, each.state) for each in (first, second)] == [(1, "VOID"), (2, "SENT")]
    assert (state(row), row.winner) == (("COMPLETED", ""), second)
    assert (manual.counted(1), manual.counted_in_all(), manual.mined_nonces()) == (1, 1, 3)


class Repeated(Workflow[Orders, str]):
    """Its only step breaks while its author has not mended it."""

    class Meta:
        name, version, queue = "signer.test_repeated", 1, "workflows"

    is_mended: ClassVar[list[bool]] = []

    @step(retry=Retry(attempts=1))
    def send(self, input: Orders) -> TransactionRequest:
        if not self.is_mended:
            raise TransientError("NOT_MENDED", "not yet")
        return TransactionRequest(
            chain_id=31337, sender="sender", to=input.counter, data=input.data[0], gas_limit=100_000
        )

    @step
    def report(self, send: Receipt) -> str:
        return send.transaction_hash


@pytest.mark.case("S77")
def test_dead_letter_replayed_twice_sends_one_transaction(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice by each of several people at the same moment, and once more when it is over."""
    stage.deploy_counter()
    data = stage.counter.encode("record", 1)
    run = Repeated.start(Orders(counter=str(stage.counter.address), data=[data]))
    assert finish(stage, run).state == "DEAD_LETTER"
    monkeypatch.setattr(Repeated, "is_mended", [True])
    letter = DeadLetter.objects.get(run=run)

    def replay(number: int) -> bool:
        try:
            replay_dead_letter(letter.pk, actor=f"person {number % 3}", reason="mended")
        except NotReplayableError:
            return False
        advance(run.pk)
        return True

    assert at_once(6, replay).count(True) == 1
    run.refresh_from_db()
    assert finish(stage, run).state == "SUCCEEDED"
    assert replay(6) is False
    stage.settle()
    assert Transaction.objects.filter(scope="workflow").count() == 1
    assert stage.counted(1) == 1


def test_cancelled_run_takes_back_what_no_worker_has_begun(stage: Stage) -> None:
    stage.deploy_counter()
    run = start(stage, 1, 2)
    advance(run.pk)
    cancel_run(run.pk, actor="ops", reason="a mistake")
    advance(run.pk)
    run.refresh_from_db()
    assert run.state == "CANCELLED"
    stage.settle()
    states = Transaction.objects.filter(scope="workflow").values_list("state", "nonce")
    assert list(states) == [("CANCELLED", None)] * 2, "nothing was sent"


def test_cancelled_run_waits_for_what_was_sent(stage: Stage) -> None:
    stage.deploy_counter()
    run = start(stage, 1)
    advance(run.pk)
    stage.drain()
    cancel_run(run.pk, actor="ops", reason="a mistake")
    advance(run.pk)
    run.refresh_from_db()
    assert run.state == "WAITING"
    assert finish(stage, run).state == "CANCELLED"
    assert Transaction.objects.get(scope="workflow").state == "COMPLETED"
    assert run.steps.get(name="send").state == "SUCCEEDED", "what was done meanwhile is kept"
