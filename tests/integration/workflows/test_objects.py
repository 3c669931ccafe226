"""Virtual objects: state that commits with the call's result, calls that fail, calls that wait."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from tests.integration.workflows.keys import drive_all, holder, row
from tests.sample.objects import (
    Append,
    Detour,
    DetourInput,
    Payment,
    PaymentInput,
    Wallet,
)
from workflows import (
    BadStateError,
    IdempotencyConflictError,
    InvalidInputError,
    ReadOnlyError,
    cancel_run,
    edit_state,
    replay_dead_letter,
    send_signal,
    verify_history,
)
from workflows.engine.drive import advance
from workflows.history import output_digest
from workflows.models import Run, VirtualObjectState
from workflows.states import RunState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[[Run], Run]


# --- Calls ------------------------------------------------------------------------------------------------


def test_call_changes_the_state_and_returns_its_result(drive: Drive) -> None:
    run = drive(Wallet("a").credit(Decimal("10.50")).start())
    assert (run.state, run.output) == (RunState.SUCCEEDED, "10.50")
    drive(Wallet("a").debit(Decimal(3)).start())
    assert Wallet("a").balance() == Decimal("7.50")
    stored = row("wallet:a")
    assert (stored.version, stored.holder, stored.state) == (2, None, {"balance": "7.50", "holds": []})
    assert Wallet("a").seen() == (Decimal("7.50"), [], 2)


def test_objects_of_different_keys_know_nothing_of_each_other(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(1)).start())
    assert (Wallet("a").balance(), Wallet("b").balance()) == (1, 0)
    assert not VirtualObjectState.objects.filter(key="wallet:b").exists(), "looking makes nothing"


def test_history_proves_which_state_a_call_left(drive: Drive) -> None:
    run = drive(Wallet("a").credit(Decimal(1)).start())
    said = run.events.get(kind="step_succeeded").data
    assert said["version"] == 1
    assert said["state"] == output_digest(row("wallet:a").state)
    assert list(verify_history()) == []


def test_step_that_returns_a_call_waits_for_its_result(drive: Drive) -> None:
    run = Detour.start(DetourInput(wallet="a"))
    drive_all(run)
    assert (run.state, run.output) == (RunState.SUCCEEDED, "1")
    call = run.children.get()
    assert (call.workflow, call.object_key) == ("wallet.credit", "wallet:a")


def test_call_is_started_once_per_idempotency_key(drive: Drive) -> None:
    first = Wallet("a").credit(Decimal(1)).start(idempotency_key="k")
    drive(first)
    again = Wallet("a").credit(Decimal(1)).start(idempotency_key="k")
    assert again.pk == first.pk
    with pytest.raises(IdempotencyConflictError):
        Wallet("a").credit(Decimal(2)).start(idempotency_key="k")
    assert Wallet("a").balance() == 1


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda wallet: wallet.debit("much"), "amount"),
        (lambda wallet: wallet.debit(), "amount"),
        (lambda wallet: wallet.debit(1, 2), "too many positional arguments"),
        (lambda wallet: wallet.debit(sum=1), "sum"),
        (lambda wallet: wallet.enough("much"), "amount"),
    ],
)
def test_arguments_are_checked_when_the_call_is_made(call: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        call(Wallet("a"))
    told = f"{raised.value} " + " ".join(f"{each['loc']} {each['msg']}" for each in raised.value.errors)
    assert says in told
    assert "wallet." in told


@pytest.mark.parametrize("key", ["", "x" * 300])
def test_keys_that_cannot_be_stored_are_refused(key: str) -> None:
    with pytest.raises(InvalidInputError):
        Wallet(key).credit(Decimal(1))


def test_state_is_there_in_handlers_only() -> None:
    with pytest.raises(RuntimeError, match="in its handlers only"):
        _ = Wallet("a").state


def test_shared_handlers_see_what_is_committed_and_may_ask_each_other(drive: Drive) -> None:
    waiting = Wallet("a").ask("may I?").start()
    advance(waiting.pk)
    assert Wallet("a").seen()[1] == ["may I?"], "a call that waits has saved what it changed"
    assert Wallet("a").enough(Decimal(0))
    assert not Wallet("a").enough(Decimal(1))


@pytest.mark.parametrize("how", ["assign", "inside", "replace"])
def test_shared_handler_that_changes_the_state_is_an_error(drive: Drive, how: str) -> None:
    drive(Wallet("a").credit(Decimal(5)).start())
    with pytest.raises(ReadOnlyError):
        Wallet("a").meddle(how)
    assert Wallet("a").seen() == (Decimal(5), [], 1)


# --- Failing ----------------------------------------------------------------------------------------------


def test_permanent_failure_leaves_the_state_and_frees_the_object(drive: Drive) -> None:
    run = drive(Wallet("a").debit(Decimal(1)).start())
    assert (run.state, run.error["code"]) == (RunState.FAILED, "WALLET_EMPTY")
    stored = row("wallet:a")
    assert (stored.state, stored.version, stored.holder) == (None, 0, None)


@pytest.mark.parametrize(
    ("how", "reason", "code"),
    [
        ("transient", "retries_exhausted", "NOT_NOW"),
        ("bug", "retries_exhausted", "UNEXPECTED_ZERODIVISIONERROR"),
        ("bad_output", "bad_output", "STEP_BAD_OUTPUT"),
        ("bad_state", "bad_state", "OBJECT_BAD_STATE"),
        ("large", "bad_state", "OBJECT_BAD_STATE"),
    ],
)
@pytest.mark.case("E42", "E19")
def test_call_that_cannot_go_on_holds_the_object_unchanged(
    drive: Drive, how: str, reason: str, code: str
) -> None:
    run = drive(Wallet("a").break_down(how).start())
    assert run.state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == (reason, code)
    assert (row("wallet:a").state, row("wallet:a").version) == (None, 0)
    assert holder("wallet:a") == run
    behind = drive(Wallet("a").credit(Decimal(1)).start())
    assert (behind.state, behind.waiting_for) == (RunState.WAITING, "key")


def test_state_that_a_changed_model_cannot_read_stops_the_call_with_a_clear_text(drive: Drive) -> None:
    drive(Append("a").append("x").start())
    VirtualObjectState.objects.filter(key="append:a").update(state={"values": {"x": 1}})
    run = drive(Append("a").append("y").start())
    letter = run.dead_letters.get()
    assert letter.reason == "bad_state"
    assert "append:a is no ListState: values: Input should be a valid list" in letter.error["message"]
    with pytest.raises(BadStateError):
        Append("a").read()
    edit_state("append:a", {"values": ["x"]}, expected_version=1, actor="ops", reason="as it was meant")
    replay_dead_letter(letter.pk, actor="ops", reason="mended")
    assert drive(run).state == RunState.SUCCEEDED
    assert Append("a").read() == (["x", "y"], 3)


def test_new_field_with_a_default_reads_what_was_stored_before_it(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Older(BaseModel):
        balance: Decimal = Decimal(0)

    drive(Wallet("a").credit(Decimal(4)).start())
    VirtualObjectState.objects.filter(key="wallet:a").update(
        state=Older(balance=Decimal(4)).model_dump(mode="json")
    )
    drive(Wallet("a").credit(Decimal(1), note="n").start())
    assert Wallet("a").seen() == (Decimal(5), ["n"], 2)


# --- Waiting while holding --------------------------------------------------------------------------------


def test_handler_that_waits_has_saved_its_change_and_holds_the_object(drive: Drive) -> None:
    asking = Wallet("a").ask("may I?").start()
    advance(asking.pk)
    behind = Wallet("a").credit(Decimal(1)).start()
    advance(behind.pk)
    behind.refresh_from_db()
    assert (behind.state, behind.waiting_for) == (RunState.WAITING, "key")
    assert (row("wallet:a").version, holder("wallet:a")) == (1, asking)
    waiting = asking.events.get(kind="step_waiting").data
    assert waiting["version"] == 1
    send_signal(asking.pk, "answer", "yes")
    drive_all(asking, behind)
    assert (asking.state, asking.output) == (RunState.SUCCEEDED, "yes")
    assert behind.state == RunState.SUCCEEDED
    assert Wallet("a").seen() == (Decimal(1), ["may I?"], 2)


def test_object_calls_another_while_it_holds_itself(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(50)).start())
    run = Wallet("a").transfer("b", Decimal(20)).start()
    drive_all(run)
    assert (run.state, run.output) == (RunState.SUCCEEDED, "20")
    assert (Wallet("a").balance(), Wallet("b").balance()) == (30, 20)


def test_change_made_before_the_wait_is_undone_when_what_it_waited_for_fails(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(500)).start())
    run = Wallet("a").transfer("b", Decimal(200)).start()
    drive_all(run)
    assert (run.state, run.error["code"]) == (RunState.COMPENSATED, "WALLET_LIMIT")
    assert Wallet("a").seen() == (Decimal(500), ["WALLET_LIMIT"], 3)
    assert (Wallet("b").balance(), holder("wallet:a"), holder("wallet:b")) == (0, None, None)


def test_change_made_before_the_wait_is_undone_when_the_call_is_cancelled(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(50)).start())
    blocking = Wallet("b").ask("?").start()
    advance(blocking.pk)
    run = Wallet("a").transfer("b", Decimal(20)).start()
    advance(run.pk)
    assert Wallet("a").balance() == 30
    cancel_run(run.pk, actor="ops", reason="not any more")
    drive_all(run)
    assert run.state == RunState.CANCELLED
    assert Wallet("a").balance() == 50
    assert Wallet("b").balance() == 0


def test_failed_payment_gives_back_what_an_earlier_call_took(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(500)).start())
    run = Payment.start(PaymentInput(payer="a", payee="b", amount=Decimal(200)))
    drive_all(run)
    assert (run.state, run.error["code"]) == (RunState.COMPENSATED, "WALLET_LIMIT")
    assert (Wallet("a").balance(), Wallet("b").balance()) == (500, 0)
