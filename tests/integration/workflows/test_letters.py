"""What people decide about runs that wait for them: each decision once, whole, and written down with who and why."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import (
    Both,
    Lines,
    Open,
    Order,
    OrderInput,
    Parent,
    Script,
    Sent,
    Strict,
    arrive,
    broken,
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
    RunEndedError,
    cancel_run,
    compensate_dead_letter,
    compensate_run,
    complete_dead_letter,
    discard_dead_letter,
    grouped_letters,
    kill_dead_letter,
    kill_run,
    replay_dead_letter,
    skip_dead_letter,
    verify_history,
)
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.history import output_digest
from workflows.models import Act, DeadLetter, Payload, Run, Step, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
BY = {"actor": "ops", "reason": "the bank said so"}


@pytest.fixture(autouse=True)
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    yield from stopped.quiet(monkeypatch)


# --- Each decision ---------------------------------------------------------------------------------------


def test_completed_step_has_the_given_output_and_the_run_goes_on_behind_it(script: Script) -> None:
    run = stop_at("pay")
    complete_dead_letter(the_letter().pk, value={"receipt": "by hand", "amount": 7}, **BY)
    assert finished(run).state == RunState.SUCCEEDED
    assert script.called.count("pay#0 1") == 1, "it is not carried out again"
    assert "ship#0 by hand" in script.called
    assert run.steps.get(operation_id="pay#0").output == {"receipt": "by hand", "amount": 7}
    assert (run.output, run.error) == ("told: shipped", None)


def test_history_says_that_a_person_completed_the_step(script: Script) -> None:
    run = stop_at("pay")
    letter = complete_dead_letter(the_letter().pk, value={"receipt": "by hand"}, **BY)
    events = list(run.events.order_by("seq"))
    opened = next(event.seq for event in events if event.kind == "dead_letter_opened")
    by_whom, outcome = events[opened : opened + 2]
    assert (by_whom.kind, by_whom.data) == ("dead_letter_completed", {"step": "pay#0", **BY})
    assert outcome.kind == "step_succeeded"
    assert outcome.data["output"] == output_digest({"receipt": "by hand", "amount": 1})
    assert (letter.resolution, letter.resolved_by, letter.note) == ("complete", "ops", BY["reason"])
    assert list(verify_history()) == []


def test_completed_last_step_ends_the_run_and_hands_its_key_on(script: Script) -> None:
    run = stop_at("tell")
    behind = Order.start(OrderInput())
    complete_dead_letter(the_letter().pk, value="told by phone", **BY)
    run.refresh_from_db()
    assert (run.state, run.output, run.error) == (RunState.SUCCEEDED, "told by phone", None)
    assert VirtualObjectState.objects.get(key="customer:ada").holder_id == behind.pk
    assert finished(behind).state == RunState.SUCCEEDED


def test_parent_goes_on_with_the_output_of_a_child_that_was_completed(script: Script) -> None:
    parent = stop_at("tell", lambda: Parent.start(OrderInput()))
    complete_dead_letter(the_letter().pk, value="told by phone", **BY)
    assert finished(parent).output == "told by phone"


def test_large_value_is_kept_beside_the_row_like_any_output(script: Script, settings: Any) -> None:
    settings.WORKFLOWS = {**settings.WORKFLOWS, "output_bytes_inline": 50}
    run = stop_at("pay")
    complete_dead_letter(the_letter().pk, value={"receipt": "long " * 50}, **BY)
    assert Payload.objects.get(run=run).data["receipt"] == "long " * 50
    assert finished(run).state == RunState.SUCCEEDED
    assert f"ship#0 {'long ' * 50}".strip() in script.called


@pytest.mark.parametrize(
    ("value", "field"), [({"amount": 1}, "receipt"), ({"receipt": "x", "amount": "many"}, "amount")]
)
def test_value_that_is_no_output_of_the_step_is_refused_and_nothing_changes(
    script: Script, value: Any, field: str
) -> None:
    run = stop_at("pay")
    with pytest.raises(InvalidInputError) as caught:
        complete_dead_letter(the_letter().pk, value=value, **BY)
    assert [(error["loc"], caught.value.field) for error in caught.value.errors] == [((field,), "value")]
    assert nothing_changed(run)


def nothing_changed(run: Run) -> bool:
    before = run.history_seq
    run.refresh_from_db()
    return (
        run.state == RunState.DEAD_LETTER
        and run.lease_until is None
        and run.history_seq == before
        and the_letter().resolved_at is None
        and not Act.objects.exists()
    )


def test_skipped_step_gives_none_to_those_behind_it(script: Script) -> None:
    run = stop_at("ship")
    skip_dead_letter(the_letter().pk, **BY)
    assert finished(run).output == "told: None"
    assert states(run)["ship#0"] == "SKIPPED"
    assert "dead_letter_skipped" in kinds(run)
    assert run.error is None


@pytest.mark.parametrize(
    ("name", "who"), [("pay", "ship takes its output as Paid"), ("reserve", "pay takes")]
)
def test_step_whose_output_is_needed_can_not_be_skipped(script: Script, name: str, who: str) -> None:
    run = stop_at(name)
    with pytest.raises(NotPossibleError, match=who):
        skip_dead_letter(the_letter().pk, **BY)
    assert nothing_changed(run)


@pytest.mark.case("E40")
def test_compensation_of_an_uncertain_step_includes_its_own_undo(script: Script) -> None:
    run = stop_at("pay")
    assert the_letter().reason == "uncertain"
    script.called.clear()
    compensate_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["pay.undo#0 None", "reserve.undo#0 reserved 1"]
    assert run.error["step"] == "pay", "what went wrong stays in view"


def test_compensation_of_a_step_that_certainly_did_not_happen_leaves_its_undo_out(script: Script) -> None:
    run = stop_at("ship")
    script.called.clear()
    compensate_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["pay.undo#0 by machine", "reserve.undo#0 reserved 1"]


def test_what_was_sent_before_the_run_stopped_is_undone_when_it_arrived_meanwhile(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sent_and_stopped(monkeypatch)
    arrive(run)
    compensate_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["send.undo#0 None"]


def sent_and_stopped(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that asked for something, and then was found to have no code that knows it."""
    run = Sent.start(OrderInput())
    advance(run.pk)
    Run.objects.filter(pk=run.pk).update(fingerprint="another's", wake_at=run.created_at.replace(year=2020))
    sweep()
    Run.objects.filter(pk=run.pk).update(fingerprint=Sent.definition.fingerprint)
    assert the_letter().reason == "definition_changed"
    run.refresh_from_db()
    return run


