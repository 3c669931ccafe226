"""Virtual objects: one holder at a time, an inbox in order, no circles, and what people may do about it."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.integration.workflows.keys import drive_all, holder, row
from tests.sample.objects import (
    Detour,
    DetourInput,
    Holds,
    ListState,
    PairInput,
    Parked,
    Released,
    Wallet,
    WalletState,
)
from workflows import (
    BadStateError,
    InvalidInputError,
    NotPossibleError,
    NotReplayableError,
    ObjectCall,
    ObjectConflictError,
    ObjectParkedError,
    UnknownWorkflowError,
    cancel_run,
    claim,
    describe_object,
    edit_state,
    kill_run,
    on_blocked_key,
    pause_run,
    pause_scope,
    release,
    replay_dead_letter,
    resume_run,
    resume_scope,
    send_signal,
    skip_head,
    verify_history,
)
from workflows.alerts import alert_blocked_keys
from workflows.engine import objects as engine_objects
from workflows.engine.drive import advance
from workflows.engine.keys import inbox, release_key, take_key
from workflows.engine.replay import refuse_cycle
from workflows.models import Act, Limit, Run, VirtualObjectState
from workflows.states import RunState
from workflows.sweeper import ring_due_runs, sweep

pytestmark = [pytest.mark.sqlite_too, pytest.mark.django_db]
Drive = Callable[[Run], Run]


# --- Cycles -----------------------------------------------------------------------------------------------


@pytest.mark.case("E44")
def test_object_that_calls_itself_is_refused_at_once(drive: Drive) -> None:
    run = drive(Wallet("a").again(Decimal(1)).start())
    assert (run.state, run.error["code"]) == (RunState.FAILED, "OBJECT_CYCLE")
    assert not run.children.exists()
    assert holder("wallet:a") is None


@pytest.mark.case("E44")
def test_object_that_calls_itself_through_a_workflow_is_refused(drive: Drive) -> None:
    run = Wallet("a").through("x").start()
    drive_all(run)
    assert (run.state, run.error["code"]) == (RunState.FAILED, "OBJECT_CYCLE")
    assert run.children.get().error["code"] == "OBJECT_CYCLE"


@pytest.mark.case("E44")
def test_two_runs_that_want_each_others_objects_do_not_wait_for_ever(drive: Drive) -> None:
    """No call is within another here: each run holds one wallet, and a child of it queues for the other."""
    one = Holds.start(PairInput(holder="a", wants="b"))
    two = Holds.start(PairInput(holder="b", wants="a"))
    for run in (one, two):
        advance(run.pk)
        send_signal(run.pk, "go", "")
    drive_all(one, two)
    assert sorted([one.state, two.state]) == [RunState.FAILED, RunState.SUCCEEDED]
    refused = one if one.state == RunState.FAILED else two
    assert refused.error["code"] == "OBJECT_CYCLE"
    assert (holder("wallet:a"), holder("wallet:b")) == (None, None)


@pytest.mark.case("E44")
def test_circle_of_three_is_found_by_the_one_that_would_close_it(drive: Drive) -> None:
    pairs = [("a", "b"), ("b", "c"), ("c", "a")]
    runs = [Holds.start(PairInput(holder=holds, wants=wants)) for holds, wants in pairs]
    for run in runs:
        advance(run.pk)
        send_signal(run.pk, "go", "")
    drive_all(*runs)
    assert [run.state for run in runs] == [RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.FAILED]
    assert runs[2].error["code"] == "OBJECT_CYCLE"


@pytest.mark.case("E44")
def test_waiting_behind_somebody_who_waits_for_nobody_is_no_cycle(drive: Drive) -> None:
    blocking = Wallet("b").ask("?").start()
    advance(blocking.pk)
    run = Holds.start(PairInput(holder="a", wants="b"))
    advance(run.pk)
    send_signal(run.pk, "go", "")
    drive_all(run)
    assert run.children.get().waiting_for == "key"
    send_signal(blocking.pk, "answer", "go on")
    drive_all(run)
    assert run.state == RunState.SUCCEEDED


# --- The inbox and who holds it ---------------------------------------------------------------------------


def test_calls_take_their_turns_in_the_order_in_which_they_came(drive: Drive) -> None:
    asking = Released("a").ask("first").start()
    advance(asking.pk)
    calls = [Released("a").append(str(number)).start() for number in range(5)]
    status = describe_object("released:a")
    assert (status.holder, status.waiting, status.version) == (asking, 5, 1)
    assert status.inbox == calls
    send_signal(asking.pk, "answer", 1)
    drive_all()
    assert Released("a").read() == ["first", "0", "1", "2", "3", "4"]
    assert describe_object("released:a").holder is None


@pytest.mark.case("E37")
def test_killed_holder_leaves_the_state_and_gives_the_object_to_the_next(drive: Drive) -> None:
    asking = Wallet("a").ask("?").start()
    advance(asking.pk)
    behind = Wallet("a").credit(Decimal(1)).start()
    kill_run(asking.pk, actor="ops", reason="hopeless")
    assert holder("wallet:a") == behind
    assert drive(behind).state == RunState.SUCCEEDED
    assert Wallet("a").seen() == (Decimal(1), ["?"], 2)


def test_cancelled_call_leaves_the_inbox(drive: Drive) -> None:
    asking = Wallet("a").ask("?").start()
    advance(asking.pk)
    first, second = (Wallet("a").credit(Decimal(1)).start() for _ in range(2))
    cancel_run(first.pk, actor="ops", reason="no")
    assert drive(first).state == RunState.CANCELLED
    send_signal(asking.pk, "answer", "go on")
    advance(asking.pk)
    assert holder("wallet:a") == second


def test_paused_call_keeps_its_place_and_its_pause(drive: Drive) -> None:
    asking = Wallet("a").ask("?").start()
    advance(asking.pk)
    first = Wallet("a").credit(Decimal(1)).start()
    pause_run(first.pk, actor="ops", reason="wait")
    send_signal(asking.pk, "answer", "go on")
    advance(asking.pk)
    first.refresh_from_db()
    assert (holder("wallet:a"), first.state) == (first, RunState.PAUSED)
    resume_run(first.pk, actor="ops", reason="go on")
    assert drive(first).state == RunState.SUCCEEDED


@pytest.mark.case("E43")
def test_run_that_lost_the_object_meanwhile_writes_nothing(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's claim still stands: only the holder says no."""
    drive(Wallet("a").credit(Decimal(5)).start())
    run = Wallet("a").credit(Decimal(1)).start()
    monkeypatch.setattr(
        engine_objects, "crashpoint", lambda name: VirtualObjectState.objects.update(holder=None)
    )
    assert advance(run.pk) is None
    assert Wallet("a").seen() == (Decimal(5), [], 1)
    run.refresh_from_db()
    assert run.state == RunState.RUNNING, "it goes on when its lease has run out"
    assert not run.steps.exists()


