"""What `workflows.testing` promises to somebody who tests a workflow with it."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from django.db import transaction
from pydantic import BaseModel

from tests.sample.models import Effect
from workflows import (
    AnyOf,
    ApprovalRequest,
    Approved,
    Child,
    Command,
    CommandError,
    First,
    Operation,
    PermanentError,
    Retry,
    Sleep,
    TransientError,
    WaitForCompletion,
    WaitForSignal,
    Workflow,
    clock,
    step,
    verify_history,
)
from workflows.models import Run
from workflows.states import RunState
from workflows.testing import Crashed, Engine, crash_everywhere, engine

pytest_plugins = ["workflows.testing.fixtures"]
pytestmark = pytest.mark.sqlite_too

DAY = 24 * 3600


class OrderInput(BaseModel):
    account: str = "7"
    lines: list[int] = [1, 2, 3]
    refused: bool = False


class Payment(BaseModel):
    amount: int


class Transfer(Command):
    """A command of another app, which somebody outside carries out."""

    kind: ClassVar[str] = "testing.transfer"
    result_type: ClassVar[object] = Payment
    amount: int

    def submit(self, operation: Operation, index: int) -> str:
        return f"{operation.key}/{operation.attempt}/{index}"


def book(operation: Operation) -> str:
    Effect.objects.create(key=operation.key, attempt=operation.attempt)
    return operation.key


class Letter(Workflow[OrderInput, str]):
    """A child: it waits a day, then it is sent."""

    class Meta:
        name = "testing.letter"

    @step
    def dry(self) -> Sleep:
        return Sleep(seconds=DAY)

    @step(effect="transactional")
    def send(self, operation: Operation) -> str:
        return book(operation)


class Order(Workflow[OrderInput, str]):
    """One of everything that a run may wait for."""

    class Meta:
        name, key = "testing.order", "testing:{input.account}"

    @step(effect="transactional", retry=Retry(attempts=3, first=60, factor=10, cap=3600))
    def reserve(self, operation: Operation) -> str:
        return book(operation)

    @reserve.undo(effect="transactional")
    def give_back(self, reserve: str, operation: Operation) -> str:
        return book(operation)

    @step
    def cool_off(self) -> Sleep:
        return Sleep(seconds=DAY)

    @step
    def sign_off(self) -> ApprovalRequest:
        return ApprovalRequest(group="treasury", needed=2, timeout=7 * DAY)

    @step
    def confirm(self) -> WaitForSignal[Payment]:
        return WaitForSignal(name="confirmed", timeout=7 * DAY)

    @step
    def pay(self, confirm: Payment) -> Transfer:
        return Transfer(amount=confirm.amount)

    @step(each="input.lines", effect="transactional")
    def ship(self, item: int, operation: Operation) -> str:
        return book(operation)

    @step
    def write(self, input: OrderInput) -> Child[str]:
        return Letter.child(input)

    @step(effect="transactional")
    def close(self, input: OrderInput, pay: Payment, write: str, operation: Operation) -> str:
        if input.refused:
            raise PermanentError("REFUSED", "the customer refused the goods")
        return book(operation)


def booked(run: Run) -> list[str]:
    """Return the effects of the run and its children, as operations, in their order."""
    family = [run.pk, *Run.objects.filter(parent=run, branch="").values_list("pk", flat=True)]
    keys = Effect.objects.order_by("id").values_list("key", flat=True)
    return [key.partition(":")[2] for key in keys if any(key.startswith(str(each)) for each in family)]


def to_the_end(t: Engine, run: Run) -> Run:
    t.run(run)
    t.advance(hours=24)
    t.approve(run, by="alice")
    t.approve(run, by="bob")
    t.run(run)
    t.signal(run, "confirmed", Payment(amount=5))
    t.run(run)
    t.answer(run, "pay", Payment(amount=5))
    t.run(run)
    t.advance(days=1)
    return t.run(run)


@pytest.fixture(params=["rolled back", "committed"])
def t(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in a transaction that is rolled back after the test, and one on a database of the test's own."""
    request.getfixturevalue("db" if request.param == "rolled back" else "fresh_db")
    with engine() as opened:
        yield opened


