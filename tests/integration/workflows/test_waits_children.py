"""Children that end before anybody waits for them, and undos that wait."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from django.db import connections

from dalp.local.processes import wait_until
from tests.integration.workflows.waits import (
    BY,
    Nothing,
    Payment,
    is_postgresql,
    somebody_waits_for_a_lock,
    states,
)
from tests.threads import at_once
from workflows import (
    AnyOf,
    ApprovalRequest,
    Child,
    PermanentError,
    Sleep,
    WaitForSignal,
    Workflow,
    replay_dead_letter,
    step,
)
from workflows.crashpoints import crashpoint
from workflows.engine.drive import advance
from workflows.models import Run
from workflows.states import RunState, StepState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Kid(Workflow[Payment, int]):
    class Meta:
        name = "waits.kid"

    @step
    def work(self, input: Payment) -> int:
        if input.amount < 0:
            raise PermanentError("POOR", "no money")
        return input.amount


class Parent(Workflow[Nothing, list[int]]):
    """Two children at once."""

    class Meta:
        name = "waits.parent"

    @step
    def kids(self) -> list[Child[int]]:
        return [Kid.child(Payment(amount=1)), Kid.child(Payment(amount=2))]

    @step
    def end(self, kids: list[int]) -> list[int]:
        return kids


class OneKid(Workflow[Payment, int]):
    class Meta:
        name = "waits.one_kid"

    @step
    def kid(self, input: Payment) -> Child[int]:
        return Kid.child(input)

    @step
    def end(self, kid: int) -> int:
        return kid


@pytest.mark.case("E45")
@pytest.mark.parametrize(("amount", "state"), [(3, RunState.SUCCEEDED), (-1, RunState.FAILED)])
def test_child_that_ends_as_soon_as_it_can_be_seen_is_not_missed(
    fresh_db: str, monkeypatch: pytest.MonkeyPatch, amount: int, state: str
) -> None:
    """A worker has carried it to its end before its parent's worker comes back from the commit."""
    ended: list[str] = []

    def at_once_by_another(run: Run) -> None:
        if run.workflow == "waits.kid":
            assert run.parent is not None
            found = Run.objects.get(pk=run.parent.pk)
            assert (found.state, found.lease_until) == (RunState.WAITING, None), "it is seen before it waits"
            advance(run.pk)
            ended.append(Run.objects.get(pk=run.pk).state)

    monkeypatch.setattr("workflows.doorbell.send", at_once_by_another)
    run = OneKid.start(Payment(amount=amount))
    advance(run.pk)
    assert ended == [state]
    advance(run.pk)
    run.refresh_from_db()
    assert run.state == state
    assert run.output == (amount if amount > 0 else None)


@pytest.mark.case("E45")
def test_child_that_ends_while_its_parent_looks_and_waits_again_is_not_missed(
    quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent was woken by its first child; the second one ends after the look, before the wait is committed."""
    run = Parent.start(Nothing())
    advance(run.pk)
    first, second = Run.objects.filter(parent=run).order_by("created_at", "id")
    advance(first.pk)
    Run.objects.filter(pk=run.pk).update(wake_at=run.created_at)
    kids: list[Any] = []
    with ThreadPoolExecutor(1) as pool:

        def end_the_second(point: str) -> None:
            if point != "engine.before_record" or kids or threading.current_thread() is not main:
                return
            kids.append(pool.submit(lambda: (advance(second.pk), connections.close_all())))
            if is_postgresql():  # it wants to tell its parent, and has to wait until that is asleep
                wait_until(somebody_waits_for_a_lock, 10, what="the child waits for its parent's lock")

        main = threading.current_thread()
        monkeypatch.setattr(crashpoint, "watcher", end_the_second)
        advance(run.pk)
        kids[0].result(20)
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == [1, 2]


@pytest.mark.case("E45")
def test_children_that_end_at_the_same_moment_wake_their_parent(quiet: None) -> None:
    for _ in range(15):
        run = Parent.start(Nothing())
        advance(run.pk)
        pair = list(Run.objects.filter(parent=run).values_list("pk", flat=True))
        at_once(3, lambda number, run=run, pair=pair: advance([*pair, run.pk][number]))
        advance(run.pk)
        run.refresh_from_db()
        assert run.output == [1, 2]


class Patient(Workflow[Nothing, str]):
    """Every undo waits, each for something else."""

    done: ClassVar[list[str]] = []

    class Meta:
        name = "waits.patient"

    @step
    def a(self) -> int:
        return 1

    @a.undo
    def undo_a(self) -> Sleep:
        self.done.append("a")
        return Sleep(seconds=60)

    @step
    def b(self) -> int:
        return 2

    @b.undo
    def undo_b(self, b: int) -> AnyOf[WaitForSignal[str] | Sleep]:
        self.done.append(f"b {b}")
        return AnyOf([WaitForSignal(name="b is back"), Sleep(seconds=3600)])

    @step
    def c(self) -> int:
        return 3

    @c.undo
    def undo_c(self) -> ApprovalRequest:
        self.done.append("c")
        return ApprovalRequest(group="treasury")

    @step
    def d(self) -> int:
        return 4

    @d.undo
    def undo_d(self) -> list[Child[int]]:
        self.done.append("d")
        return [Kid.child(Payment(amount=1)), Kid.child(Payment(amount=2))]

    @step
    def e(self) -> str:
        raise PermanentError("NO", "no")


@pytest.fixture
def patient() -> Iterator[type[Patient]]:
    yield Patient
    Patient.done.clear()


def test_undos_wait_like_steps_and_the_next_begins_when_one_has_ended(
    t: Engine, patient: type[Patient]
) -> None:
    run = t.run(t.start(patient, Nothing()))
    assert (run.operation, patient.done) == ("c.undo#0", ["d", "c"])
    assert [each.output for each in t.children(run)] == [1, 2]
    t.approve(run, by="ada")
    assert t.run(run).operation == "b.undo#0"
    t.signal(run, "b is back", "yes")
    assert t.run(run).operation == "a.undo#0"
    t.advance(seconds=59)
    assert t.run(run).finished_at is None
    t.advance(seconds=1)
    assert t.run(run).state == RunState.COMPENSATED
    assert patient.done == ["d", "c", "b 2", "a"]
    assert {states(run)[f"{name}#0"] for name in "abcd"} == {StepState.UNDONE}


def test_undo_whose_wait_fails_is_asked_for_anew_by_a_replay(t: Engine, patient: type[Patient]) -> None:
    run = t.run(t.start(patient, Nothing()))
    t.reject(run, by="ada")
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.error["code"]) == ("compensation_failed", "APPROVAL_REJECTED")
    t.advance(hours=10)
    assert t.run(run).operation == "c.undo#0", "nothing before it is undone"
    replay_dead_letter(letter.pk, **BY)
    t.run(run)
    t.approve(run, by="bob")
    assert t.run(run).operation == "b.undo#0"
    t.advance(hours=2)
    assert t.run(run).state == RunState.COMPENSATED
    assert patient.done == ["d", "c", "c", "b 2", "a"]
