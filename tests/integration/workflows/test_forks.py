"""A new run that begins where an older one stands: what is copied, who owns it, and who is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import (
    BY,
    Lines,
    Order,
    OrderInput,
    Paid,
    Parent,
    Script,
    drive_all,
    finished,
    kinds,
    refused,
    states,
    stop_at,
    the_letter,
)
from workflows import (
    InvalidInputError,
    NotPossibleError,
    NotReplayableError,
    discard_dead_letter,
    fork_run,
    kill_run,
    replay_dead_letter,
    verify_history,
)
from workflows.definition import _REGISTRY, Definition
from workflows.engine.drive import advance
from workflows.history import output_digest
from workflows.models import Act, Payload, Run, VirtualObjectState
from workflows.states import RunState

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]


@pytest.fixture
def done(script: Script) -> Run:
    """An order that has succeeded."""
    run = finished(Order.start(OrderInput(), correlation_id="order-7"))
    script.called.clear()
    return run


# --- What a fork is --------------------------------------------------------------------------------------


def test_fork_carries_out_its_step_and_those_behind_it_with_the_outputs_before_it(
    script: Script, done: Run
) -> None:
    fork = fork_run(done.pk, "ship", **BY)
    assert finished(fork).state == RunState.SUCCEEDED
    assert script.called == ["ship#0 by machine", "tell#0 shipped"]
    assert fork.output == done.output
    assert (fork.forked_from_id, fork.correlation_id, fork.input) == (done.pk, "order-7", done.input)
    copied, original = (run.steps.get(operation_id="pay#0") for run in (fork, done))
    assert (copied.output, copied.finished_at) == (original.output, original.finished_at)


def test_history_of_a_fork_names_its_origin_and_proves_what_was_copied(script: Script, done: Run) -> None:
    fork = fork_run(done.pk, "ship", **BY)
    assert kinds(fork) == ["run_started", "run_forked"]
    assert fork.events.get(kind="run_forked").data == {
        "origin": str(done.pk),
        "step": "ship#0",
        "copied": {
            "reserve#0": output_digest("reserved 1"),
            "pay#0": output_digest({"receipt": "by machine", "amount": 1}),
        },
        **BY,
    }
    act = Act.objects.get()
    assert (act.action, act.target, act.details["fork"]) == ("fork", f"run:{done.pk}", str(fork.pk))
    assert finished(fork)
    assert list(verify_history()) == []


def test_run_that_has_ended_stays_as_it_is(script: Script, done: Run) -> None:
    head = done.history_hash
    finished(fork_run(done.pk, "reserve", **BY))
    done.refresh_from_db()
    assert (done.state, done.history_hash) == (RunState.SUCCEEDED, head)
    assert finished(fork_run(done.pk, "tell", **BY)), "and may be forked again"


def test_fork_takes_another_input(script: Script, done: Run) -> None:
    fork = fork_run(done.pk, "pay", input={"customer": "bob", "amount": 9}, **BY)
    assert VirtualObjectState.objects.get(key="customer:bob").holder_id == fork.pk
    assert finished(fork)
    assert script.called[0] == "pay#0 9"


def test_fork_from_the_first_step_starts_everything_anew(script: Script, done: Run) -> None:
    fork = fork_run(done.pk, "reserve", **BY)
    assert fork.events.get(kind="run_forked").data["copied"] == {}
    finished(fork)
    assert len(script.called) == 4


def test_large_outputs_are_copied_too(script: Script, settings: Any) -> None:
    settings.WORKFLOWS = {**settings.WORKFLOWS, "output_bytes_inline": 5}
    run = finished(Order.start(OrderInput()))
    fork = fork_run(run.pk, "ship", **BY)
    assert Payload.objects.filter(run=fork).count() == 2
    assert finished(fork).state == RunState.SUCCEEDED
    assert script.called[-2] == "ship#0 by machine"


def test_fork_queues_for_its_key_like_any_start(script: Script, done: Run) -> None:
    first = Order.start(OrderInput())
    fork = fork_run(done.pk, "ship", **BY)
    assert fork.waiting_for == "key"
    finished(first)
    assert finished(fork).state == RunState.SUCCEEDED


# --- Of a run that waits for a person --------------------------------------------------------------------


def test_forked_dead_letter_is_resolved_and_its_run_ended_with_nothing_undone(script: Script) -> None:
    run = stop_at("ship")
    fork = fork_run(run.pk, "ship", **BY)
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.CANCELLED, "RUN_FORKED")
    letter = run.dead_letters.get()
    assert (letter.state, letter.resolution, letter.resolved_by) == ("RESOLVED", "fork", "ops")
    assert run.events.get(kind="run_superseded").data == {"fork": str(fork.pk), **BY}
    assert VirtualObjectState.objects.get(key="customer:ada").holder_id == fork.pk
    assert finished(fork).state == RunState.SUCCEEDED
    assert not [each for each in script.called if "undo" in each]
    assert list(verify_history()) == []


def test_second_click_on_fork_is_refused_and_names_the_first_fork(script: Script) -> None:
    run = stop_at("ship")
    fork = fork_run(run.pk, "ship", **BY)
    with pytest.raises(NotPossibleError, match=f"forked already, into {fork.pk}"):
        fork_run(run.pk, "ship", **BY)
    with pytest.raises(NotReplayableError, match=r"fork by ops.*has ended CANCELLED"):
        replay_dead_letter(run.dead_letters.get().pk, **BY)
    assert Run.objects.count() == 2


def test_fork_of_a_child_takes_its_place_with_the_parent(script: Script) -> None:
    parent = stop_at("ship", lambda: Parent.start(OrderInput()))
    fork = fork_run(the_letter().run_id, "ship", **BY)
    assert fork.parent_id == parent.pk
    assert finished(parent).output == "told: shipped"
    assert list(verify_history()) == []


def test_fork_that_is_refused_leaves_the_dead_letter_open(script: Script) -> None:
    run = stop_at("ship")
    with pytest.raises(InvalidInputError):
        fork_run(run.pk, "ship", input={"amount": "many"}, **BY)
    run.refresh_from_db()
    assert run.state == RunState.DEAD_LETTER
    assert the_letter(run)
    assert Run.objects.count() == 1


# --- Whose it is to undo ---------------------------------------------------------------------------------


def test_fork_undoes_what_it_took_over_from_a_run_that_did_not_succeed(script: Script) -> None:
    run = stop_at("ship")
    fork = fork_run(run.pk, "ship", **BY)
    script.fails = {"ship": refused()}
    assert finished(fork).state == RunState.COMPENSATED
    assert script.called[-2:] == ["pay.undo#0 by machine", "reserve.undo#0 reserved 1"]


def test_fork_of_a_run_that_succeeded_leaves_that_ones_work_alone(script: Script, done: Run) -> None:
    script.fails = {"tell": refused()}
    fork = fork_run(done.pk, "pay", **BY)
    assert finished(fork).state == RunState.COMPENSATED
    assert [each for each in script.called if "undo" in each] == ["pay.undo#0 by machine"], (
        "its own step only"
    )
    assert states(fork)["reserve#0"] == "SUCCEEDED"


def test_of_two_forks_of_a_killed_run_the_first_undoes_what_both_have(script: Script) -> None:
    run = stop_at("ship")
    kill_run(run.pk, **BY)
    forks = [fork_run(run.pk, "ship", input={"customer": name}, **BY) for name in ("ada", "bob")]
    script.fails = {"ship": refused()}
    assert [finished(fork).state for fork in forks] == [RunState.COMPENSATED, RunState.FAILED]
    assert script.called.count("reserve.undo#0 reserved 1") == 1
    again = fork_run(forks[1].pk, "ship", **BY)
    assert finished(again).state == RunState.FAILED, "what was borrowed stays so"


# --- Lists -----------------------------------------------------------------------------------------------


def test_fork_behind_a_list_has_all_its_items(script: Script) -> None:
    run = stop_at("count", lambda: Lines.start(OrderInput()))
    script.called.clear()
    fork = fork_run(run.pk, "count", **BY)
    assert fork.steps.filter(name="pack").count() == 3
    assert set(fork.events.get(kind="run_forked").data["copied"]) == {"begin#0", "pack*"}
    assert finished(fork).output == 3
    assert script.called == ["count#0 ['A', 'B', 'C']"]


def test_fork_undoes_the_items_that_it_took_over(script: Script) -> None:
    run = stop_at("count", lambda: Lines.start(OrderInput()))
    first = fork_run(run.pk, "count", **BY)
    script.fails = {"count": stopped.broken()}
    drive_all()
    second = fork_run(first.pk, "count", **BY)
    script.called.clear()
    script.fails = {"count": refused()}
    assert finished(second).state == RunState.COMPENSATED
    undone = ["pack.undo#2 c", "pack.undo#1 b", "pack.undo#0 a", "begin.undo#0 begun"]
    assert script.called[1:] == undone, "each with its item, which the first run was given"


def test_fork_from_a_list_begins_it_with_every_item(script: Script) -> None:
    run = stop_at("count", lambda: Lines.start(OrderInput()))
    script.called.clear()
    fork = fork_run(run.pk, "pack", input={"lines": ["x", "y"]}, **BY)
    assert finished(fork).output == 2
    assert sorted(script.called[:2]) == ["pack#0 x", "pack#1 y"]


def test_fork_behind_a_list_that_was_not_finished_is_refused(script: Script) -> None:
    run = stop_at("pack#1", lambda: Lines.start(OrderInput()))
    discard_dead_letter(the_letter().pk, **BY)
    script.fails = {"pack.undo#2": stopped.broken()}
    drive_all()
    kill_run(run.pk, **BY)
    with pytest.raises(NotPossibleError, match="never came to count"):
        fork_run(run.pk, "count", **BY)


# --- Who is refused --------------------------------------------------------------------------------------


@pytest.mark.case("E57")
def test_replay_of_a_run_that_succeeded_is_refused_and_a_fork_offered(script: Script) -> None:
    run = stop_at("ship")
    replay_dead_letter(the_letter().pk, **BY)
    finished(run)
    with pytest.raises(NotReplayableError, match=f"run {run.pk} has ended SUCCEEDED: .*fork it"):
        replay_dead_letter(run.dead_letters.get().pk, **BY)
    assert finished(fork_run(run.pk, "ship", **BY)).state == RunState.SUCCEEDED


def test_live_run_is_refused(script: Script) -> None:
    run = Order.start(OrderInput())
    with pytest.raises(NotPossibleError, match="is READY: cancel it first"):
        fork_run(run.pk, "reserve", **BY)


def test_branch_is_refused(script: Script) -> None:
    run = Lines.start(OrderInput())
    advance(run.pk)
    with pytest.raises(NotPossibleError, match=rf"the branch pack#\d of run {run.pk}: fork that"):
        fork_run(Run.objects.exclude(branch="").first().pk, "pack", **BY)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["nothing", "pay.undo", ""])
def test_step_that_does_not_exist_is_refused_with_those_that_do(script: Script, done: Run, name: str) -> None:
    with pytest.raises(InvalidInputError, match="it has reserve, pay, ship, tell") as caught:
        fork_run(done.pk, name, **BY)
    assert caught.value.field == "from"


def test_step_that_the_run_never_came_to_is_refused(script: Script) -> None:
    run = stop_at("pay")
    with pytest.raises(NotPossibleError, match="never came to ship"):
        fork_run(run.pk, "ship", **BY)


def test_step_behind_one_that_was_undone_is_refused(script: Script) -> None:
    script.fails = {"ship": refused()}
    run = finished(Order.start(OrderInput()))
    with pytest.raises(NotPossibleError, match="reserve#0 is UNDONE in run"):
        fork_run(run.pk, "ship", **BY)
    script.fails = {}
    assert finished(fork_run(run.pk, "reserve", **BY)).state == RunState.SUCCEEDED


# --- Another definition ----------------------------------------------------------------------------------


def changed(**steps: Callable[..., Any]) -> Definition:
    """Return the definition of an order with some steps altered."""
    given = tuple(steps[s.name](s) if s.name in steps else s for s in Order.definition.steps)
    return dataclasses.replace(Order.definition, version=2, steps=given)


def test_fork_runs_by_the_newest_definition(
    script: Script, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        _REGISTRY, "stopped.order", changed(ship=lambda s: dataclasses.replace(s, queue="ops"))
    )
    fork = fork_run(done.pk, "ship", **BY)
    assert (fork.version, fork.queue) == (2, "ops")
    assert finished(fork).state == RunState.SUCCEEDED


def test_output_that_is_of_another_type_today_is_refused(
    script: Script, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PaidTwice(Paid):
        second: str

    other = lambda s: dataclasses.replace(s, output=TypeAdapter(PaidTwice), output_text="PaidTwice")  # noqa: E731
    monkeypatch.setitem(_REGISTRY, "stopped.order", changed(pay=other))
    with pytest.raises(NotPossibleError, match="output of pay#0 is not what pay returns today"):
        fork_run(done.pk, "ship", **BY)
    assert Run.objects.count() == 1


def test_step_that_was_added_before_it_is_refused(
    script: Script, done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *rest = Order.definition.steps
    added = dataclasses.replace(first, name="added", undo=None)
    definition = dataclasses.replace(Order.definition, version=2, steps=(first, added, *rest))
    monkeypatch.setitem(_REGISTRY, "stopped.order", definition)
    with pytest.raises(NotPossibleError, match="added was added or changed since"):
        fork_run(done.pk, "ship", **BY)
