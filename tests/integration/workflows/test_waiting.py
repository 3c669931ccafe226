"""Runs that wait for commands: each is asked for once, whatever comes between, and no run sleeps for ever."""

import dataclasses
import time
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from workflows import (
    Command,
    CommandError,
    CommandResult,
    Operation,
    PermanentError,
    Retry,
    Sleep,
    Workflow,
    replay_dead_letter,
    resolve_commands,
    step,
    verify_history,
)
from workflows.definition import _REGISTRY
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.engine.stranded import park_stranded
from workflows.history import _first_fault
from workflows.models import Run, Wait
from workflows.states import RunState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]


class Nothing(BaseModel):
    """No input."""


class Pay(Command):
    """A command that a test ends by hand."""

    kind: ClassVar[str] = "pay"
    result_type: ClassVar[Any] = str
    to: str = ""

    def submit(self, operation: Operation, index: int) -> str:
        if self.to == "nobody":
            raise ValueError("there is no such account")
        return f"{self.to}-{uuid.uuid4().hex}"


class Mixed(Workflow[Nothing, str]):
    class Meta:
        name = "waiting.mixed"

    @step
    def before(self) -> str:
        return "done"

    @before.undo
    def undo_before(self) -> Pay:
        return Pay()

    @step
    def pay(self) -> list[Sleep | Pay]:
        return [Sleep(seconds=0.05), Pay()]

    @step
    def end(self, pay: list[str | None]) -> str:
        return "done"


class Once(Workflow[Nothing, str]):
    calls: ClassVar[list[int]] = []

    class Meta:
        name = "waiting.once"

    @step(effect="at_most_once", retry=Retry(attempts=3, first=0.01))
    def call(self, operation: Operation) -> str:
        self.calls.append(operation.attempt)
        raise TimeoutError("the answer was lost")


class Simple(Workflow[Nothing, str]):
    class Meta:
        name = "waiting.simple"

    @step
    def pay(self) -> Pay:
        return Pay()

    @step
    def end(self, pay: str) -> str:
        return pay


class Hopeless(Workflow[Nothing, str]):
    calls: ClassVar[list[int]] = []

    class Meta:
        name = "waiting.hopeless"

    @step(retry=Retry(attempts=2, first=0.01))
    def pay(self, operation: Operation) -> Pay:
        self.calls.append(operation.attempt)
        return Pay(to="nobody")


class Both(Workflow[Nothing, str]):
    undone: ClassVar[list[str]] = []

    class Meta:
        name = "waiting.both"

    @step
    def first(self) -> str:
        return ""

    @first.undo
    def undo_first(self) -> None:
        self.undone.append("first")

    @step
    def both(self) -> list[Pay]:
        return [Pay(to="a"), Pay(to="b")]

    @both.undo
    def undo_both(self, both: list[str] | None) -> None:
        self.undone.append(f"both {both}")


class Turning(Workflow[Nothing, str]):
    class Meta:
        name, queue = "waiting.turning", "q1"

    @step
    def a(self) -> int:
        return 1

    @a.undo
    def undo_a(self) -> None: ...

    @step(queue="q2")
    def b(self) -> int:
        raise PermanentError("NO", "no")

    @step(queue="q3")
    def c(self) -> str:
        return ""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    for workflow in (Once, Hopeless):
        workflow.calls.clear()
    Both.undone.clear()


def submitted(run: Run) -> list[str]:
    return list(Wait.objects.filter(run=run, kind="pay").order_by("id").values_list("reference", flat=True))


def end(reference: str, error: CommandError | None = None) -> None:
    resolve_commands("pay", {reference: CommandResult(value=None if error else "paid", error=error)})


def test_sleep_beside_a_command_delays_the_step_and_loses_no_wake_up(drive: Callable[[Run], Run]) -> None:
    run = Mixed.start(Nothing())
    advance(run.pk)
    end(submitted(run)[0])
    assert drive(run).state == RunState.SUCCEEDED