def test_a_run_of_every_kind_of_wait_is_carried_to_its_end_without_a_worker(t: Engine) -> None:
    run = to_the_end(t, t.start(Order, OrderInput()))
    assert run.state == RunState.SUCCEEDED
    first, *ships, send, close = booked(run)
    assert (first, send, close) == ("reserve#0", "send#0", "close#0")
    assert sorted(ships) == ["ship#0", "ship#1", "ship#2"], "in whatever order"
    assert list(verify_history()) == []
    (letter,) = t.children(run)
    assert letter.state == RunState.SUCCEEDED


def test_what_failed_is_undone(t: Engine) -> None:
    run = to_the_end(t, t.start(Order, OrderInput(refused=True)))
    assert run.state == RunState.COMPENSATED
    assert booked(run)[-1] == "reserve.undo#0"


def test_a_day_passes_in_milliseconds(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.run(t.start(Letter, OrderInput()))
    before, began = t.now(), time.process_time()
    t.advance(hours=23, minutes=59)
    assert t.run(run).state == RunState.WAITING
    t.advance(minutes=1)
    assert time.process_time() - began < 1
    assert t.run(run).state == RunState.SUCCEEDED
    assert timedelta(hours=24) <= t.now() - before < timedelta(hours=24, seconds=1)
    assert clock.now() - before >= timedelta(hours=24)


def test_the_clock_is_the_databases_again_afterwards(db: None) -> None:
    with engine() as t:
        t.advance(days=400)
        ahead = clock.now()
    assert clock.now() < ahead - timedelta(days=399)


class NapInput(BaseModel):
    seconds: float


class Nap(Workflow[NapInput, str]):
    class Meta:
        name = "testing.nap"

    @step
    def sleep(self, input: NapInput) -> Sleep:
        return Sleep(seconds=input.seconds)

    @step(effect="transactional")
    def wake(self, operation: Operation) -> str:
        return book(operation)

    @step
    def sleep_again(self) -> Sleep:
        return Sleep(seconds=3600)

    @step(effect="transactional")
    def rise(self, operation: Operation) -> str:
        return book(operation)


def test_timers_come_due_in_the_order_of_their_instants(t: Engine) -> None:
    """The short sleeper's second timer lies before the long sleeper's first, and is not known yet when time moves."""
    long, short = t.start(Nap, NapInput(seconds=5400)), t.start(Nap, NapInput(seconds=60))
    t.advance(hours=24)
    order = [tuple(key.split(":")) for key in Effect.objects.order_by("id").values_list("key", flat=True)]
    assert order == [
        (str(short.pk), "wake#0"),
        (str(short.pk), "rise#0"),
        (str(long.pk), "wake#0"),
        (str(long.pk), "rise#0"),
    ]
    ended = Run.objects.get(pk=short.pk).finished_at
    assert ended
    assert timedelta(seconds=3660) <= ended - short.created_at < timedelta(seconds=3661)


def test_nothing_comes_due_by_itself(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.run(t.start(Nap, NapInput(seconds=0.001)))
    time.sleep(0.01)
    assert t.run(run).waiting_for == "sleep"
    t.advance(seconds=0.001)
    assert t.run(run).steps.get(name="wake").state == "SUCCEEDED"


def test_a_step_fails_as_often_as_it_is_told_and_is_retried_by_its_policy(t: Engine) -> None:
    t.fail("reserve", times=2)
    run = t.run(t.start(Order, OrderInput()))
    assert (run.waiting_for, booked(run)) == ("retry", [])
    t.advance(seconds=60)
    assert t.run(run).waiting_for == "retry"
    t.advance(seconds=599)
    assert t.run(run).waiting_for == "retry"
    t.advance(seconds=1)
    assert t.run(run).waiting_for == "sleep"
    assert Effect.objects.get().attempt == 3


def test_a_step_that_fails_for_good_is_the_end_of_its_run(workflow_engine: Engine) -> None:
    t = workflow_engine
    t.fail("reserve", error=PermanentError("BROKE", "no money"), workflow=Order)
    run = t.run(t.start(Order, OrderInput()))
    assert (run.state, run.error["code"]) == (RunState.FAILED, "BROKE")


def test_an_undo_fails_by_its_own_name(workflow_engine: Engine) -> None:
    t = workflow_engine
    t.fail("reserve.undo", error=PermanentError("BROKE", "no money"))
    t.fail("cool_off", error=PermanentError("REFUSED", "no"))
    run = t.run(t.start(Order, OrderInput()))
    assert run.state == RunState.DEAD_LETTER
    assert run.dead_letters.get().reason == "compensation_failed"


def test_a_failure_that_never_struck_is_told(db: None) -> None:
    with pytest.raises(AssertionError, match=r"pay \(2 more\)"), engine() as t:
        t.fail("pay", times=2, workflow=Order)
        t.run(t.start(Order, OrderInput()))


def test_a_failure_of_a_step_that_does_not_exist_is_refused(workflow_engine: Engine) -> None:
    with pytest.raises(LookupError, match=r"give_forward.*reserve.undo"):
        workflow_engine.fail("give_forward", workflow=Order)


def test_steps_have_their_own_code_again_afterwards(db: None) -> None:
    with engine() as t:
        t.fail("dry", error=TransientError("X", "x"), workflow=Letter)
        t.run(t.start(Letter, OrderInput()))
    with engine() as t:
        assert t.run(t.start(Letter, OrderInput())).waiting_for == "sleep"


def test_what_is_pending_is_named_when_something_else_is_answered(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.run(t.start(Order, OrderInput()))
    with pytest.raises(
        AssertionError,
        match=r"doesn't wait at pay: it is WAITING at cool_off#0, pending: cool_off \(sleeps until",
    ):
        t.answer(run, "pay", Payment(amount=1))
    with pytest.raises(AssertionError, match="by the clock"):
        t.answer(run, "cool_off")
    t.advance(days=1)
    with pytest.raises(AssertionError, match=r"sign_off \(approval by 'treasury', 0 of 2 given\)"):
        t.answer(run, "pay", Payment(amount=1))
    t.answer(run, "sign_off", Approved(by=["alice", "bob"]))
    with pytest.raises(AssertionError, match=r"pending: confirm \(signal 'confirmed'\)"):
        t.approve(t.run(run), by="carol")
    t.answer(run, "confirm", Payment(amount=1))
    t.run(run)
    assert [(each.step, each.kind) for each in t.waits(run)] == [("pay", "testing.transfer")]


def test_a_wait_that_fails_fails_its_step(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.run(t.start(Order, OrderInput()))
    t.advance(days=1)
    t.answer(run, "sign_off", Approved(by=["alice", "bob"]))
    t.signal(run, "confirmed", Payment(amount=5))
    t.run(run)
    t.fail_wait(run, "pay", code="REVERTED", message="no funds")
    run = t.run(run)
    assert (run.state, run.error["code"], run.error["message"]) == (
        RunState.COMPENSATED,
        "REVERTED",
        "no funds",
    )


def test_a_rejection_and_a_timeout_stop_the_run(workflow_engine: Engine) -> None:
    t = workflow_engine
    rejected, late = t.start(Order, OrderInput(account="1")), t.start(Order, OrderInput(account="2"))
    t.advance(days=1)
    t.reject(rejected, by="carol", reason="too much")
    assert t.run(rejected).error["message"] == "carol rejected it: too much"
    t.advance(days=6, hours=23)
    assert t.run(late).state == RunState.WAITING
    t.advance(hours=1)
    assert (t.run(late).state, late.error["code"]) == (RunState.COMPENSATED, "APPROVAL_TIMEOUT")


class Choice(Workflow[OrderInput, str]):
    """Several commands at once, some of them for whoever has the token."""

    class Meta:
        name = "testing.choice"

    @step
    def either(self) -> AnyOf[Sleep | WaitForSignal[Payment]]:
        return AnyOf([Sleep(seconds=DAY), WaitForSignal(name="paid")])

    @step
    def ask(self, either: First[Payment | None]) -> WaitForCompletion[Payment]:
        return WaitForCompletion()

    @step
    def both(self, input: OrderInput) -> list[Transfer]:
        return [Transfer(amount=line) for line in input.lines]

    @step
    def total(self, both: list[Payment]) -> str:
        return str([each.amount for each in both])


def test_commands_of_a_list_are_answered_one_by_one(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.run(t.start(Choice, OrderInput()))
    t.answer(run, "either", Payment(amount=1))
    t.run(run)
    t.answer(run, "ask", Payment(amount=2))
    t.run(run)
    t.answer(run, "both", Payment(amount=30), index=2)
    t.answer(run, "both", Payment(amount=10))
    assert t.run(run).state == RunState.WAITING
    assert [each.index for each in t.waits(run)] == [1]
    t.answer(run, "both", Payment(amount=20))
    assert t.run(run).output == "[10, 20, 30]"


def test_a_completion_may_fail(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.start(Choice, OrderInput())
    t.advance(days=1)
    t.fail_wait(run, "ask", code="LOST")
    assert t.run(run).error["code"] == "LOST"


def test_a_stubbed_command_waits_for_the_test_alone(
    workflow_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = workflow_engine
    monkeypatch.setattr(Transfer, "submit", lambda *_: pytest.fail("submitted"))
    t.stub(Transfer)
    run = t.run(t.start(Choice, OrderInput(lines=[4])))
    t.answer(run, "either", Payment(amount=1))
    t.run(run)
    t.answer(run, "ask", Payment(amount=2))
    t.run(run)
    t.answer(run, "both", Payment(amount=4))
    assert t.run(run).output == "[4]"


def test_one_run_at_a_time_holds_a_key(t: Engine) -> None:
    first, second = t.start(Order, OrderInput()), t.start(Order, OrderInput())
    assert t.run(first).waiting_for == "sleep"
    assert t.run(second).waiting_for == "key"
    to_the_end(t, first)
    assert t.run(second).waiting_for == "sleep"


def test_a_deadline_stops_a_run_when_its_instant_comes(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.start(Order, OrderInput(), deadline=3600)
    t.advance(minutes=59)
    assert t.run(run).waiting_for == "sleep"
    t.advance(minutes=1)
    assert t.run(run).error["code"] == "DEADLINE_EXCEEDED"


def test_callbacks_on_commit_are_called_when_the_outermost_block_ends(t: Engine) -> None:
    called: list[str] = []
    with transaction.atomic():
        with transaction.atomic():
            transaction.on_commit(lambda: called.append("kept"))
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            transaction.on_commit(lambda: called.append("rolled back"))
            _ = 1 / 0
        assert called == []
    assert called == ["kept"]
    transaction.on_commit(lambda: called.append("at once"))
    assert called == ["kept", "at once"]


def test_a_worker_that_died_is_followed_by_another(t: Engine) -> None:
    run = t.start(Order, OrderInput())
    with t.crash("engine.before_record"):
        t.run(run)
    run.refresh_from_db()
    owner = run.lease_owner
    assert (run.state, booked(run)) == (RunState.RUNNING, [])
    assert t.run(run).waiting_for == "sleep"
    assert (booked(run), run.lease_owner != owner) == (["reserve#0"], True)
    assert ("run_recovered", 1) in t.history(run)


def test_a_crash_inside_a_transaction_takes_it_back(t: Engine) -> None:
    run = t.start(Order, OrderInput())
    with t.crash("engine.in_record"):
        t.run(run)
    assert booked(run) == []
    assert t.run(run).steps.get(name="reserve").state == "SUCCEEDED"


def test_a_crash_strikes_the_occurrence_that_was_asked_for(workflow_engine: Engine) -> None:
    t = workflow_engine
    run = t.start(Choice, OrderInput(lines=[1]))
    with t.crash("engine.before_record", at=2):
        t.run(run)
        t.answer(run, "either", Payment(amount=1))
        t.run(run)
    assert [each.step for each in t.waits(run)] == ["either"] or run.operation == "either#0"
    assert t.reached["engine.before_record"] == 2


def test_a_caller_that_died_while_starting_left_a_run(t: Engine) -> None:
    with t.crash("engine.started"):
        t.start(Order, OrderInput())
    run = Run.objects.get()
    assert t.run(run).waiting_for == "sleep"


def test_a_crash_that_never_happened_is_told(workflow_engine: Engine) -> None:
    t = workflow_engine
    with (
        pytest.raises(AssertionError, match=r"engine.recorded was reached 0 times, not 1"),
        t.crash("engine.recorded"),
    ):
        t.start(Order, OrderInput())
    with pytest.raises(LookupError, match=r"engine\.before_claim"), t.crash("engine.nowhere"):
        pass


class Careless(Workflow[OrderInput, str]):
    """Catches everything, and tidies up."""

    class Meta:
        name = "testing.careless"

    @step
    def work(self, operation: Operation) -> str:
        from workflows import crashpoint

        try:
            crashpoint("sample.outside")
        except BaseException:  # noqa: BLE001 - what this test is about
            book(operation)
        finally:
            book(operation)
        return "done"


def test_the_dead_write_nothing_whatever_their_code_catches(t: Engine) -> None:
    run = t.start(Careless, OrderInput())
    with t.crash("sample.outside"):
        t.run(run)
    assert booked(run) == []
    assert t.run(run).state == RunState.SUCCEEDED
    assert booked(run) == ["work#0"]


def test_the_exception_of_a_death_is_no_ordinary_one() -> None:
    assert not issubclass(Crashed, Exception)


class Payout(Workflow[OrderInput, str]):
    """Time, people and another app, then a step that may fail for good."""

    class Meta:
        name, key = "testing.payout", "testing:{input.account}"

    @step(effect="transactional")
    def reserve(self, operation: Operation) -> str:
        return book(operation)

    @reserve.undo(effect="transactional")
    def give_back(self, operation: Operation) -> str:
        return book(operation)

    @step
    def sign_off(self) -> ApprovalRequest:
        return ApprovalRequest(group="treasury")

    @step
    def pay(self) -> Transfer:
        return Transfer(amount=1)

    @pay.undo
    def take_back(self) -> Sleep:
        return Sleep(seconds=DAY)

    @step(effect="transactional")
    def close(self, input: OrderInput, pay: Payment, operation: Operation) -> str:
        if input.refused:
            raise PermanentError("REFUSED", "the customer refused the goods")
        return book(operation)


class Delivery(Workflow[OrderInput, str]):
    """Branches and a child."""

    class Meta:
        name = "testing.delivery"

    @step(each="input.lines", effect="transactional")
    def ship(self, item: int, operation: Operation) -> str:
        return book(operation)

    @step
    def write(self, input: OrderInput) -> Child[str]:
        return Letter.child(input)


PAYOUT_ANSWERS = {"sign_off": Approved(by=["alice"]), "pay": lambda wait: Payment(amount=5)}


def paid_once(run: Run) -> None:
    assert (run.state, booked(run)) == (RunState.SUCCEEDED, ["reserve#0", "close#0"])


def paid_back_once(run: Run) -> None:
    assert (run.state, booked(run)) == (RunState.COMPENSATED, ["reserve#0", "reserve.undo#0"])


def delivered_once(run: Run) -> None:
    assert (run.state, sorted(booked(run))) == (RunState.SUCCEEDED, ["send#0", "ship#0", "ship#1"])


def test_a_workflow_that_waits_survives_a_crash_at_every_point(db: None) -> None:
    assert crash_everywhere(Payout, OrderInput(), invariant=paid_once, answers=PAYOUT_ANSWERS) > 20
    assert not Run.objects.exists()


def test_a_compensation_survives_a_crash_at_every_point(db: None) -> None:
    refused = OrderInput(refused=True)
    assert crash_everywhere(Payout, refused, invariant=paid_back_once, answers=PAYOUT_ANSWERS) > 25


def test_branches_and_children_survive_a_crash_at_every_point(db: None) -> None:
    assert crash_everywhere(Delivery, OrderInput(lines=[1, 2]), invariant=delivered_once) > 30


def test_crashes_on_a_committed_database_take_inputs_of_their_own(fresh_db: str) -> None:
    numbers: list[int] = []

    def payout(number: int) -> OrderInput:
        numbers.append(number)
        return OrderInput(account=str(number))

    crashes = crash_everywhere(Payout, payout, invariant=paid_once, answers=PAYOUT_ANSWERS)
    assert crashes > 15
    assert numbers == list(range(1, crashes + 2))
    assert Run.objects.count() == len(numbers)


class Blind(Workflow[OrderInput, str]):
    """Says of a call that it may be repeated, and that isn't so."""

    class Meta:
        name = "testing.blind"

    @step(effect="idempotent")
    def charge(self, operation: Operation) -> str:
        return book(operation)


class Once(Workflow[OrderInput, str]):
    """The same call, declared as what it is."""

    class Meta:
        name = "testing.once"

    @step(effect="at_most_once")
    def charge(self, operation: Operation) -> str:
        return book(operation)


def charged_once(run: Run) -> None:
    assert booked(run) == ["charge#0"]


def test_an_effect_that_is_declared_wrongly_is_found(db: None) -> None:
    with pytest.raises(AssertionError) as raised:
        crash_everywhere(Blind, OrderInput(), invariant=charged_once)
    text = str(raised.value)
    assert "testing.blind: " in text
    assert "crash at engine.before_record, occurrence 1: AssertionError: " in text
    assert "['charge#0', 'charge#0']" in text
    assert "without a crash" not in text
    assert "engine.claimed" not in text, "nothing was called before that"


def test_an_effect_that_is_declared_rightly_ends_with_a_person(db: None) -> None:
    states: set[str] = set()

    def at_most_once(run: Run) -> bool:
        states.add(run.state)
        return len(booked(run)) <= 1

    assert crash_everywhere(Once, OrderInput(), invariant=at_most_once) > 4
    assert states == {RunState.SUCCEEDED, RunState.DEAD_LETTER}


def test_an_answer_that_is_missing_is_a_run_that_is_stuck(db: None) -> None:
    with pytest.raises(
        AssertionError,
        match=r"without a crash: it is stuck: it is WAITING at both#0, pending: both \(testing.transfer",
    ):
        crash_everywhere(Choice, OrderInput(), invariant=bool, answers={"ask": Payment(amount=1)})


def test_answers_may_be_failures_or_a_function(db: None) -> None:
    answers = {**PAYOUT_ANSWERS, "pay": CommandError(code="REVERTED", message="no funds")}

    def reverted(run: Run) -> bool:
        return run.state == RunState.COMPENSATED and run.error["code"] == "REVERTED"

    assert (
        crash_everywhere(Payout, OrderInput(), invariant=reverted, answers=answers, points=["engine.claimed"])
        > 2
    )

    def act(t: Engine, run: Run) -> bool:
        for wait in t.waits(run):
            if wait.kind != "sleep":
                t.answer(run, wait.operation, Payment(amount=1), index=wait.index)
                return True
        return False

    assert crash_everywhere(Choice, OrderInput(), invariant=bool, answers=act, points=["engine.claimed"]) > 3


def test_histories_are_the_same_for_runs_that_went_the_same_way(t: Engine, tmp_path: Path) -> None:
    stories = [t.history(to_the_end(t, t.start(Order, OrderInput()))) for _ in range(2)]
    assert stories[0] == stories[1]
    assert stories[0] == [
        ("run_started",),
        ("step_succeeded", "reserve#0", 1),
        ("step_waiting", "cool_off#0", 1, "sleep"),
        ("step_succeeded", "cool_off#0", 1),
        ("step_waiting", "sign_off#0", 1, "approval"),
        ("step_succeeded", "sign_off#0", 1),
        ("step_waiting", "confirm#0", 1, "signal"),
        ("step_succeeded", "confirm#0", 1),
        ("step_waiting", "pay#0", 1, "testing.transfer"),
        ("step_succeeded", "pay#0", 1),
        ("step_branched", "ship*", 3),
        ("branches_ended", "ship*"),
        ("step_waiting", "write#0", 1, "run"),
        ("step_succeeded", "write#0", 1),
        ("step_succeeded", "close#0", 1),
        ("run_finished", "SUCCEEDED"),
    ]


def test_a_history_is_compared_with_a_file(workflow_engine: Engine, tmp_path: Path) -> None:
    t, kept = workflow_engine, tmp_path / "nap.txt"
    run = t.run(t.start(Nap, NapInput(seconds=60)))
    with pytest.raises(AssertionError, match="was missing and is written now"):
        t.assert_history(run, kept)
    t.assert_history(run, kept)
    assert kept.read_text() == "run_started\nstep_waiting sleep#0 1 sleep\n"
    t.advance(minutes=1)
    with pytest.raises(AssertionError, match="delete the file"):
        t.assert_history(run, kept)


def test_one_engine_at_a_time(workflow_engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="open already"), engine():
        pass
