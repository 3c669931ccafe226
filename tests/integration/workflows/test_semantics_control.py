"""What people ask of a run happens once, whatever its worker is doing at that moment, and nothing is undone half."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from workflows import (
    Command,
    CommandResult,
    NotPossibleError,
    Operation,
    PermanentError,
    Retry,
    RunEndedError,
    Sleep,
    TransientError,
    WaitForSignal,
    Workflow,
    cancel_run,
    compensate_run,
    kill_run,
    pause_run,
    resolve_commands,
    resume_run,
    send_signal,
    step,
    verify_history,
)
from workflows.crashpoints import crashpoint
from workflows.engine.control import stop_overdue, wake_asked
from workflows.engine.drive import advance
from workflows.models import Act, DeadLetter, Run, VirtualObjectState, Wait
from workflows.states import Control, RunState, StepState
from workflows.sweeper import ring_due_runs

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[..., Run]

BY = {"actor": "ops", "reason": "because"}


class TripInput(BaseModel):
    key: str = ""
    fail: bool = False
    wait: float = 0


class Trip(Workflow[TripInput, str]):
    """Three steps, undone in reverse. What happens while one of them runs is up to the test."""

    done: ClassVar[list[str]] = []
    meanwhile: ClassVar[dict[str, Callable[[Operation], Any]]] = {}

    class Meta:
        name, key = "control.trip", "trip:{input.key}"

    @classmethod
    def do(cls, operation: Operation) -> str:
        cls.done.append(operation.id)
        hook = cls.meanwhile.pop(operation.id, None)
        if hook:
            hook(operation)
        return operation.id

    @step
    def book(self, operation: Operation) -> str:
        return self.do(operation)

    @book.undo
    def undo_book(self, operation: Operation) -> None:
        self.do(operation)

    @step(retry=Retry(attempts=5, first=3600, cap=3600))
    def pay(self, operation: Operation) -> str:
        return self.do(operation)

    @pay.undo
    def undo_pay(self, pay: str | None, operation: Operation) -> None:
        self.do(operation)

    @step
    def rest(self, input: TripInput) -> Sleep | None:
        return Sleep(seconds=input.wait) if input.wait else None

    @step
    def ship(self, input: TripInput, operation: Operation) -> str:
        if input.fail:
            raise PermanentError("NO_SHIP", "it sank")
        return self.do(operation)

    @ship.undo
    def undo_ship(self, operation: Operation) -> None:
        self.do(operation)


class Once(Workflow[TripInput, str]):
    calls: ClassVar[list[str]] = []

    class Meta:
        name = "control.once"

    @step(effect="at_most_once")
    def call(self, operation: Operation) -> str:
        self.calls.append(operation.id)
        return operation.id


class Transfer(Command):
    """A command that cannot be called off once it is under way."""

    kind: ClassVar[str] = "control-transfer"
    result_type: ClassVar[Any] = str

    def submit(self, operation: Operation, index: int) -> str:
        return f"{operation.key}:{index}"


class Transferring(Workflow[TripInput, str]):
    undone: ClassVar[list[str]] = []

    class Meta:
        name = "control.transferring"

    @step
    def send(self) -> Transfer:
        return Transfer()

    @send.undo
    def undo_send(self, send: str) -> None:
        self.undone.append(send)

    @step
    def end(self) -> str:
        return "end"


class Asking(Workflow[TripInput, str]):
    class Meta:
        name, deadline = "control.asking", 3600

    @step
    def ask(self) -> WaitForSignal[str]:
        return WaitForSignal(name="answer")

    @step
    def end(self, ask: str) -> str:
        return ask


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    Trip.done.clear()
    Once.calls.clear()
    Transferring.undone.clear()
    yield
    assert Trip.meanwhile == {}, "the test's hook was never reached"
    assert list(verify_history()) == []


def meanwhile(operation: str, act: Callable[[Operation], Any]) -> None:
    Trip.meanwhile[operation] = act


def kinds(run: Run) -> list[str]:
    return list(run.events.values_list("kind", flat=True))


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


@pytest.mark.case("E36")
def test_cancel_keeps_the_output_of_the_step_that_runs_and_then_undoes_it(drive: Drive) -> None:
    meanwhile("pay#0", lambda operation: cancel_run(operation.run_id, **BY))
    run = drive(Trip.start(TripInput()))
    assert run.state == RunState.CANCELLED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]
    assert run.steps.get(operation_id="pay#0").output == "pay#0"
    assert run.error == {"code": "RUN_CANCELLED", "message": "ops: because", "step": "rest"}
    assert kinds(run).index("step_succeeded") < kinds(run).index("compensation_started")
    assert (run.control, run.asked) == (Control.CANCEL, False)


@pytest.mark.case("E36")
def test_cancel_is_ignored_by_a_run_that_undoes_already(drive: Drive) -> None:
    meanwhile("pay.undo#0", lambda operation: cancel_run(operation.run_id, **BY))
    run = drive(Trip.start(TripInput(fail=True)))
    assert run.state == RunState.COMPENSATED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]
    assert kinds(run).count("compensation_started") == 1


def test_cancelled_before_its_first_step_nothing_is_done(drive: Drive) -> None:
    run = Trip.start(TripInput())
    cancel_run(run.pk, **BY)
    assert drive(run).state == RunState.CANCELLED
    assert Trip.done == []
    with pytest.raises(RunEndedError):
        cancel_run(run.pk, **BY)


@pytest.mark.case("E36")
def test_cancel_of_a_sleeping_run_takes_effect_at_once(drive: Drive) -> None:
    run = Trip.start(TripInput(wait=3600))
    advance(run.pk)
    cancel_run(run.pk, **BY)
    assert drive(run).state == RunState.CANCELLED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]
    assert states(run)["rest#0"] == StepState.SKIPPED
    assert Wait.objects.get(run=run).state == "WITHDRAWN"


def test_cancel_of_a_run_that_waits_for_its_key_leaves_the_others_their_turns(drive: Drive) -> None:
    holder, waiting, last = (Trip.start(TripInput(key="a")) for _ in range(3))
    cancel_run(waiting.pk, **BY)
    assert drive(waiting).state == RunState.CANCELLED
    assert VirtualObjectState.objects.get(key="trip:a").holder_id == holder.pk
    assert drive(holder).state == RunState.SUCCEEDED
    assert drive(last).state == RunState.SUCCEEDED
    assert VirtualObjectState.objects.get(key="trip:a").holder_id is None


@pytest.mark.case("E40", "E36")
def test_cancel_between_two_attempts_undoes_what_the_first_may_have_done(drive: Drive) -> None:
    def lose_the_answer(operation: Operation) -> None:
        raise ConnectionError("the answer was lost")

    meanwhile("pay#0", lose_the_answer)
    run = Trip.start(TripInput())
    advance(run.pk)
    assert (run.steps.get(name="pay").state, run.steps.get(name="pay").uncertain) == ("WAITING", True)
    cancel_run(run.pk, **BY)
    assert drive(run).state == RunState.CANCELLED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]
    assert states(run)["pay#0"] == StepState.UNDONE


def test_cancel_between_two_attempts_leaves_alone_what_certainly_did_not_happen(drive: Drive) -> None:
    def refuse(operation: Operation) -> None:
        raise TransientError("BUSY", "come back later")

    meanwhile("pay#0", refuse)
    run = Trip.start(TripInput())
    advance(run.pk)
    cancel_run(run.pk, **BY)
    assert drive(run).state == RunState.CANCELLED
    assert Trip.done == ["book#0", "pay#0", "book.undo#0"]
    assert states(run)["pay#0"] == StepState.FAILED


@pytest.mark.case("E40", "E36")
def test_cancel_of_a_run_whose_worker_died_in_a_step_undoes_that_step_too(
    drive: Drive, dies: Callable[..., Run]
) -> None:
    run = dies(Trip.start(TripInput()), "engine.before_record", at=2)
    assert Trip.done == ["book#0", "pay#0"]
    cancel_run(run.pk, **BY)
    assert drive(run).state == RunState.CANCELLED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]


@pytest.mark.case("E39")
@pytest.mark.parametrize(
    ("point", "at", "undone"),
    [
        pytest.param("engine.claimed", 1, ["pay.undo#0", "book.undo#0"], id="before anything"),
        pytest.param(
            "engine.recorded", 2, ["pay.undo#0", "book.undo#0"], id="the next undo recorded as begun"
        ),
        pytest.param(
            "engine.before_record",
            3,
            ["pay.undo#0", "pay.undo#0", "book.undo#0"],
            id="an undo done, not recorded",
        ),
        pytest.param("engine.recorded", 3, ["pay.undo#0", "book.undo#0"], id="an undo recorded"),
    ],
)
def test_crash_in_the_compensation_resumes_at_the_next_that_is_not_done(
    drive: Drive, dies: Callable[..., Run], point: str, at: int, undone: list[str]
) -> None:
    run = Trip.start(TripInput(fail=True, wait=3600))
    advance(run.pk)  # up to the sleep
    Wait.objects.update(due_at=run.created_at)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)
    dies(run, point, at=at)
    assert drive(run).state == RunState.COMPENSATED
    assert Trip.done == ["book#0", "pay#0", *undone], "an idempotent undo is called again, with the same key"
    assert kinds(run).count("compensation_started") == 1
    assert {row.operation_id for row in run.steps.filter(state="UNDONE")} == {"book#0", "pay#0"}


@pytest.mark.case("E37")
def test_kill_undoes_nothing_fences_the_worker_and_gives_the_key_away(drive: Drive) -> None:
    meanwhile("pay#0", lambda operation: kill_run(operation.run_id, **BY))
    run, heir = Trip.start(TripInput(key="a")), Trip.start(TripInput(key="a"))
    assert advance(run.pk) is None, "its worker learns that the run is no longer its own"
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.CANCELLED, "RUN_KILLED")
    assert Trip.done == ["book#0", "pay#0"]
    assert states(run) == {"book#0": "SUCCEEDED"}
    assert VirtualObjectState.objects.get(key="trip:a").holder_id == heir.pk
    act = Act.objects.get(action="kill")
    assert (act.actor, act.reason, act.target) == ("ops", "because", f"run:{run.pk}")
    assert drive(heir).state == RunState.SUCCEEDED
    with pytest.raises(RunEndedError):
        kill_run(run.pk, **BY)


def test_cancel_waits_for_what_cannot_be_called_off_and_does_not_spin(drive: Drive) -> None:
    run = Transferring.start(TripInput())
    advance(run.pk)
    cancel_run(run.pk, **BY)
    assert advance(run.pk) is not None
    run.refresh_from_db()
    assert (run.state, run.wake_at, run.asked) == (RunState.WAITING, None, False)
    assert (wake_asked(), ring_due_runs(), advance(run.pk)) == (0, 0, None), "nobody looks at it in vain"
    [reference] = Wait.objects.filter(run=run).values_list("reference", flat=True)
    resolve_commands("control-transfer", {reference: CommandResult(value="sent")})
    assert drive(run).state == RunState.CANCELLED
    assert Transferring.undone == ["sent"]


def test_paused_run_does_not_begin_its_next_step_until_it_is_resumed(drive_all: Drive) -> None:
    meanwhile("book#0", lambda operation: pause_run(operation.run_id, **BY))
    run = drive_all(Trip.start(TripInput()))
    assert (run.state, run.operation, run.attempt) == (RunState.PAUSED, "pay#0", 0)
    assert Trip.done == ["book#0"]
    resume_run(run.pk, **BY)
    with pytest.raises(NotPossibleError):
        resume_run(run.pk, **BY)
    assert drive_all(run).state == RunState.SUCCEEDED
    assert run.steps.get(name="pay").attempt == 1, "the pause is no attempt"
    assert list(Act.objects.order_by("id").values_list("action", flat=True)) == ["pause", "resume"]


def test_timer_of_a_paused_run_keeps_its_instant(drive_all: Drive) -> None:
    run = Trip.start(TripInput(wait=3600))
    advance(run.pk)
    before = Run.objects.get(pk=run.pk).wake_at
    pause_run(run.pk, **BY)
    pause_run(run.pk, **BY)
    resume_run(run.pk, **BY)
    run.refresh_from_db()
    assert (run.state, run.wake_at) == (RunState.WAITING, before)
    assert kinds(run)[-2:] == ["run_paused", "run_resumed"]
    pause_run(run.pk, **BY)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)
    assert drive_all(run).state == RunState.PAUSED
    assert ring_due_runs() == 0


def test_pause_asked_in_the_last_moment_leaves_the_retry_its_delay(drive_all: Drive) -> None:
    def pause_and_fail(operation: Operation) -> None:
        pause_run(operation.run_id, **BY)
        raise TransientError("BUSY", "come back later")

    meanwhile("pay#0", pause_and_fail)
    run = Trip.start(TripInput())
    advance(run.pk)
    run.refresh_from_db()
    assert (run.state, run.waiting_for, run.attempt) == (RunState.PAUSED, "retry", 1)
    assert run.wake_at > run.created_at + timedelta(minutes=30)
    resume_run(run.pk, **BY)
    run.refresh_from_db()
    assert (run.state, run.control) == (RunState.WAITING, "")
    assert run.wake_at > run.created_at + timedelta(minutes=30)


def test_what_a_paused_run_waits_for_may_come_meanwhile(drive_all: Drive) -> None:
    run = Asking.start(TripInput())
    advance(run.pk)
    pause_run(run.pk, **BY)
    send_signal(run.pk, "answer", "yes")
    assert drive_all(run).state == RunState.PAUSED
    resume_run(run.pk, **BY)
    assert drive_all(run).output == "yes"


def test_cancel_that_comes_while_the_worker_pauses_the_run_is_not_lost(
    drive_all: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker knows of the pause, and commits it; the cancellation came in between."""
    meanwhile("book#0", lambda operation: pause_run(operation.run_id, **BY))
    run = Trip.start(TripInput())
    reached: list[str] = []

    def cancel_before_the_second_record(point: str) -> None:
        reached.append(point)
        if point == "engine.before_record" and reached.count(point) == 2:
            cancel_run(run.pk, **BY)

    monkeypatch.setattr(crashpoint, "watcher", cancel_before_the_second_record)
    assert drive_all(run).state == RunState.CANCELLED
    assert Trip.done == ["book#0", "book.undo#0"]


