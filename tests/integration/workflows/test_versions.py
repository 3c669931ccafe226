"""Definitions that change under runs: who goes on with the new one, who is left alone, and what a deploy is told.

A run is begun with one version and driven to an operation; then this process knows another version.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.integration.workflows.versions import (
    NAME,
    POOL,
    Order,
    begin,
    call,
    called,
    deploy,
    drive,
    failing,
    go,
    version,
    wake,
)
from workflows import (
    NotReplayableError,
    Operation,
    Retry,
    TransientError,
    compensate_dead_letter,
    db_now,
    fork_run,
    on_dead_letter,
    replay_dead_letter,
    verify_history,
)
from workflows.definition import Definition
from workflows.engine import migration
from workflows.engine.claiming import claim_run
from workflows.engine.drive import advance
from workflows.engine.stranded import park_stranded
from workflows.models import DeadLetter, Run, Step
from workflows.states import DeadLetterState, RunState
from workflows.sweeper import sweep

pytestmark = [pytest.mark.django_db, pytest.mark.sqlite_too]

PLAIN = "first hear second third last"
BY = {"actor": "ops", "reason": "a deploy"}


@pytest.fixture(autouse=True)
def _stage(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    monkeypatch.setattr("workflows.doorbell.send", lambda run: None)
    # One step per claim: between any two of them another version may be deployed.
    settings.WORKFLOWS = {**settings.WORKFLOWS, "slice_steps": 1}
    called.clear()
    failing.clear()
    yield
    deploy(Order.definition)


@pytest.fixture
def overdue(settings: Any) -> None:
    """What is due is overdue at once."""
    settings.WORKFLOWS = {**settings.WORKFLOWS, "stranded_seconds": -1}


def check() -> dict[str, Any]:
    """Return what `check_definitions --json` says, and with it whether it fails."""
    out = StringIO()
    try:
        call_command("check_definitions", json=True, stdout=out)
    except CommandError:
        return {**json.loads(out.getvalue()), "fails": True}
    return {**json.loads(out.getvalue()), "fails": False}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[DeadLetter]:
    """What people are told."""
    monkeypatch.setattr("workflows.alerts._callbacks", [])
    told: list[DeadLetter] = []
    on_dead_letter(told.append)
    return told


def park_stranded_now() -> int:
    """Park what could not go on, as if it had been due for long."""
    long_ago = db_now() - timedelta(days=1)
    Run.objects.filter(wake_at__isnull=False).update(wake_at=long_ago)
    return park_stranded()


def migrations(run: Run) -> list[dict[str, Any]]:
    return [event.data for event in run.events.filter(kind="definition_migrated")]


@dataclass
class Change:
    """A run that stands somewhere, and a version that is deployed then."""

    name: str
    new: Definition | None
    at: str = "hear#0 command"
    old: Definition = field(default_factory=lambda: version(PLAIN))
    lines: int = 2
    fails: str = ""  # the step that turns the run round, and the undo at which it then stands
    then: str = ""  # what is carried out after the deploy
    why: str = ""  # it can't go on

    def begin(self) -> Run:
        failing.update(self.fails.split())
        run = begin(self.old, self.at, lines=self.lines)
        called.clear()
        failing.clear()
        return run


def each(*changes: Change) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("change", changes, ids=lambda change: change.name)


FAN = "first pack third last"
GROUP = "first left right last"
UNDONE = "second.undo first.undo"

COMPATIBLE = each(
    Change("step appended", version(f"{PLAIN} added"), then="second third last added"),
    Change("step inserted", version("first hear second added third last"), then="second added third last"),
    Change("step inserted next", version("first hear added second third last"), then="added second third last"),
    Change("step ahead removed", version("first hear second last"), then="second last"),
    Change("all ahead removed", version("first hear")),
    Change("order ahead", version("first hear third last"), old=version("first hear last third"), then="third last"),
    Change("type ahead", version(PLAIN, third={"output_text": "int"}), then="second third last"),
    Change("effect ahead", version(PLAIN, third={"effect": "verify"}), then="second third last"),
    Change("queue ahead", version(PLAIN, third={"queue": "other"}), then="second third last"),
    Change("undo ahead", version(PLAIN, second={"undo": None}), then="second third last"),
    Change("own queue", version(PLAIN, hear={"queue": "other"}), then="second third last"),
    Change("own effect", version(PLAIN, hear={"effect": "at_most_once"}), then="second third last"),
    Change("own step about to begin", version(f"{PLAIN} added"), at="hear#0", then="hear second third last added"),
    Change("effect behind", version(PLAIN, first={"effect": "at_most_once"}), then="second third last"),
    Change("version raised", replace(version(PLAIN), version=2), then="second third last"),
    Change("steps ahead made parallel", version("first hear middle right last"), old=version("first hear last"),
           then="middle right last"),
    Change("list ahead added", version("first hear pack last"), then="pack pack last"),
    Change("branches: step appended", version(f"{FAN} added"), "pack* branches", version(FAN), then="third last added"),
    Change("branches: next inserted", version("first pack added last"), "pack* branches", version(FAN), then="added last"),
    Change("branches: about to begin", version(f"{FAN} added"), "pack*", version(FAN), then="pack pack third last added"),
    Change("branches: none, behind", version(f"{FAN} added"), "third#0", version(FAN), lines=0, then="third last added"),
    Change("group: step appended", version(f"{GROUP} added"), "left* branches", version(GROUP), then="last added"),
    Change("group: about to begin, one more", version("first left right middle last"), "left*", version(GROUP),
           then="left right middle last"),
    Change("undo: step appended", version(f"{PLAIN} added"), "second.undo#0", fails="third", then=UNDONE),
    Change("undo: in retry", version(f"{PLAIN} added"), "second.undo#0 retry", fails="third second.undo", then=UNDONE),
    Change("undo: step inserted", version("first added hear second third last"), "second.undo#0", fails="third", then=UNDONE),
    Change("undo: step never reached removed", version("first hear second third"), "second.undo#0", fails="third", then=UNDONE),
)  # fmt: skip

INCOMPATIBLE = each(
    Change("no such workflow", None, why="no such workflow"),
    Change("own step removed", version("first second third last"), why="it is at hear#0, which"),
    Change("step behind removed", version("hear third last"), why="were changed: ['first']"),
    Change("type behind", version(PLAIN, first={"output_text": "int"}), why="the output of first"),
    Change("undo behind removed", version(PLAIN, first={"undo": None}), why="the undo of first"),
    Change("list behind", version(PLAIN, first={"each": POOL["pack"].each}), why="the each of first"),
    Change("inserted before it began", version(f"added {PLAIN}"), "first#0", why="already been: ['added']"),
    Change("inserted first", version(f"added {PLAIN}"), why="already been: ['added']"),
    Change("inserted behind", version("first added hear second third last"), why="already been: ['added']"),
    Change("step ahead put behind", version("first second hear third last"), why="already been: ['second']"),
    Change("step behind put ahead", version("hear first second third last"), why="['first']"),
    Change("order behind", version("hear first second third last"), "second#0", why="were changed: their order"),
    Change("own step made a list", version(PLAIN, hear={"each": POOL["pack"].each}), why="hear"),
    Change("own step made parallel", version("first hear left last", hear={"parallel": True}), why="hear"),
    Change("branches: step removed", version("first third last"), "pack* branches", version(FAN), why="it is at pack*, which"),
    Change("branches: no list", version(FAN, pack={"each": None}), "pack* branches", version(FAN), why="pack"),
    Change("branches: inserted before", version("first added pack third last"), "pack* branches", version(FAN),
           why="already been: ['added']"),
    Change("branches: type", version(FAN, pack={"output_text": "int"}), "third#0", version(FAN), why="output of pack"),
    Change("group: one more", version("first left right middle last"), "left* branches", version(GROUP), why="middle"),
    Change("group: one fewer", version("first left middle last"), "left* branches", version("first left middle right last"), why="right"),
    Change("group: no longer", version("first left last"), "left* branches", version(GROUP), why="left"),
    Change("undo: step removed", version("hear second third last"), "second.undo#0", fails="third", why="['first']"),
    Change("undo: undo removed", version(PLAIN, first={"undo": None}), "second.undo#0", fails="third", why="undo of first"),
    Change("undo: own undo removed", version(PLAIN, second={"undo": None}), "second.undo#0 retry",
           fails="third second.undo", why="it is at second.undo#0"),
    Change("undo: order", version("hear first second third last"), "second.undo#0", fails="third", why="their order"),
)  # fmt: skip


@pytest.mark.case("E50")
@COMPATIBLE
def test_run_goes_on_with_a_definition_that_keeps_what_it_has_behind_it_and_says_so(change: Change) -> None:
    run = change.begin()
    deploy(change.new)
    assert change.new is not None
    assert check() == {"live_runs": 1 + run.children.count(), "would_migrate": 1 + run.children.count(),
                       "stranded": [], "fails": False}  # fmt: skip
    wake(run)
    go(run)
    drive(run)
    assert run.state == (RunState.COMPENSATED if change.fails else RunState.SUCCEEDED)
    assert [operation.partition("#")[0] for operation in called] == change.then.split()
    assert migrations(run) == [{"old": change.old.fingerprint, "new": change.new.fingerprint}]
    assert (run.fingerprint, run.version) == (change.new.fingerprint, change.new.version)
    assert list(verify_history()) == []


@pytest.mark.case("E49", "E50")
@INCOMPATIBLE
def test_run_that_no_code_can_carry_on_is_left_alone_then_parked_and_goes_on_with_its_own(
    change: Change, settings: Any, heard: list[DeadLetter]
) -> None:
    run = change.begin()
    deploy(change.new)
    found = check()
    assert found["fails"]
    told = [each for each in found["stranded"] if str(run.pk) in each["runs"]]
    assert [each["workflow"] for each in told] == [NAME]
    assert change.why in told[0]["why"]
    wake(run)
    go(run)
    before = run.history_seq
    drive(run)
    assert (run.history_seq, run.fingerprint) == (before, change.old.fingerprint), "it was not left alone"
    assert sweep()["stranded"] == 0, "a worker with its code may still come"
    settings.WORKFLOWS = {**settings.WORKFLOWS, "stranded_seconds": -1}
    assert sweep()["stranded"] > 0
    assert {letter.reason for letter in heard} == {"definition_changed"}
    letters = list(DeadLetter.objects.filter(state=DeadLetterState.OPEN))
    assert len(letters) == len(heard)
    with pytest.raises(NotReplayableError):
        replay_dead_letter(letters[0].pk, **BY)
    deploy(change.old)
    for letter in letters:
        replay_dead_letter(letter.pk, **BY)
    go(run)
    drive(run)
    assert run.state == (RunState.COMPENSATED if change.fails else RunState.SUCCEEDED)
    assert migrations(run) == []
    assert len(called) == len(set(called)), called
    assert list(verify_history()) == []


def test_change_of_code_retries_and_timeouts_alone_is_no_change() -> None:
    run = begin(version(PLAIN), "hear#0 command")
    called.clear()

    def better(self: Order, operation: Operation, first: str = "") -> str:
        return call(operation) + ", by new code"

    later = version(
        PLAIN, second={"body": better, "retry": Retry(attempts=1), "timeout": 5.0}, last={"body": better}
    )
    deploy(later)
    assert check() == {"live_runs": 1, "would_migrate": 0, "stranded": [], "fails": False}
    go(run)
    assert drive(run).state == RunState.SUCCEEDED
    assert run.output == "last, by new code"
    assert called == ["second#0", "third#0", "last#0"]
    assert migrations(run) == []


@pytest.mark.case("E49")
def test_run_in_its_own_retry_goes_on_with_the_attempts_that_it_has_had() -> None:
    run = begin(
        version(PLAIN, second={"body": _busy, "retry": Retry(attempts=2, first=60)}), "second#0 retry"
    )
    deploy(version(f"{PLAIN} added", second={"body": _busy, "retry": Retry(attempts=3, first=60)}))
    wake(run)
    drive(run)
    assert (run.waiting_for, run.attempt) == ("retry", 2), "the new policy allows a third"
    assert len(migrations(run)) == 1
    deploy(version(f"{PLAIN} added"))
    wake(run)
    assert drive(run).state == RunState.SUCCEEDED
    assert Step.objects.get(run=run, operation_id="second#0").attempt == 3


def _busy(self: Order, first: str, operation: Operation) -> str:
    raise TransientError("BUSY", "not now")


@pytest.mark.case("E49", "E57")
def test_parked_run_can_be_forked_into_the_new_definition() -> None:
    run = begin(version(PLAIN), "second#0")
    deploy(version("first added hear second third last"))
    assert park_stranded_now() == 1
    fork = fork_run(run.pk, "added", **BY)
    go(fork)
    drive(fork)
    assert fork.state == RunState.SUCCEEDED
    assert fork.fingerprint == version("first added hear second third last").fingerprint
    assert [row.operation_id for row in fork.steps.all()] == [
        f"{name}#0" for name in ["first", "added", "hear", "second", "third", "last"]
    ]
    run.refresh_from_db()
    assert (run.state, run.error["code"]) == (RunState.CANCELLED, "RUN_FORKED")


@pytest.mark.case("E49")
def test_parked_run_can_be_replayed_with_a_third_definition_that_suits_it() -> None:
    run = begin(version(PLAIN), "second#0")
    deploy(version("second third last"))
    assert park_stranded_now() == 1
    third = version(f"{PLAIN} added")
    deploy(third)
    replay_dead_letter(run.dead_letters.get().pk, **BY)
    assert drive(run).state == RunState.SUCCEEDED
    assert run.fingerprint == third.fingerprint
    assert len(migrations(run)) == 1


@pytest.mark.case("E49")
def test_run_follows_one_deploy_after_another_though_no_run_was_started_with_the_one_between() -> None:
    run = begin(version(PLAIN), "hear#0 command")
    go(run)
    for names in (f"{PLAIN} added", "first hear second third added"):
        deploy(version(names))
        assert check()["fails"] is False
        assert advance(run.pk) is not None
    drive(run)
    assert run.state == RunState.SUCCEEDED
    assert [each["new"] for each in migrations(run)] == [
        version(names).fingerprint for names in (f"{PLAIN} added", "first hear second third added")
    ]


@pytest.mark.case("E50")
def test_run_that_was_replayed_with_another_definition_follows_the_next_deploy() -> None:
    run = begin(version(PLAIN), "second#0")
    deploy(version("second third last"))
    park_stranded_now()
    deploy(version(f"{PLAIN} added"))
    replay_dead_letter(run.dead_letters.get().pk, **BY)
    deploy(version("first hear second third added"))
    assert check()["fails"] is False
    assert drive(run).state == RunState.SUCCEEDED


@pytest.mark.case("E50")
def test_old_worker_leaves_runs_of_newer_code_alone_until_none_has_come_for_long(settings: Any) -> None:
    """Else it would carry them to an end without what the new code has added."""
    old, new = version(PLAIN), version(f"{PLAIN} added")
    begin(old, "hear#0")
    begun = [begin(new, "first#0"), begin(new, "hear#0 command")]
    moved = begin(old, "hear#0 command")
    go(moved)
    deploy(new)
    advance(moved.pk)
    deploy(old)
    for run in [*begun, moved]:
        wake(run)
        go(run)
        assert advance(run.pk) is None
    assert sweep()["stranded"] == 0
    settings.WORKFLOWS = {**settings.WORKFLOWS, "stranded_seconds": -1}
    assert check()["would_migrate"] == 3, "the new code was withdrawn"
    assert sweep()["stranded"] == 0
    for run in [*begun, moved]:
        assert drive(run).state == RunState.SUCCEEDED
        assert run.fingerprint == old.fingerprint


@pytest.mark.case("E50")
def test_run_that_moves_on_while_new_code_looks_at_it_is_not_taken_past_what_was_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = version("first second third last"), version("first added second third last")
    run = begin(old, "first#0")
    look = migration.obstacle

    def while_an_old_worker_goes_on(seen: Run, definition: Definition) -> str | None:
        why = look(seen, definition)
        monkeypatch.setattr(migration, "obstacle", look)
        deploy(old)
        advance(run.pk)
        advance(run.pk)
        deploy(new)
        return why

    deploy(new)
    monkeypatch.setattr(migration, "obstacle", while_an_old_worker_goes_on)
    assert claim_run(run.pk) is None
    run.refresh_from_db()
    assert (run.operation, run.lease_until, run.attempt) == ("third#0", None, 0)
    deploy(old)
    assert drive(run).state == RunState.SUCCEEDED
    assert len(called) == len(set(called)), called


@pytest.mark.case("E49", "E7")
@pytest.mark.parametrize(
    ("effect", "uncertain"), [("at_most_once", True), ("idempotent", True), ("transactional", False)]
)
def test_run_whose_worker_died_is_parked_too_when_no_code_is_left(
    overdue: None, effect: Any, uncertain: bool
) -> None:
    old = version(PLAIN, second={"effect": effect})
    run = begin(old, "second#0")
    assert claim_run(run.pk) is not None  # and here its worker dies, with the last of the old code
    Run.objects.filter(pk=run.pk).update(lease_until=run.created_at, wake_at=run.created_at)
    deploy(version("first hear third last"))
    assert advance(run.pk) is None
    assert park_stranded() == 1
    letter = run.dead_letters.get()
    assert letter.reason == "definition_changed"
    row = Step.objects.filter(run=run, operation_id="second#0").first()
    assert (row is not None and row.uncertain) == uncertain
    assert ("nobody knows" in letter.error["message"]) == uncertain
    deploy(old)
    compensate_dead_letter(letter.pk, **BY)
    called.clear()
    assert drive(run).state == RunState.COMPENSATED
    assert called == (["second.undo#0"] if uncertain else []) + ["first.undo#0"]
    assert list(verify_history()) == []


@pytest.mark.case("E50", "E53")
def test_run_that_somebody_took_while_the_sweeper_looked_at_it_is_not_parked(
    overdue: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = version(PLAIN), version("second third last")
    run = begin(old, "first#0")
    look = migration.obstacle

    def while_an_old_worker_goes_on(seen: Run, definition: Definition) -> str | None:
        deploy(old)
        drive(run)
        deploy(new)
        return look(seen, definition)

    deploy(new)
    monkeypatch.setattr(migration, "obstacle", while_an_old_worker_goes_on)
    assert park_stranded() == 0
    run.refresh_from_db()
    assert (run.state, run.waiting_for) == (RunState.WAITING, "command")


@pytest.mark.case("E49")
def test_check_names_each_workflow_how_many_runs_and_why() -> None:
    for _ in range(4):
        begin(version(PLAIN), "second#0")
    begin(version(PLAIN), "hear#0 command")
    deploy(version("hear second third last"))
    out = StringIO()
    with pytest.raises(CommandError, match="5 live runs could not go on"):
        call_command("check_definitions", stdout=out)
    told = out.getvalue().splitlines()
    assert told[0] == "5 live runs, 0 of which would go on with a changed definition"
    assert told[1].startswith(f"{NAME}: 5 runs, steps that it has behind it were changed: ['first']; ")


def test_check_passes_when_only_runs_that_have_ended_were_of_another_definition() -> None:
    run = begin(version(PLAIN), "hear#0 command")
    go(run)
    drive(run)
    begin(version("first hear"), "hear#0 command")
    deploy(version("first hear"))
    assert check() == {"live_runs": 1, "would_migrate": 0, "stranded": [], "fails": False}
    deploy(None)
    assert check()["stranded"][0]["why"] == "this code has no such workflow"