@pytest.mark.case("E43")
def test_state_that_another_wrote_meanwhile_is_not_overwritten(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(Wallet("a").credit(Decimal(5)).start())
    run = Wallet("a").credit(Decimal(1)).start()
    monkeypatch.setattr(
        engine_objects, "crashpoint", lambda name: VirtualObjectState.objects.update(version=9)
    )
    assert advance(run.pk) is None
    assert Wallet("a").balance() == 5


@pytest.mark.case("E43")
def test_run_that_does_not_hold_the_object_is_not_given_its_state(drive: Drive) -> None:
    run = Wallet("a").credit(Decimal(1)).start()
    VirtualObjectState.objects.update(holder=None)
    assert advance(run.pk) is None
    assert Wallet("a").balance() == 0


# --- Holders that wait for a person -----------------------------------------------------------------------


@pytest.mark.case("E42")
def test_released_object_goes_on_and_the_replayed_call_queues_again(drive: Drive) -> None:
    stopped = Released("a").append("late", fail="a").start()
    others = [Released("a").append(value).start() for value in "ab"]
    drive(stopped)
    assert stopped.state == RunState.DEAD_LETTER
    assert holder("released:a") == others[0]
    replay_dead_letter(stopped.dead_letters.get().pk, actor="ops", reason="again")
    stopped.refresh_from_db()
    assert (stopped.state, stopped.waiting_for) == (RunState.WAITING, "key")
    drive_all(stopped)
    assert stopped.state == RunState.SUCCEEDED
    assert Released("a").read() == ["a", "late", "b"], "it came first, and so is the next one"


def test_object_is_released_by_a_call_that_no_code_can_carry_on_any_more(drive: Drive) -> None:
    stranded, other = (Released("a").append(value).start() for value in "ab")
    long_ago = stranded.created_at.replace(year=2020)
    Run.objects.filter(pk=stranded.pk).update(fingerprint="?", wake_at=long_ago)
    sweep()
    stranded.refresh_from_db()
    assert (stranded.state, holder("released:a")) == (RunState.DEAD_LETTER, other)
    drive(other)
    Run.objects.filter(pk=stranded.pk).update(fingerprint=other.fingerprint)
    replay_dead_letter(stranded.dead_letters.get().pk, actor="ops", reason="deployed")
    drive(stranded)
    assert Released("a").read() == ["b", "a"]


@pytest.mark.case("E42")
def test_replayed_call_that_had_waited_does_not_change_the_state_a_second_time(drive: Drive) -> None:
    asking = Released("a").ask("first").start()
    advance(asking.pk)
    send_signal(asking.pk, "answer", "no number")
    drive(asking)
    letter = asking.dead_letters.get()
    assert letter.reason == "bad_output"
    blocking = Released("a").ask("second").start()
    advance(blocking.pk)
    replay_dead_letter(letter.pk, actor="ops", reason="again")
    asking.refresh_from_db()
    assert asking.waiting_for == "key"
    asking.waits.update(result=7)
    send_signal(blocking.pk, "answer", 1)
    drive_all(asking, blocking)
    assert (asking.state, asking.output) == (RunState.SUCCEEDED, 7)
    assert Released("a").read() == ["first", "second"]


@pytest.mark.case("E42")
def test_parked_object_takes_nothing_new_while_its_holder_waits_for_a_person(drive: Drive) -> None:
    stopped = Parked("a").append("x", fail=True).start()
    queued = Parked("a").append("y").start()
    drive(stopped)
    with pytest.raises(ObjectParkedError):
        Parked("a").append("z").start()
    assert inbox("parked:a").get() == queued
    kill_run(stopped.pk, actor="ops", reason="give up")
    Parked("a").append("z").start()
    drive_all(queued)
    assert row("parked:a").state == {"values": ["y", "z"]}


@pytest.mark.case("E42")
def test_object_held_by_a_stopped_run_for_long_is_alerted_until_it_is_free(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr("workflows.alerts._key_callbacks", [])
    heard: list[str] = []
    on_blocked_key(lambda key: heard.append(key.key))
    settings.WORKFLOWS = {**settings.WORKFLOWS, "blocked_key_seconds": 3600}
    stopped = drive(Wallet("a").break_down("transient").start())
    assert alert_blocked_keys() == 0, "not at once"
    stopped.dead_letters.update(created_at=stopped.created_at.replace(year=2020))
    assert sweep()["blocked"] == 1
    assert alert_blocked_keys() == 0, "not at every sweep"
    settings.WORKFLOWS = {**settings.WORKFLOWS, "blocked_key_seconds": 0}
    assert alert_blocked_keys() == 1, "but again after a while"
    assert heard == ["wallet:a"] * 2
    kill_run(stopped.pk, actor="ops", reason="give up")
    assert alert_blocked_keys() == 0
    assert row("wallet:a").alerted_at is None


# --- What people may do -----------------------------------------------------------------------------------


def test_paused_key_keeps_its_callers_in_their_places(drive: Drive) -> None:
    pause_scope("key:wallet:a", actor="ops", reason="audit")
    calls = [Wallet("a").credit(Decimal(1), note=str(number)).start() for number in range(3)]
    other = Wallet("b").credit(Decimal(1)).start()
    drive_all(*calls, other)
    assert [call.state for call in calls] == [RunState.READY, RunState.WAITING, RunState.WAITING]
    assert other.state == RunState.SUCCEEDED
    assert describe_object("wallet:a").paused
    resume_scope("key:wallet:a", actor="ops", reason="done")
    drive_all(*calls)
    assert Wallet("a").seen() == (Decimal(3), ["0", "1", "2"], 3)
    acts = Act.objects.filter(target="key:wallet:a").order_by("id").values_list("action", "actor", "reason")
    assert list(acts) == [("pause", "ops", "audit"), ("resume", "ops", "done")]
    assert not Limit.objects.exists(), "a row that limits nothing would slow every claim"


def test_paused_queue_makes_no_work_for_the_sweep(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.sweeper.send", lambda run: None)
    run = Wallet("a").credit(Decimal(1)).start()
    Run.objects.update(wake_at=run.created_at.replace(year=2020))
    pause_scope("queue:workflows", actor="ops", reason="maintenance")
    assert ring_due_runs() == 0
    resume_scope("queue:workflows", actor="ops", reason="over")
    assert ring_due_runs() == 1


def test_run_that_is_held_when_its_scope_is_paused_is_let_go_at_the_next_commit(drive: Drive) -> None:
    run = Holds.start(PairInput(holder="a", wants="b"))
    held = claim(Run, run.pk, 30, state="RUNNING")
    assert held is not None
    pause_scope("key:wallet:a", actor="ops", reason="audit")
    run.refresh_from_db()
    assert (run.control, run.asked) == ("yield", True)
    release(held)


def test_scope_that_is_none_is_refused() -> None:
    for scope in ("wallet:a", "queue:", "keys:a"):
        with pytest.raises(ValueError, match="no scope"):
            pause_scope(scope, actor="ops", reason="typo")


def test_head_of_the_inbox_can_be_skipped(drive: Drive) -> None:
    asking = Wallet("a").ask("?").start()
    advance(asking.pk)
    parent = Detour.start(DetourInput(wallet="a"))
    advance(parent.pk)
    second = Wallet("a").credit(Decimal(2)).start()
    skipped = skip_head("wallet:a", actor="ops", reason="a duplicate")
    assert skipped == parent.children.get()
    assert (skipped.state, skipped.error["code"]) == (RunState.CANCELLED, "OBJECT_CALL_SKIPPED")
    assert inbox("wallet:a").get() == second
    drive_all(parent)
    assert (parent.state, parent.error["code"]) == (RunState.FAILED, "OBJECT_CALL_SKIPPED")
    act = Act.objects.get(action="skip_head")
    assert (act.target, act.actor, act.details["run"]) == ("key:wallet:a", "ops", str(skipped.pk))
    assert list(verify_history()) == []
    skip_head("wallet:a", actor="ops", reason="this one, too")
    with pytest.raises(NotPossibleError):
        skip_head("wallet:a", actor="ops", reason="and another")
    assert holder("wallet:a") == asking


@pytest.mark.case("E56")
def test_edited_state_is_checked_and_noted_with_what_it_was(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(5)).start())
    edited = edit_state("wallet:a", {"balance": "7"}, expected_version=1, actor="ops", reason="a correction")
    assert (edited.version, Wallet("a").balance()) == (2, 7)
    act = Act.objects.get(action="edit_state")
    assert act.details["before"] == {"balance": "5", "holds": []}
    assert act.details["after"] == {"balance": "7", "holds": []}
    with pytest.raises(InvalidInputError):
        edit_state("wallet:a", {"balance": "x"}, expected_version=2, actor="ops", reason="typo")
    with pytest.raises(NotPossibleError):
        edit_state("saga:a", {}, expected_version=0, actor="ops", reason="no class")
    assert Act.objects.filter(action="edit_state").count() == 1


@pytest.mark.case("E56")
def test_state_is_not_edited_by_somebody_who_looked_at_an_older_one(drive: Drive) -> None:
    drive(Wallet("a").credit(Decimal(5)).start())
    drive(Wallet("a").credit(Decimal(5)).start())
    with pytest.raises(ObjectConflictError, match="version 2, not 1"):
        edit_state("wallet:a", {"balance": "7"}, expected_version=1, actor="ops", reason="late")
    assert Wallet("a").balance() == 10


@pytest.mark.case("E56")
def test_state_is_not_edited_while_a_worker_is_at_a_call(drive: Drive) -> None:
    run = Wallet("a").credit(Decimal(5)).start()
    held = claim(Run, run.pk, 30)
    assert held is not None
    with pytest.raises(ObjectConflictError, match="is at work"):
        edit_state("wallet:a", {"balance": "7"}, expected_version=0, actor="ops", reason="now")
    release(held)
    edit_state("wallet:a", {"balance": "7"}, expected_version=0, actor="ops", reason="now")
    drive(run)
    assert Wallet("a").balance() == 12


def test_unknown_calls_are_refused(drive: Drive) -> None:
    with pytest.raises(UnknownWorkflowError):
        ObjectCall[int](workflow="nobody.there", input={}).start()


@pytest.mark.case("E44")
def test_replay_that_would_close_a_circle_is_refused(drive: Drive) -> None:
    """A released call queues again behind a run that waits, through another object, for its own parent."""
    parent = Holds.start(PairInput(holder="p", wants="x"))
    other = Holds.start(PairInput(holder="q", wants="p"))
    for run in (parent, other):
        advance(run.pk)
    send_signal(parent.pk, "go", "")
    advance(parent.pk)
    child = parent.children.get()
    # As if the child had been stopped, and its object released and taken by the other run, which then calls the parent's.
    VirtualObjectState.objects.filter(key="wallet:x").update(holder=other)
    send_signal(other.pk, "go", "")
    advance(other.pk)
    assert not take_key(child)
    with pytest.raises(NotReplayableError, match="would never end"):
        refuse_cycle(child)


def test_key_is_handed_on_by_whoever_releases_it(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[Run] = []
    monkeypatch.setattr("workflows.engine.keys.ring", rung.append)
    first, second = (Wallet("a").credit(Decimal(1)).start() for _ in range(2))
    release_key(first)
    assert rung == [second]
    assert holder("wallet:a") == second
    release_key(first)
    assert holder("wallet:a") == second, "only the holder can release it"


class Named(BaseModel):
    amount: Decimal = Field(default=Decimal(0), ge=0)


def test_states_are_as_the_model_says(drive: Drive) -> None:
    definition = Wallet.definition
    assert definition.load("a", None) == WalletState()
    with pytest.raises(BadStateError, match="cannot be stored"):
        definition.dump("a", ListState())
    with pytest.raises(BadStateError, match="NUL"):
        definition.dump("a", WalletState(holds=["\x00"]))
    with pytest.raises(BadStateError, match="cannot be stored"):
        definition.dump("a", WalletState.model_construct(balance=object(), holds=[]))