@pytest.mark.parametrize("decide", [skip_dead_letter, compensate_dead_letter, complete_dead_letter])
def test_nothing_is_decided_while_what_was_asked_for_may_still_happen(
    script: Script, monkeypatch: pytest.MonkeyPatch, decide: Callable[..., Any]
) -> None:
    run = sent_and_stopped(monkeypatch)
    with pytest.raises(NotPossibleError, match=r"carriage .*send#0/0"):
        decide(the_letter().pk, **BY)
    assert nothing_changed(run)


def test_replay_of_a_run_that_was_stopped_while_it_waited_asks_for_nothing_twice(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sent_and_stopped(monkeypatch)
    replay_dead_letter(the_letter().pk, **BY)
    drive_all()
    arrive(run)
    assert finished(run).output == "there"
    assert run.waits.count() == 1


def test_discarded_run_fails_with_its_error_and_undoes_nothing(script: Script) -> None:
    run = stop_at("pay")
    behind = Order.start(OrderInput())
    script.called.clear()
    discard_dead_letter(the_letter().pk, **BY)
    run.refresh_from_db()
    assert (run.state, run.error["step"]) == (RunState.FAILED, "pay")
    assert run.error["code"].startswith("UNEXPECTED_"), "why it failed, not who gave it up"
    assert run.events.get(kind="run_discarded").data == BY
    assert finished(behind).state == RunState.SUCCEEDED, "the key was given on"
    assert not [each for each in script.called if "undo" in each]


@pytest.mark.case("E37")
@pytest.mark.parametrize("kill", [kill_run, None], ids=["run", "dead letter"])
def test_killed_run_undoes_nothing_gives_its_key_on_and_leaves_an_act(script: Script, kill: Any) -> None:
    run = stop_at("pay")
    behind = Order.start(OrderInput())
    script.called.clear()
    if kill is not None:
        kill(run.pk, **BY)
    else:
        kill_dead_letter(the_letter().pk, **BY)
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.CANCELLED, "RUN_KILLED")
    assert run.dead_letters.get().resolution == "kill"
    assert not [each for each in script.called if "undo" in each]
    assert VirtualObjectState.objects.get(key="customer:ada").holder_id == behind.pk
    act = Act.objects.get()
    assert (act.actor, act.action, act.target, act.reason) == ("ops", "kill", f"run:{run.pk}", BY["reason"])
    with pytest.raises(RunEndedError):
        kill_run(run.pk, **BY)


