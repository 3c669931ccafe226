"""Several things at once: each is done once, all are waited for, and what fails is undone once, in reverse order."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from workflows import (
    Operation,
    PermanentError,
    Retry,
    TransientError,
    Workflow,
    cancel_run,
    kill_run,
    step,
    verify_history,
)
from workflows.engine.branches import join_branches, join_forgotten
from workflows.engine.drive import advance
from workflows.engine.unbegun import leave_out, next_siblings
from workflows.models import Payload, Run
from workflows.states import RunState, StepState
from workflows.tasks import _take_up_siblings

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[..., Run]

BY = {"actor": "ops", "reason": "because"}


class Lines(BaseModel):
    lines: list[int] = []
    bad: list[int] = []
    large: bool = False
    break_fan_out: bool = False
    last_fails: bool = False


done: list[str] = []
meanwhile: dict[str, Callable[[Operation], Any]] = {}


def do(operation: Operation) -> str:
    done.append(operation.id)
    hook = meanwhile.pop(operation.id, None)
    if hook:
        hook(operation)
    return operation.id


def has_lines(input: Lines) -> bool:
    return bool(input.lines)


def wants_lines(input: Lines) -> bool:
    return input.lines != [0]


def made_list(input: Lines) -> list[int]:
    done.append("made")
    if input.break_fan_out and done.count("made") == 1:
        raise TransientError("NO_LIST", "not yet")
    return input.lines


class Pay(Workflow[Lines, list[int | None]]):
    """A step for each line, then one that takes them all."""

    class Meta:
        name = "branches.pay"

    @step
    def reserve(self, operation: Operation) -> str:
        return do(operation)

    @reserve.undo
    def undo_reserve(self, operation: Operation) -> None:
        do(operation)

    @step(each="input.lines", retry=Retry(attempts=3, first=0.01))
    def pay(self, input: Lines, item: int, operation: Operation) -> dict[str, Any]:
        do(operation)
        if item in input.bad:
            raise PermanentError("BAD_LINE", f"line {item} is bad")
        return {"line": item, "text": "x" * 40_000 if input.large else ""}

    @pay.undo
    def undo_pay(self, item: int, pay: dict[str, Any] | None, operation: Operation) -> None:
        do(operation)
        assert pay is not None
        assert pay["line"] == item

    @step
    def report(self, input: Lines, pay: list[dict[str, Any]], operation: Operation) -> list[int]:
        do(operation)
        if input.last_fails:
            raise PermanentError("NO_REPORT", "no")
        return [each["line"] for each in pay]


class Hasty(Workflow[Lines, list[int]]):
    """The same, and no item is begun any more once one has failed."""

    class Meta:
        name = "branches.hasty"

    @step(each="input.lines", fail_fast=True)
    def pay(self, input: Lines, item: int, operation: Operation) -> int:
        do(operation)
        if item in input.bad:
            raise PermanentError("BAD_LINE", f"line {item} is bad")
        return item

    @pay.undo
    def undo_pay(self, operation: Operation) -> None:
        do(operation)

    @step
    def total(self, pay: list[int | None]) -> list[int]:
        return [each for each in pay if each]


class Neighbours(Workflow[Lines, dict[str, Any]]):
    """Three at the same time, of which the second needs two attempts."""

    class Meta:
        name = "branches.neighbours"

    @step
    def before(self) -> int:
        return 1

    @step(parallel=True)
    def left(self, before: int, operation: Operation) -> int:
        do(operation)
        return before + 1

    @step(parallel=True, retry=Retry(attempts=2, first=0.01))
    def middle(self, operation: Operation) -> str:
        do(operation)
        if operation.attempt == 1:
            raise TransientError("BUSY", "busy")
        return "middle"

    @step(parallel=True, when=has_lines)
    def right(self, operation: Operation) -> str:
        return do(operation)

    @step
    def after(self, left: int, middle: str, right: str | None) -> dict[str, Any]:
        return {"left": left, "middle": middle, "right": right}


class Selecting(Workflow[Lines, list[int]]):
    """Its list is made by a function that fails at first."""

    class Meta:
        name = "branches.selecting"

    @step(
        each=made_list,
        when=wants_lines,
        retry=Retry(attempts=2, first=0.01),
    )
    def pay(self, item: int) -> int:
        return item * 2

    @step
    def total(self, pay: list[int] | None) -> list[int]:
        return [-1] if pay is None else pay


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    done.clear()
    yield
    assert meanwhile == {}, "the test's hook was never reached"
    assert list(verify_history()) == []


def states(run: Run) -> dict[str, str]:
    return {row.operation_id: row.state for row in run.steps.all()}


def branches(run: Run) -> list[Run]:
    return list(Run.objects.filter(parent=run).exclude(branch="").order_by("id"))


def test_outputs_come_in_the_order_of_the_items_whatever_the_order_of_their_ends(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=[5, 3, 9, 3]))
    advance(run.pk)
    for branch in reversed(branches(run)):
        advance(branch.pk)
    assert drive_all(run).output == [5, 3, 9, 3]
    assert done == ["reserve#0", "pay#3", "pay#2", "pay#1", "pay#0", "report#0"]


def test_empty_list_is_a_step_with_an_empty_output(drive_all: Drive) -> None:
    run = drive_all(Pay.start(Lines()))
    assert (run.state, run.output) == (RunState.SUCCEEDED, [])
    assert branches(run) == []


def test_large_outputs_of_items_are_kept_outside_their_rows_and_arrive(drive_all: Drive) -> None:
    run = drive_all(Pay.start(Lines(lines=[1, 2], large=True)))
    assert run.output == [1, 2]
    assert Payload.objects.filter(run=run).count() == 2
    assert [(row.large, row.output) for row in run.steps.filter(name="pay")] == [(True, None)] * 2


def test_undo_of_an_item_is_given_its_item_and_its_output(drive_all: Drive) -> None:
    run = drive_all(Pay.start(Lines(lines=[7, 8], large=True, last_fails=True)))
    assert run.state == RunState.COMPENSATED
    assert done[-3:] == ["pay.undo#1", "pay.undo#0", "reserve.undo#0"]


@pytest.mark.case("E48")
def test_failed_branch_lets_the_others_finish_and_all_are_undone_once_in_reverse_order(
    drive_all: Drive,
) -> None:
    run = drive_all(Pay.start(Lines(lines=[1, 2, 3, 4], bad=[1, 3])))
    assert run.state == RunState.COMPENSATED
    assert run.error == {"code": "BAD_LINE", "message": "line 1 is bad", "step": "pay"}
    assert sorted(done[1:5]) == ["pay#0", "pay#1", "pay#2", "pay#3"]
    assert done[5:] == ["pay.undo#3", "pay.undo#1", "reserve.undo#0"]
    assert states(run)["pay#0"] == states(run)["pay#2"] == StepState.FAILED
    assert run.events.filter(kind="compensation_started").count() == 1


@pytest.mark.case("E48")
def test_fail_fast_leaves_out_what_has_not_begun_and_waits_for_what_has(drive_all: Drive) -> None:
    run = Hasty.start(Lines(lines=[1, 2, 3, 4, 5], bad=[2]))
    advance(run.pk)
    all_of_them = branches(run)
    meanwhile["pay#3"] = lambda operation: advance(all_of_them[1].pk)  # the bad one fails while this one runs
    advance(all_of_them[0].pk)
    advance(all_of_them[3].pk)
    assert [each.state for each in branches(run)] == [
        RunState.SUCCEEDED,
        RunState.FAILED,
        RunState.CANCELLED,
        RunState.SUCCEEDED,
        RunState.CANCELLED,
    ]
    assert drive_all(run).state == RunState.COMPENSATED
    assert done == ["pay#0", "pay#3", "pay#1", "pay.undo#3", "pay.undo#0"]
    assert states(run)["pay#2"] == states(run)["pay#4"] == StepState.SKIPPED
    left_out = branches(run)[2]
    assert left_out.events.get(kind="run_finished").data == {"state": "CANCELLED", "reason": "pay#1 failed"}
    assert run.error["code"] == "BAD_LINE"


@pytest.mark.case("E48")
def test_crash_after_a_fast_failure_leaves_nothing_half_left_out(
    drive_all: Drive, dies: Callable[..., Run]
) -> None:
    run = Hasty.start(Lines(lines=[1, 2, 3], bad=[1]))
    advance(run.pk)
    dies(branches(run)[0], "engine.in_record")
    assert [each.state for each in branches(run)] == [RunState.RUNNING, RunState.READY, RunState.READY]
    assert drive_all(run).state == RunState.COMPENSATED
    assert done == ["pay#0", "pay#0", "pay.undo#0"], "its first attempt may have happened"


@pytest.mark.case("E47")
@pytest.mark.parametrize("reached", [1, 2])
def test_crash_while_branches_are_made_makes_none_of_them_twice(
    drive_all: Drive, dies: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, reached: int
) -> None:
    monkeypatch.setattr("workflows.engine.branches.CHUNK", 3)
    run = dies(Pay.start(Lines(lines=list(range(8)))), "engine.branching", at=reached)
    assert len(branches(run)) == 3 * reached
    assert drive_all(run).output == list(range(8))
    assert sorted(done[1:-1]) == sorted(f"pay#{index}" for index in range(8))
    assert "pay*" not in states(run), "what makes the branches is no step of its own"
    assert run.events.filter(kind="step_branched").count() == 1


@pytest.mark.case("E47")
def test_second_end_of_a_branch_joins_nothing_twice(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=[1, 2]))
    advance(run.pk)
    for branch in branches(run):
        advance(branch.pk)
        assert advance(branch.pk) is None, "a second message for a branch that has ended"
    assert join_branches(run.pk) == join_forgotten() == 0, "the last branch has woken the run"
    assert drive_all(run).output == [1, 2]
    assert run.events.filter(kind="branches_ended").count() == 1


@pytest.mark.case("E47", "E5")
@pytest.mark.parametrize("point", ["engine.recorded", "engine.before_record"])
def test_run_whose_last_branch_died_before_it_could_tell_is_joined(
    drive_all: Drive, dies: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    run = Pay.start(Lines(lines=[1, 2]))
    advance(run.pk)
    first, last = branches(run)
    advance(first.pk)
    monkeypatch.setattr(
        "workflows.engine.recording.join_branches", lambda parent_id: 0
    )  # it died before this
    dies(last, point)
    assert join_forgotten() == (1 if point == "engine.recorded" else 0)
    monkeypatch.undo()
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    assert drive_all(run).output == [1, 2]


def test_branch_that_ends_while_its_run_goes_back_to_wait_wakes_it(
    monkeypatch: pytest.MonkeyPatch, drive_all: Drive
) -> None:
    run = Pay.start(Lines(lines=[1]))
    advance(run.pk)
    [branch] = branches(run)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)  # woken for nothing

    def end_meanwhile(point: str) -> None:
        if point == "engine.before_record":
            monkeypatch.setattr("workflows.engine.recording.crashpoint", lambda point: None)
            advance(branch.pk)

    monkeypatch.setattr("workflows.engine.recording.crashpoint", end_meanwhile)
    advance(run.pk)
    run.refresh_from_db()
    assert run.wake_at is not None
    assert drive_all(run).output == [1]


def test_parallel_steps_are_retried_and_left_out_each_for_itself(drive_all: Drive) -> None:
    run = drive_all(Neighbours.start(Lines()))
    assert run.output == {"left": 2, "middle": "middle", "right": None}
    assert sorted(done) == ["left#0", "middle#0", "middle#0"]
    assert states(run)["right#0"] == StepState.SKIPPED
    run = drive_all(Neighbours.start(Lines(lines=[1])))
    assert run.output["right"] == "right#0"


def test_list_that_could_not_be_made_at_first_leaves_no_step_waiting(drive_all: Drive) -> None:
    run = drive_all(Selecting.start(Lines(lines=[1, 2], break_fan_out=True)))
    assert run.output == [2, 4]
    assert set(states(run).values()) == {StepState.SUCCEEDED}


def test_condition_that_says_no_skips_the_whole_list(drive_all: Drive) -> None:
    run = drive_all(Selecting.start(Lines(lines=[0])))
    assert (run.output, states(run)["pay#0"]) == ([-1], StepState.SKIPPED)


@pytest.mark.case("E36")
def test_cancel_leaves_out_what_has_not_begun_and_undoes_the_rest(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=[1, 2, 3, 4]))
    advance(run.pk)
    advance(branches(run)[0].pk)
    cancel_run(run.pk, **BY)
    assert drive_all(run).state == RunState.CANCELLED
    assert done == ["reserve#0", "pay#0", "pay.undo#0", "reserve.undo#0"]
    assert [each.state for each in branches(run)] == [RunState.SUCCEEDED] + [RunState.CANCELLED] * 3
    assert run.error == {"code": "RUN_CANCELLED", "message": "ops: because", "step": "pay"}


@pytest.mark.case("E36", "E47")
def test_cancel_of_a_run_that_died_while_it_made_its_branches_stops_those_that_are_there(
    drive_all: Drive, dies: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.engine.branches.CHUNK", 2)
    run = dies(Pay.start(Lines(lines=[1, 2, 3, 4])), "engine.branching")
    begun = branches(run)[0]
    meanwhile["pay#0"] = lambda operation: (cancel_run(run.pk, **BY), advance(run.pk))
    advance(begun.pk)
    assert Run.objects.get(pk=run.pk).finished_at is None, "it waits for the branch that runs"
    assert drive_all(run).state == RunState.CANCELLED
    assert done == ["reserve#0", "pay#0", "pay.undo#0", "reserve.undo#0"]


@pytest.mark.case("E37")
def test_kill_ends_the_branches_too(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=[1, 2, 3]))
    advance(run.pk)
    begun = branches(run)[1]
    meanwhile["pay#1"] = lambda operation: kill_run(run.pk, **BY)
    assert advance(begun.pk) is None
    assert {each.state for each in branches(run)} == {RunState.CANCELLED}
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED
    assert done == ["reserve#0", "pay#1"]


def test_killed_branch_is_a_failure_of_its_run(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=[1, 2]))
    advance(run.pk)
    kill_run(branches(run)[0].pk, **BY)
    assert drive_all(run).state == RunState.COMPENSATED
    assert run.error["code"] == "RUN_KILLED"
    assert done == ["reserve#0", "pay#1", "pay.undo#1", "reserve.undo#0"]


def test_branches_that_nothing_lets_anybody_claim_are_not_tried_for_ever(
    drive_all: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Pay.start(Lines(lines=[1, 2, 3]))
    advance(run.pk)
    tried: list[Any] = []
    monkeypatch.setattr("workflows.tasks.drive.advance", tried.append)
    _take_up_siblings(branches(run)[0])
    assert len(tried) <= 6


def test_who_has_finished_a_branch_takes_up_all_that_are_left(drive_all: Drive) -> None:
    run = Pay.start(Lines(lines=list(range(120))))
    advance(run.pk)
    first = branches(run)[0]
    advance(first.pk)
    _take_up_siblings(first)
    assert {each.state for each in branches(run)} == {RunState.SUCCEEDED}
    assert drive_all(run).output == list(range(120))


def test_branch_that_is_taken_up_just_now_is_not_left_out(drive_all: Drive) -> None:
    run = Hasty.start(Lines(lines=[1, 2]))
    advance(run.pk)
    Run.objects.filter(pk=branches(run)[0].pk).update(attempt=1)
    assert [each.branch for each in next_siblings(branches(run)[0], 10)] == ["pay#1"]
    assert leave_out(run.pk, "a test") == 1
    assert [each.state for each in branches(run)] == [RunState.READY, RunState.CANCELLED]
    assert leave_out(run.pk, "a test") == 0
