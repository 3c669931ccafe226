"""Dead letters when several decide at once, when a key was given away, when a run is cancelled; and their groups."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import (
    BY,
    Open,
    Order,
    OrderInput,
    Script,
    broken,
    drive_all,
    finished,
    nothing_changed,
    refused,
    stop_at,
    the_letter,
)
from workflows import (
    NotReplayableError,
    cancel_run,
    compensate_dead_letter,
    complete_dead_letter,
    discard_dead_letter,
    grouped_letters,
    kill_dead_letter,
    replay_dead_letter,
    skip_dead_letter,
)
from workflows.engine.claiming import claim_run
from workflows.models import Act, DeadLetter, Run, Step
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]


# --- Several at once -----------------------------------------------------------------------------------------


DECISIONS: dict[str, Callable[..., Any]] = {
    "replay": replay_dead_letter,
    "complete": lambda pk, **by: complete_dead_letter(pk, value="x", **by),
    "skip": skip_dead_letter,
    "compensate": compensate_dead_letter,
    "discard": discard_dead_letter,
    "kill": kill_dead_letter,
}


@pytest.mark.parametrize("name", DECISIONS)
def test_second_click_is_refused_and_changes_nothing(script: Script, name: str) -> None:
    run = stop_at("ship")
    letter = the_letter()
    DECISIONS[name](letter.pk, **BY)
    run.refresh_from_db()
    head = run.history_hash
    for again in DECISIONS.values():
        with pytest.raises(NotReplayableError, match=f"{name} by ops"):
            again(letter.pk, actor="eve", reason="me, too")
    run.refresh_from_db()
    assert run.history_hash == head
    assert [act.actor for act in Act.objects.all()] == ["ops"]


@pytest.mark.parametrize("name", DECISIONS)
def test_decision_that_dies_in_the_middle_has_not_happened(
    script: Script, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stop_at("ship")
    where = (
        "workflows.engine.ending._write_end"
        if name in ("discard", "kill")
        else "workflows.engine.session.checkpoint"
    )
    with monkeypatch.context() as patch:
        patch.setattr(where, lambda *_args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            DECISIONS[name](the_letter().pk, **BY)
    assert nothing_changed(run)
    DECISIONS[name](the_letter().pk, **BY)
    assert finished(run).finished_at


@pytest.mark.case("E56")
def test_decision_about_a_run_that_a_worker_has_again_is_refused(script: Script) -> None:
    run = stop_at("ship")
    letter = the_letter()
    replay_dead_letter(letter.pk, **BY)
    held = claim_run(run.pk)
    assert held is not None
    for name, decide in DECISIONS.items():
        with pytest.raises(NotReplayableError):
            decide(letter.pk, actor="eve", reason=name)
    run.refresh_from_db()
    assert (run.state, run.epoch) == (RunState.RUNNING, held.epoch), "the worker has lost nothing"


# --- A key that was given away -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["replay", "complete", "compensate"])
def test_run_that_gave_its_key_away_queues_up_for_it_again(script: Script, name: str) -> None:
    run = stop_at("begin", lambda: Open.start(OrderInput()))
    other = Open.start(OrderInput())
    assert other.waiting_for == "", "it has the key meanwhile"
    DECISIONS[name](the_letter().pk, **BY)
    run.refresh_from_db()
    if name == "compensate":
        assert run.state == RunState.FAILED, "there was nothing to undo"
        return
    assert run.waiting_for == "key"
    assert finished(other).state == RunState.SUCCEEDED
    assert finished(run).state == RunState.SUCCEEDED
    assert script.called.count("begin#0 1") == (3 if name == "replay" else 2)


# --- Cancelling ----------------------------------------------------------------------------------------------


def while_it_runs(monkeypatch: pytest.MonkeyPatch, operation: str, act: Callable[[], Any]) -> None:
    """Do something once, in the middle of an operation."""
    once = iter([act])
    plain = stopped.Script.__call__

    def call(self: Script, at: Any, note: object = "") -> None:
        if at.id == operation:
            next(once, lambda: None)()
        plain(self, at, note)

    monkeypatch.setattr(stopped.Script, "__call__", call)


@pytest.mark.case("E36")
def test_cancelled_while_a_step_runs_keeps_its_output_and_then_undoes_it(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Order.start(OrderInput())
    while_it_runs(monkeypatch, "pay#0", lambda: cancel_run(run.pk, **BY))
    assert finished(run).state == RunState.CANCELLED
    assert [each.partition(" ")[0] for each in script.called] == [
        "reserve#0", "pay#0", "pay.undo#0", "reserve.undo#0",
    ]  # fmt: skip
    assert run.steps.get(operation_id="pay#0").output["receipt"] == "by machine"
    assert (run.error["code"], run.error["message"]) == ("RUN_CANCELLED", f"ops: {BY['reason']}")


@pytest.mark.case("E36")
def test_cancelling_what_undoes_already_changes_nothing(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.fails = {"ship": refused()}
    run = Order.start(OrderInput())
    while_it_runs(monkeypatch, "pay.undo#0", lambda: cancel_run(run.pk, **BY))
    assert finished(run).state == RunState.COMPENSATED
    assert script.called.count("reserve.undo#0 reserved 1") == 1
    assert run.error["code"] == "REFUSED"


@pytest.mark.case("E36")
@pytest.mark.parametrize("told", [True, False], ids=["by its worker", "by the sweep"])
def test_cancelled_while_its_last_attempt_fails_is_undone_instead_of_waiting_for_a_person(
    script: Script, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    if not told:  # the worker dies behind its commit
        monkeypatch.setattr("workflows.engine.drive.obey_late", lambda run: None)
    run = Order.start(OrderInput())
    while_it_runs(monkeypatch, "pay#0", lambda: cancel_run(run.pk, **BY))
    script.fails = {"pay": broken()}
    drive_all()
    if not told:
        assert the_letter(run)
        sweep()
    assert finished(run).state == RunState.CANCELLED
    assert "pay.undo#0 None" in script.called, "it may have happened"
    letter = run.dead_letters.get()
    assert (letter.resolution, letter.resolved_by) == ("cancel", "ops")


def test_cancelled_while_it_waits_for_a_person_is_undone_with_what_is_uncertain(script: Script) -> None:
    run = stop_at("pay")
    cancel_run(run.pk, **BY)
    assert finished(run).state == RunState.CANCELLED
    assert script.called[-2:] == ["pay.undo#0 None", "reserve.undo#0 reserved 1"]
    assert run.dead_letters.get().resolution == "cancel"


# --- Groups --------------------------------------------------------------------------------------------------


def test_letters_that_differ_only_in_particulars_are_one_group(script: Script) -> None:
    for number in range(5):
        code = "TIMEOUT" if number < 3 else "REJECTED"
        script.fails = {"pay": broken(code, f"no answer for order {number} within {number}.5 s")}
        Order.start(OrderInput(customer=str(number)))
        drive_all()
    many, few = grouped_letters()
    assert (many.count, few.count) == (3, 2)
    assert many.sample.error["message"] == "no answer for order 2 within 2.5 s", "the newest stands for them"
    assert many.first_at < many.last_at <= few.first_at
    discard_dead_letter(many.sample.pk, **BY)
    assert [group.count for group in grouped_letters()] == [2, 2]
    assert [group.count for group in grouped_letters(DeadLetter.objects.all(), limit=1)] == [3]


def test_groups_cost_two_queries(script: Script, django_assert_num_queries: Any) -> None:
    for number in range(3):
        script.fails = {"pay": broken(f"CODE_{'ABC'[number]}")}
        Order.start(OrderInput(customer=str(number)))
        drive_all()
    with django_assert_num_queries(2):
        assert len(grouped_letters()) == 3


def test_steps_of_a_run_without_a_row_can_be_completed(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before anything of the operation was tried: there is no row of it yet."""
    run = Order.start(OrderInput())
    Run.objects.filter(pk=run.pk).update(fingerprint="?", wake_at=run.created_at.replace(year=2020))
    sweep()
    Run.objects.filter(pk=run.pk).update(fingerprint=Order.definition.fingerprint)
    assert not Step.objects.exists()
    complete_dead_letter(the_letter().pk, value="reserved by hand", **BY)
    assert finished(run).state == RunState.SUCCEEDED
    assert script.called[0] == "pay#0 1"