def test_pause_of_a_run_whose_worker_died_does_not_hide_that(drive: Drive, dies: Callable[..., Run]) -> None:
    run = dies(Once.start(TripInput()), "engine.before_record")
    pause_run(run.pk, **BY)
    drive(run)
    assert DeadLetter.objects.get(run=run).reason == "uncertain"
    assert Once.calls == ["call#0"]


@pytest.mark.case("E36")
def test_run_that_came_to_wait_for_a_person_while_it_was_cancelled_undoes(drive: Drive) -> None:
    def cancel_and_break(operation: Operation) -> None:
        cancel_run(operation.run_id, **BY)
        Run.objects.filter(pk=operation.run_id).update(attempt=99)
        raise RuntimeError("a bug")

    meanwhile("pay#0", cancel_and_break)
    run = Trip.start(TripInput())
    advance(run.pk)
    run.refresh_from_db()
    assert drive(run).state == RunState.CANCELLED


def test_deadline_compensates_whatever_the_run_waits_for(drive: Drive) -> None:
    run = Asking.start(TripInput())
    assert run.deadline_at == run.created_at + timedelta(hours=1)
    advance(run.pk)
    assert stop_overdue() == 0
    Run.objects.filter(pk=run.pk).update(deadline_at=run.created_at)
    assert stop_overdue() == 1
    assert stop_overdue() == 0
    assert drive(run).state == RunState.FAILED, "nothing was to be undone"
    assert run.error["code"] == "DEADLINE_EXCEEDED"


def test_deadline_that_passes_while_a_step_runs_lets_it_finish(drive: Drive) -> None:
    meanwhile("pay#0", lambda operation: stop_overdue())
    run = Trip.start(TripInput())
    Run.objects.filter(pk=run.pk).update(deadline_at=run.created_at)
    assert drive(run).state == RunState.COMPENSATED
    assert Trip.done == ["book#0", "pay#0", "pay.undo#0", "book.undo#0"]


@pytest.mark.case("E53")
def test_one_run_that_cannot_be_stopped_keeps_no_other_from_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [Asking.start(TripInput()) for _ in range(3)]
    Run.objects.update(deadline_at=runs[0].created_at)

    def stop(run_id: Any, **rest: Any) -> Run:
        if run_id == runs[1].pk:
            raise ZeroDivisionError
        return compensate_run(run_id, **rest)

    monkeypatch.setattr("workflows.engine.control.compensate_run", stop)
    assert stop_overdue() == 2
