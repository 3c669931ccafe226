"""What people decide about branches that wait for them, and about the runs that they are of."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.workflows.stopped import (
    BY,
    Both,
    Lines,
    OrderInput,
    Script,
    Strict,
    drive_all,
    finished,
    stop_at,
    the_letter,
)
from workflows import (
    InvalidInputError,
    NotPossibleError,
    NotReplayableError,
    cancel_run,
    compensate_dead_letter,
    compensate_run,
    complete_dead_letter,
    discard_dead_letter,
    kill_dead_letter,
    kill_run,
    replay_dead_letter,
    skip_dead_letter,
    verify_history,
)
from workflows.engine.drive import advance
from workflows.models import DeadLetter, Run
from workflows.states import RunState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]


def lines(workflow: type[Any] = Lines) -> Run:
    return stop_at("pack#1", lambda: workflow.start(OrderInput()))


def test_completed_branch_leaves_its_output_with_the_parent_which_goes_on(script: Script) -> None:
    run = lines()
    complete_dead_letter(the_letter().pk, value="by hand", **BY)
    drive_all()
    assert run.steps.get(operation_id="pack#1").output == "by hand"
    assert finished(run).output == 3
    assert "count#0 ['A', 'by hand', 'C']" in script.called


def test_skipped_branch_is_none_in_the_list(script: Script) -> None:
    run = lines()
    skip_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.SUCCEEDED
    assert "count#0 ['A', None, 'C']" in script.called


def test_branch_can_not_be_skipped_when_every_item_is_needed(script: Script) -> None:
    lines(Strict)
    with pytest.raises(NotPossibleError, match=r"count takes its output as list\[str\]"):
        skip_dead_letter(the_letter().pk, **BY)


def test_branch_is_replayed_with_another_item(script: Script) -> None:
    run = lines()
    replay_dead_letter(the_letter().pk, input="better", **BY)
    assert finished(run).state == RunState.SUCCEEDED
    assert "count#0 ['A', 'BETTER', 'C']" in script.called
    with pytest.raises(NotReplayableError):
        replay_dead_letter(DeadLetter.objects.get().pk, input="best", **BY)


def test_item_of_another_type_is_refused(script: Script) -> None:
    lines()
    with pytest.raises(InvalidInputError, match="no item of pack"):
        replay_dead_letter(the_letter().pk, input={"no": "text"}, **BY)


def test_input_of_a_parallel_branch_is_its_parents_and_can_not_be_edited(script: Script) -> None:
    run = stop_at("left", lambda: Both.start(OrderInput()))
    with pytest.raises(NotPossibleError, match=f"input from run {run.pk}"):
        replay_dead_letter(the_letter().pk, input={}, **BY)
    replay_dead_letter(the_letter().pk, **BY)
    assert finished(run).output == "left right"


@pytest.mark.parametrize("decide", [compensate_dead_letter, discard_dead_letter, kill_dead_letter])
def test_branch_that_is_given_up_makes_its_parent_undo_the_others(
    script: Script, decide: Callable[..., Any]
) -> None:
    run = lines()
    branch = the_letter().run
    script.called.clear()
    decide(the_letter().pk, **BY)
    drive_all()
    assert finished(run).state == RunState.COMPENSATED
    undone = ["pack.undo#2 c", "pack.undo#0 a", "begin.undo#0 begun"]
    # An exception that nobody foresaw leaves open what had happened by then.
    assert [each for each in script.called if each != "pack.undo#1 b"] == undone
    branch.refresh_from_db()
    assert branch.state == (RunState.CANCELLED if decide is kill_dead_letter else RunState.FAILED)
    assert list(verify_history()) == []


def test_branch_killed_before_it_began_is_no_success_to_its_parent(script: Script) -> None:
    run = Lines.start(OrderInput())
    advance(run.pk)
    branch = Run.objects.get(branch="pack#1")
    kill_run(branch.pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    row = run.steps.get(operation_id="pack#1")
    assert (row.state, row.uncertain, row.error["code"]) == ("FAILED", False, "RUN_KILLED")


def test_branch_can_not_be_cancelled_apart_from_its_parent(script: Script) -> None:
    run = lines()
    for stop in (cancel_run, compensate_run):
        with pytest.raises(NotPossibleError, match=f"the branch pack#1 of run {run.pk}"):
            stop(the_letter().run_id, **BY)
    cancel_run(run.pk, **BY)
    assert finished(run).state == RunState.CANCELLED
    assert not DeadLetter.objects.filter(state="OPEN").exists()


def test_run_that_was_stopped_while_it_made_its_branches_stops_them_before_it_undoes(
    script: Script, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.WORKFLOWS = {**settings.WORKFLOWS, "max_recoveries": 0}
    monkeypatch.setattr("workflows.engine.branches.CHUNK", 1)
    run = Lines.start(OrderInput())
    with monkeypatch.context() as patch:
        patch.setattr("workflows.engine.branches.crashpoint", lambda point: exit(point))
        with pytest.raises(SystemExit):
            advance(run.pk)
    Run.objects.filter(pk=run.pk).update(lease_until=run.created_at)
    advance(run.pk)
    assert the_letter(run).reason == "crash_loop"
    assert Run.objects.filter(parent=run, finished_at__isnull=True).count() == 1
    compensate_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["begin#0", "begin.undo#0 begun"], "the branch was stopped before it began"
    assert not Run.objects.filter(finished_at__isnull=True).exists()


def test_list_that_can_not_be_made_is_skipped_as_a_whole(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.engine.fanout.select", lambda session, selector: 1 / 0)
    run = Lines.start(OrderInput())
    for _ in range(3):
        drive_all()
        Run.objects.filter(pk=run.pk, state="WAITING").update(wake_at=run.created_at)
    assert the_letter(run).operation_id == "pack*"
    with pytest.raises(NotPossibleError, match="an output for each item"):
        complete_dead_letter(the_letter().pk, value=[], **BY)
    with pytest.raises(NotPossibleError, match="count takes"):
        skip_dead_letter(the_letter().pk, **BY)
