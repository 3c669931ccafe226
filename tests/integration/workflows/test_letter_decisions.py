"""What a person decides about a run that waits for one: whole, and written down with who and why."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.workflows import stopped
from tests.integration.workflows.stopped import (
    BY,
    Order,
    OrderInput,
    Parent,
    Script,
    Sent,
    arrive,
    broken,
    drive_all,
    finished,
    kinds,
    nothing_changed,
    refused,
    states,
    stop_at,
    the_letter,
)
from workflows import (
    InvalidInputError,
    NotPossibleError,
    RunEndedError,
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
from workflows.history import output_digest
from workflows.models import Act, Payload, Run, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db, pytest.mark.usefixtures("script")]


# --- Each decision -------------------------------------------------------------------------------------------


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


# --- Undos ---------------------------------------------------------------------------------------------------


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


# --- Edited input --------------------------------------------------------------------------------------------


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