@pytest.mark.case("E37")
def test_worker_at_a_killed_run_records_nothing_more(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Order.start(OrderInput())
    once = iter([lambda: kill_run(run.pk, **BY)])

    def in_the_middle(point: str) -> None:
        if point == "engine.before_record":
            next(once, lambda: None)()

    monkeypatch.setattr("workflows.engine.recording.crashpoint", in_the_middle)
    assert advance(run.pk) is None, "its worker was fenced"
    run.refresh_from_db()
    assert (run.state, states(run)) == (RunState.CANCELLED, {})
    assert script.called == ["reserve#0 1"]
    assert list(verify_history()) == []


# --- Undos -----------------------------------------------------------------------------------------------


def stopped_at_refund() -> Run:
    """An order whose refund failed while it was being undone."""
    stopped.script.fails = {"ship": refused(), "pay.undo": broken()}
    run = Order.start(OrderInput())
    drive_all()
    stopped.script.fails = {}
    stopped.script.called.clear()
    assert the_letter(run).operation_id == "pay.undo#0"
    return run


def test_completed_undo_counts_as_undone_and_the_earlier_ones_follow(script: Script) -> None:
    run = stopped_at_refund()
    complete_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["reserve.undo#0 reserved 1"]
    assert states(run)["pay#0"] == "UNDONE"
    assert run.error["code"] == "REFUSED", "the failure that started the compensation stays in view"


def test_skipped_undo_leaves_its_step_as_it_is_and_the_earlier_ones_follow(script: Script) -> None:
    run = stopped_at_refund()
    skip_dead_letter(the_letter().pk, **BY)
    assert finished(run).state == RunState.COMPENSATED
    assert script.called == ["reserve.undo#0 reserved 1"]
    assert (states(run)["pay#0"], states(run)["pay.undo#0"]) == ("SUCCEEDED", "SKIPPED")


@pytest.mark.parametrize("stop", [compensate_run, cancel_run, None])
def test_run_that_undoes_already_can_not_be_told_to_undo(script: Script, stop: Any) -> None:
    run = stopped_at_refund()
    run.refresh_from_db()
    with pytest.raises(NotPossibleError, match=r"undoes already.*pay.undo#0"):
        compensate_dead_letter(the_letter().pk, **BY) if stop is None else stop(run.pk, **BY)
    assert nothing_changed(run)


# --- Edited input ----------------------------------------------------------------------------------------


def test_replay_with_edited_input_goes_on_with_it_and_keeps_both_digests(script: Script) -> None:
    run = stop_at("pay")
    before, edited = run.input, {"customer": "ada", "amount": 5}
    replay_dead_letter(the_letter().pk, input=edited, **BY)
    assert finished(run).state == RunState.SUCCEEDED
    assert "pay#0 5" in script.called
    assert run.input["amount"] == 5
    data = run.events.get(kind="dead_letter_replayed").data
    assert data == {
        "step": "pay#0",
        "input_before": output_digest(before),
        "input_after": output_digest(run.input),
        **BY,
    }
    assert Act.objects.get().details.items() >= {
        ("input_before", data["input_before"]),
        ("input_after", data["input_after"]),
    }


def test_edited_input_does_not_make_a_repeated_start_another_one(script: Script) -> None:
    start = lambda: Order.start(OrderInput(), idempotency_key="order-1")  # noqa: E731
    run = stop_at("pay", start)
    replay_dead_letter(the_letter().pk, input={"amount": 5}, **BY)
    assert start() == run


@pytest.mark.parametrize(
    ("edited", "error", "match"),
    [
        ({"amount": "many"}, InvalidInputError, "not valid"),
        ({"customer": "bob"}, NotPossibleError, "customer:bob.*customer:ada.*fork"),
    ],
)
def test_input_that_does_not_fit_is_refused_and_nothing_changes(
    script: Script, edited: Any, error: type[Exception], match: str
) -> None:
    run = stop_at("pay")
    with pytest.raises(error, match=match):
        replay_dead_letter(the_letter().pk, input=edited, **BY)
    assert nothing_changed(run)


# --- Branches --------------------------------------------------------------------------------------------


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


# --- Several at once -------------------------------------------------------------------------------------

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


# --- A key that was given away ---------------------------------------------------------------------------


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


# --- Cancelling ------------------------------------------------------------------------------------------


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


# --- Groups ----------------------------------------------------------------------------------------------


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
