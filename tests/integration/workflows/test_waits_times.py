"""Sleeps, and waits for any of several; what is taken up late says so."""

from datetime import datetime, timedelta, timezone
from typing import ClassVar

import pytest
from pydantic import BaseModel, ValidationError

from tests.integration.workflows.waits import (
    Asked,
    Nothing,
    Payment,
    consumers,
    overdue,
)
from tests.sample.models import Effect
from workflows import (
    AnyOf,
    First,
    Operation,
    Retry,
    Sleep,
    TransientError,
    WaitForSignal,
    Workflow,
    clock,
    send_signal,
    step,
)
from workflows.engine.drive import advance
from workflows.models import Run, Wait
from workflows.states import RunState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Either(Workflow[Nothing, str]):
    """Goes on with the first of two signals, or when it has waited a minute; then it wants the other signal."""

    class Meta:
        name = "waits.either"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=1)

    @step
    def either(self) -> AnyOf[WaitForSignal[Payment] | Sleep]:
        return AnyOf([Sleep(seconds=60), WaitForSignal(name="paid"), WaitForSignal(name="revoked")])

    @step
    def other(self, either: First[Payment | None]) -> WaitForSignal[Payment]:
        return WaitForSignal(name="revoked", timeout=3600)

    @step
    def end(self, either: First[Payment | None], other: Payment) -> str:
        return f"{either.index} then {other.amount}"


@pytest.mark.parametrize("when", ["before the wait", "while it waits", "too late for the worker"])
def test_signal_that_was_not_first_of_several_is_there_for_the_next_wait(t: Engine, when: str) -> None:
    run = t.run(t.start(Either, Nothing()))
    if when == "before the wait":
        t.signal(run, "paid", Payment(amount=1))
        t.signal(run, "revoked", Payment(amount=2))
        t.advance(seconds=1)
    else:
        t.advance(seconds=1)
        t.signal(run, "paid", Payment(amount=1))
        t.signal(run, "revoked", Payment(amount=2))
    t.advance(seconds=30)
    assert t.run(run).output == "1 then 2"
    assert consumers(run) == ["either#0", "other#0"]


def test_timer_that_was_first_of_several_takes_no_signal_away(quiet: None) -> None:
    """Both happen before a worker comes: the timer stands first in the list."""
    run = Either.start(Nothing())
    overdue(overdue(run))
    send_signal(run.pk, "revoked", {"amount": 2})
    advance(run.pk)
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == "0 then 2"


class AnyFails(Workflow[Nothing, str]):
    class Meta:
        name = "waits.any_fails"

    @step
    def before(self) -> int:
        return 1

    @before.undo
    def undo_before(self) -> None: ...

    @step
    def any(self) -> AnyOf[Asked | WaitForSignal[str]]:
        return AnyOf([Asked(), WaitForSignal(name="x", timeout=60), Asked()])

    @step
    def end(self, any: First[str]) -> str:
        return f"{any.index} {any.value}"


def test_any_of_several_fails_when_all_have_failed_with_the_error_of_the_first(t: Engine) -> None:
    run = t.run(t.start(AnyFails, Nothing()))
    t.fail_wait(run, "any", code="THIRD", index=2)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=60)
    assert t.run(run).state == RunState.WAITING, "two have failed, and the third may still succeed"
    t.fail_wait(run, "any", code="FIRST", index=0)
    assert t.run(run).state == RunState.COMPENSATED
    assert run.error == {"code": "FIRST", "message": "FIRST", "step": "any"}


def test_any_of_several_goes_on_with_the_last_that_is_left(t: Engine) -> None:
    run = t.run(t.start(AnyFails, Nothing()))
    t.fail_wait(run, "any", code="FIRST", index=0)
    t.advance(seconds=60)
    t.answer(run, "any", "yes", index=2)
    assert t.run(run).output == "2 yes"


class UntilInput(BaseModel):
    until: datetime


class Until(Workflow[UntilInput, str]):
    calls: ClassVar[list[int]] = []

    class Meta:
        name = "waits.until"

    @step(retry=Retry(attempts=1))
    def sleep(self, input: UntilInput, operation: Operation) -> Sleep:
        self.calls.append(operation.attempt)
        return Sleep(until=input.until)

    @step
    def end(self) -> str:
        return "awake"


@pytest.mark.parametrize("years", [-50, -1, 0])
def test_sleep_until_an_instant_that_is_over_ends_at_once(t: Engine, years: int) -> None:
    run = t.run(t.start(Until, UntilInput(until=t.now() + timedelta(days=365 * years))))
    assert (run.state, run.output) == (RunState.SUCCEEDED, "awake")


def test_sleep_until_an_instant_of_another_zone_ends_then(t: Engine) -> None:
    zone = timezone(timedelta(hours=-8))
    run = t.run(t.start(Until, UntilInput(until=(t.now() + timedelta(hours=1)).astimezone(zone))))
    t.advance(minutes=59)
    assert t.run(run).state == RunState.WAITING
    t.advance(minutes=1)
    assert t.run(run).state == RunState.SUCCEEDED