def test_sleep_left_by_a_failed_step_does_not_hold_up_its_compensation(drive: Callable[[Run], Run]) -> None:
    run = Mixed.start(Nothing())
    advance(run.pk)
    end(submitted(run)[0], CommandError(code="NO", message="no"))
    deadline = time.monotonic() + 5
    while len(submitted(run)) < 2 and time.monotonic() < deadline:
        advance(run.pk)
    end(submitted(run)[1])
    assert drive(run).state == RunState.COMPENSATED


def test_command_that_ends_while_its_run_goes_back_to_sleep_wakes_it(
    drive: Callable[[Run], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Mixed.start(Nothing())
    advance(run.pk)
    [reference] = submitted(run)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)  # woken for nothing

    def another_worker(point: str) -> None:
        if point == "engine.before_record":
            end(reference)

    monkeypatch.setattr("workflows.engine.recording.crashpoint", another_worker)
    assert drive(run).state == RunState.SUCCEEDED


def test_at_most_once_step_that_times_out_asks_a_person(drive: Callable[[Run], Run]) -> None:
    run = drive(Once.start(Nothing()))
    assert Once.calls == [1]
    assert run.dead_letters.get().reason == "uncertain"


def test_deploy_does_not_hide_that_an_effect_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Once.start(Nothing())
    claim_run(run.pk)  # claimed, its attempt counted; here the worker dies
    Run.objects.filter(pk=run.pk).update(lease_until=run.created_at)
    changed = dataclasses.replace(Once.definition, version=2)
    monkeypatch.setitem(_REGISTRY, "waiting.once", changed)
    advance(run.pk)
    assert run.dead_letters.get().reason == "uncertain"


def test_replay_of_a_run_that_was_stopped_while_it_waited_asks_for_nothing_twice(
    drive: Callable[[Run], Run], monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    run = Simple.start(Nothing())
    advance(run.pk)
    first, second = Simple.definition.steps
    renamed = dataclasses.replace(Simple.definition, steps=(dataclasses.replace(first, name="pays"), second))
    monkeypatch.setitem(_REGISTRY, "waiting.simple", renamed)
    end(submitted(run)[0])
    assert advance(run.pk) is None, "a worker with other steps leaves it to those that know them"
    settings.WORKFLOWS = {**settings.WORKFLOWS, "stranded_seconds": -1}
    assert park_stranded() == 1
    letter = run.dead_letters.get()
    assert letter.reason == "definition_changed"
    monkeypatch.setitem(_REGISTRY, "waiting.simple", Simple.definition)
    replay_dead_letter(letter.pk, actor="ops", reason="the old code is back")
    assert drive(run).state == RunState.SUCCEEDED
    assert len(submitted(run)) == 1


def test_command_that_cannot_be_submitted_is_the_steps_failure(drive: Callable[[Run], Run]) -> None:
    run = drive(Hopeless.start(Nothing()))
    assert Hopeless.calls == [1, 2]
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["message"]) == ("retries_exhausted", "there is no such account")


@pytest.mark.case("E40")
def test_step_of_which_only_a_part_happened_is_undone_too(drive: Callable[[Run], Run]) -> None:
    run = Both.start(Nothing())
    advance(run.pk)
    done, failed = submitted(run)
    end(done)
    end(failed, CommandError(code="NO", message="no"))
    assert drive(run).state == RunState.COMPENSATED
    assert Both.undone == ["both None", "first"]


def test_compensation_runs_on_the_queue_of_what_it_undoes() -> None:
    run = Turning.start(Nothing())
    advance(run.pk)
    session = advance(run.pk)
    assert session is not None
    assert session.run.compensating
    assert (session.handed_over, session.run.queue) == (True, "q1")


def test_run_that_moves_on_while_it_is_verified_raises_no_alarm() -> None:
    run = Simple.start(Nothing())
    runs = list(Run.objects.all())
    advance(run.pk)
    assert _first_fault(runs[0]) is not None

    class Read:
        def iterator(self, chunk_size: int) -> list[Run]:
            return runs

    assert list(verify_history(Read())) == []  # type: ignore[arg-type]
