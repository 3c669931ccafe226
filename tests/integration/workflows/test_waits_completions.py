"""What is completed from outside: early, twice, with the wrong type, with somebody else's token."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from tests.integration.workflows.waits import BY, Asked, Nothing, Payment, consumers
from tests.threads import at_once
from workflows import (
    CommandError,
    InvalidTokenError,
    Operation,
    PermanentError,
    RunEndedError,
    WaitForCompletion,
    Workflow,
    cancel_run,
    complete_dead_letter,
    complete_operation,
    replay_dead_letter,
    step,
)
from workflows.engine.drive import advance
from workflows.states import RunState
from workflows.testing import Engine

pytestmark = pytest.mark.sqlite_too


class Outside(Workflow[Nothing, int]):
    """Gives its token away and waits for whoever has it."""

    tokens: ClassVar[list[str]] = []
    early: ClassVar[list[Any]] = []

    class Meta:
        name = "waits.outside"

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self) -> Asked:
        return Asked()

    @step
    def order(self, operation: Operation) -> WaitForCompletion[Payment]:
        self.tokens.append(operation.token)
        for value in self.early:
            complete_operation(operation.token, value)
        return WaitForCompletion(timeout=3600)

    @step
    def end(self, order: Payment) -> int:
        return order.amount


class UndoneOutside(Workflow[Nothing, None]):
    """What it has reserved is given back by somebody outside."""

    tokens: ClassVar[list[str]] = []

    class Meta:
        name = "waits.undone_outside"

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self, operation: Operation) -> WaitForCompletion[int]:
        self.tokens.append(operation.token)
        return WaitForCompletion(timeout=3600)

    @step
    def fail(self) -> None:
        raise PermanentError("NO", "no")


@pytest.fixture
def outside() -> Iterator[type[Outside]]:
    yield Outside
    Outside.tokens.clear()
    Outside.early.clear()


def test_operation_that_is_completed_before_it_waits_has_its_value(t: Engine, outside: type[Outside]) -> None:
    outside.early.append({"amount": 5})
    run = t.run(t.start(outside, Nothing()))
    assert (run.output, consumers(run)) == (5, ["order#0"])


def test_operation_is_completed_by_the_first_call(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    complete_operation(outside.tokens[0], {"amount": 5})
    complete_operation(outside.tokens[0], {"amount": 7})
    complete_operation(outside.tokens[0], error=CommandError(code="NO", message="no"))
    assert t.run(run).output == 5
    complete_operation(outside.tokens[0], {"amount": 7})  # repeated by a caller who missed the answer
    assert run.signals.count() == 1


def test_operation_that_was_called_twice_at_once_is_completed_once(
    quiet: None, outside: type[Outside]
) -> None:
    run = outside.start(Nothing())
    advance(run.pk)
    at_once(4, lambda number: complete_operation(outside.tokens[0], {"amount": number}))
    advance(run.pk)
    run.refresh_from_db()
    assert run.output == run.signals.get().payload["value"]["amount"]


def test_operation_that_fails_outside_fails_the_step(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    complete_operation(outside.tokens[0], error=CommandError(code="SOLD_OUT", message="none left"))
    assert t.run(run).compensating
    assert run.error == {"code": "SOLD_OUT", "message": "none left", "step": "order"}


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("value", ["five", None, {"amount": "five"}, [5]])
def test_completion_of_another_type_waits_for_a_person(
    t: Engine, outside: type[Outside], value: Any, early: bool
) -> None:
    if early:
        outside.early.append(value)
    run = t.run(t.start(outside, Nothing()))
    if not early:
        complete_operation(outside.tokens[0], value)
    assert t.run(run).state == RunState.DEAD_LETTER
    letter = run.dead_letters.get()
    assert (letter.reason, letter.operation_id) == ("bad_output", "order#0")
    complete_dead_letter(letter.pk, value={"amount": 6}, **BY)
    assert t.run(run).output == 6


def test_completion_of_a_cancelled_run_changes_nothing(t: Engine, outside: type[Outside]) -> None:
    run = t.run(t.start(outside, Nothing()))
    cancel_run(run.pk, **BY)
    assert t.run(run).operation == "reserve.undo#0"
    complete_operation(outside.tokens[0], {"amount": 5})
    assert t.run(run).operation == "reserve.undo#0", "it still undoes"
    assert consumers(run) == [""]
    t.answer(run, "reserve.undo", "back")
    assert t.run(run).state == RunState.CANCELLED
    complete_operation(outside.tokens[0], {"amount": 5})  # known already
    run.signals.all().delete()
    with pytest.raises(RunEndedError, match="CANCELLED"):
        complete_operation(outside.tokens[0], {"amount": 5})


def test_undo_that_failed_outside_is_completed_by_the_first_call_after_its_replay(t: Engine) -> None:
    run = t.run(t.start(UndoneOutside, Nothing()))
    token = UndoneOutside.tokens.pop()
    complete_operation(token, error=CommandError(code="CLOSED", message="come back tomorrow"))
    assert t.run(run).state == RunState.DEAD_LETTER
    replay_dead_letter(run.dead_letters.get().pk, **BY)
    assert t.run(run).waiting_for == "command"
    assert UndoneOutside.tokens.pop() == token
    complete_operation(token, 1)
    complete_operation(token, error=CommandError(code="CLOSED", message="too late"))
    assert t.run(run).state == RunState.COMPENSATED


@pytest.mark.parametrize("token", ["", "x", "a:b:c", "00000000-0000-7000-8000-000000000000:order#0:x"])
def test_token_that_was_never_given_away_is_refused(t: Engine, token: str) -> None:
    with pytest.raises(InvalidTokenError):
        complete_operation(token, {"amount": 5})