def test_sleep_until_an_instant_without_a_zone_is_the_steps_own_failure(t: Engine) -> None:
    """Nobody knows when that is. It must not stop the worker instead."""
    with pytest.raises(ValidationError):
        Sleep(until=datetime(2040, 1, 1))  # noqa: DTZ001 - that is the point
    run = t.run(t.start(Until, UntilInput(until=datetime(2040, 1, 1))))  # noqa: DTZ001
    assert run.state == RunState.DEAD_LETTER
    assert run.dead_letters.get().reason == "retries_exhausted"


class Mixed(Workflow[Nothing, str]):
    class Meta:
        name = "waits.mixed"

    @step
    def both(self) -> list[Sleep | WaitForSignal[str]]:
        return [Sleep(seconds=60), WaitForSignal(name="x", timeout=10)]

    @step
    def end(self, both: list[str | None]) -> str:
        return str(both)


def test_timeout_beside_a_sleep_fails_the_step_when_the_sleep_is_over(t: Engine) -> None:
    run = t.run(t.start(Mixed, Nothing()))
    t.advance(seconds=10)
    assert Wait.objects.get(run=run, kind="signal").state == "FAILED", (
        "at its own instant, not with the sleep"
    )
    t.advance(seconds=49)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=1)
    assert (t.run(run).state, run.error["code"]) == (RunState.FAILED, "SIGNAL_TIMEOUT")


def test_signal_beside_a_sleep_is_kept_until_the_sleep_is_over(t: Engine) -> None:
    run = t.run(t.start(Mixed, Nothing()))
    t.signal(run, "x", "hello")
    t.advance(seconds=59)
    assert t.run(run).state == RunState.WAITING
    t.advance(seconds=1)
    assert t.run(run).output == "[None, 'hello']"


class Nap(Workflow[Nothing, str]):
    class Meta:
        name = "waits.nap"

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=60)

    @step(effect="transactional")
    def rise(self, operation: Operation) -> str:
        Effect.objects.create(key=operation.key, attempt=operation.attempt)
        return operation.key

    @step(retry=Retry(attempts=2, first=60))
    def work(self, operation: Operation) -> str:
        if operation.attempt == 1:
            raise TransientError("BUSY", "not yet")
        return "done"

    @step
    def ask(self) -> WaitForSignal[str]:
        return WaitForSignal(name="x", timeout=60)


def lateness(run: Run) -> dict[str, float]:
    """Return by how many seconds what ended an operation was late, as the history says it."""
    events = run.events.order_by("seq").values_list("data", flat=True)
    return {f"{data['step']}/{data['attempt']}": data["late_by"] for data in events if "late_by" in data}


@pytest.mark.case("E28")
def test_timer_that_came_due_while_nobody_worked_fires_once_and_says_how_late(t: Engine) -> None:
    run = t.run(t.start(Nap, Nothing()))
    clock.advance(timedelta(hours=2))  # and no worker
    assert t.run(run).waiting_for == "retry"
    assert Effect.objects.get().attempt == 1
    clock.advance(timedelta(seconds=63))
    assert t.run(run).operation == "ask#0"
    clock.advance(timedelta(seconds=75.5))
    assert (t.run(run).state, run.error["code"]) == (RunState.FAILED, "SIGNAL_TIMEOUT")
    assert Effect.objects.count() == 1
    assert lateness(run) == {
        "sleep#0/1": pytest.approx(7140, abs=0.1),
        "work#0/2": pytest.approx(3, abs=0.1),
        "ask#0/1": pytest.approx(15.5, abs=0.1),
    }
    assert [event.kind for event in run.events.all()].count("step_waiting") == 2


@pytest.mark.case("E28")
def test_timers_in_time_say_nothing(t: Engine) -> None:
    run = t.start(Nap, Nothing())
    t.advance(hours=1)
    assert t.run(run).error["code"] == "SIGNAL_TIMEOUT"
    assert lateness(run) == {}


@pytest.mark.case("E28")
def test_signal_that_comes_late_is_not_a_timer_that_was_late(t: Engine) -> None:
    run = t.start(Nap, Nothing())
    t.advance(seconds=120)
    t.signal(run, "x", "hello")
    clock.advance(timedelta(hours=2))
    assert t.run(run).output == "hello"
    assert lateness(run) == {}


@pytest.mark.parametrize("early", [False, True])
def test_large_payload_of_a_signal_is_kept_beside_the_row_of_its_step(t: Engine, early: bool) -> None:
    run = t.start(Mixed, Nothing())
    if not early:
        t.run(run)
    t.signal(run, "x", "y" * 100_000)
    t.advance(seconds=60)
    assert len(t.run(run).output) > 100_000
    row = run.steps.get(name="both")
    assert (row.large, row.output) == (True, None)
