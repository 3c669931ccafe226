"""Outputs that are large or too large, steps that are left out, and steps that take too long."""

import threading
import time
from typing import ClassVar

import pytest
from pydantic import BaseModel

from tests.integration.workflows.waits import (
    Payment,
    states,
)
from workflows import (
    Operation,
    PermanentError,
    Retry,
    Sleep,
    WaitForSignal,
    Workflow,
    step,
)
from workflows.engine import timeouts
from workflows.engine.timeouts import time_limit
from workflows.errors import StepTimeoutError
from workflows.models import Payload, Wait
from workflows.states import RunState, StepState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Size(BaseModel):
    size: int
    fail: bool = False


class Heavy(Workflow[Size, int]):
    undone: ClassVar[list[int]] = []

    class Meta:
        name = "waits.heavy"

    @step
    def load(self, input: Size) -> str:
        return "x" * (input.size - 2)  # it is kept with its quotation marks

    @load.undo
    def unload(self, load: str | None) -> None:
        self.undone.append(len(load or ""))

    @step
    def pause(self) -> Sleep:
        return Sleep(seconds=60)

    @step
    def count(self, input: Size, load: str) -> int:
        if input.fail:
            raise PermanentError("NO", "no")
        return len(load)


INLINE, MOST = 32_768, 5_000_000


@pytest.mark.parametrize(("size", "large"), [(INLINE, False), (INLINE + 1, True), (MOST, True)])
def test_large_output_is_kept_beside_the_hot_rows_and_arrives(t: Engine, size: int, large: bool) -> None:
    run = t.run(t.start(Heavy, Size(size=size)))
    row = run.steps.get(name="load")
    assert (row.large, row.output is None) == (large, large)
    assert Payload.objects.filter(run=run, operation_id="load#0").count() == large
    t.advance(seconds=60)  # another claim: nothing of it is in memory
    assert t.run(run).output == size - 2


def test_undo_has_a_large_output_again(t: Engine) -> None:
    Heavy.undone.clear()
    run = t.start(Heavy, Size(size=100_000, fail=True))
    t.advance(seconds=60)
    assert t.run(run).state == RunState.COMPENSATED
    assert Heavy.undone == [99_998]


@pytest.mark.case("E19")
def test_output_over_the_maximum_waits_for_a_person_and_is_stored_nowhere(t: Engine) -> None:
    run = t.run(t.start(Heavy, Size(size=MOST + 1)))
    assert run.state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert letter.reason == "bad_output"
    assert letter.error["message"].startswith("load returned str of 5,000,001 bytes, more than the 5,000,000")
    assert not Payload.objects.exists()
    assert states(run) == {"load#0": StepState.FAILED}


class Choice(BaseModel):
    ask: bool


class Skipping(Workflow[Choice, str]):
    """A later step needs what an earlier one may have been left out of making."""

    class Meta:
        name = "waits.skipping"

    @step(when=lambda input: input.ask)
    def ask(self) -> WaitForSignal[str]:
        return WaitForSignal(name="answer")

    @ask.undo
    def take_back(self) -> None:
        raise AssertionError("nothing was asked")

    @step
    def pause(self) -> Sleep:
        return Sleep(seconds=60)

    @step(when=lambda ask: ask == "fail")
    def fail(self) -> None:
        raise PermanentError("NO", "no")

    @step
    def end(self, ask: str | None) -> str:
        return f"the answer is {ask}"


@pytest.mark.parametrize("ask", [False, True])
def test_output_of_a_step_that_was_left_out_is_none(t: Engine, ask: bool) -> None:
    run = t.run(t.start(Skipping, Choice(ask=ask)))
    if ask:
        t.signal(run, "answer", "yes")
    t.advance(seconds=60)
    assert t.run(run).output == f"the answer is {'yes' if ask else None}"
    assert states(run)["ask#0"] == (StepState.SUCCEEDED if ask else StepState.SKIPPED)
    assert not ask or Wait.objects.filter(run=run, kind="signal").count() == 1


def _dawdle(amount: int) -> list[int]:
    """Take two seconds, unless interrupted."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        pass
    return [amount]


class SlowCondition(Workflow[Payment, None]):
    class Meta:
        name = "waits.slow_condition"

    @step(timeout=0.05, when=lambda input: bool(_dawdle(input.amount)))
    def work(self) -> None:
        return None


class SlowList(Workflow[Payment, None]):
    class Meta:
        name = "waits.slow_list"

    @step(timeout=0.05, each=lambda input: _dawdle(input.amount))
    def work(self, item: int) -> None:
        return None


class Slow(Workflow[Payment, int]):
    """Takes too long as many times as the input says."""

    attempts: ClassVar[list[int]] = []

    class Meta:
        name = "waits.slow"

    @step(timeout=0.05, retry=Retry(attempts=3, first=60))
    def work(self, input: Payment, operation: Operation) -> int:
        self.attempts.append(operation.attempt)
        deadline = time.monotonic() + 20
        while operation.attempt <= input.amount and time.monotonic() < deadline:
            pass
        return operation.attempt


@pytest.mark.case("E21")
def test_step_that_takes_too_long_is_interrupted_and_tried_again(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.run(t.start(Slow, Payment(amount=1)))
    assert (run.waiting_for, run.steps.get().error["code"]) == ("retry", "UNEXPECTED_STEPTIMEOUTERROR")
    assert run.steps.get().error["message"] == "work took longer than 0.05 s"
    t.advance(seconds=60)
    assert t.run(run).output == 2
    assert t.history(run)[1:3] == [
        ("step_retry_scheduled", "work#0", 1, "UNEXPECTED_STEPTIMEOUTERROR"),
        ("step_succeeded", "work#0", 2),
    ]


@pytest.mark.case("E21")
def test_step_that_always_takes_too_long_uses_up_its_attempts(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.start(Slow, Payment(amount=99))
    t.advance(hours=1)
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, Slow.attempts) == ("retries_exhausted", [1, 2, 3])


@pytest.mark.case("E21")
@pytest.mark.parametrize("workflow", [SlowCondition, SlowList])
def test_choice_that_takes_too_long_uses_up_the_attempts_of_its_step(
    t: Engine, workflow: type[Workflow[Payment, None]]
) -> None:
    run = t.start(workflow, Payment(amount=1))
    t.advance(hours=1)
    assert t.run(run).state == RunState.DEAD_LETTER
    assert run.error["message"] == "work took longer than 0.05 s"


@pytest.mark.case("E21")
def test_attempt_is_counted_when_it_is_claimed(t: Engine) -> None:
    Slow.attempts.clear()
    run = t.start(Slow, Payment(amount=0))
    with t.crash("engine.claimed"):
        t.run(run)
    run.refresh_from_db()
    assert (run.attempt, Slow.attempts) == (1, []), "counted, and nothing of its code has run"
    assert t.run(run).output == 2


@pytest.mark.case("E21")
def test_interruption_that_comes_as_the_step_ends_leaves_no_limit_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit that was left behind would have the worker killed half a minute later."""
    watch = timeouts._Watch()
    monkeypatch.setattr(timeouts, "_watch", watch)
    lock = threading.Lock()

    class Interrupting:
        """Another thread interrupts the step while the step's own is on its way to remove the limit."""

        def __enter__(self) -> None:
            [limit] = watch._limits
            if not limit.interrupted:
                limit.interrupt_at = time.monotonic()
                watch._look_at(limit)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    with pytest.raises(StepTimeoutError), time_limit(60, "work"):
        monkeypatch.setattr(watch, "_lock", Interrupting())
    assert watch._limits == set()
