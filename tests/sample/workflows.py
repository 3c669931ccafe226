"""Workflows for the tests of the engine. Effects go to a table (with the checkpoint) or to a file (outside)."""

from pathlib import Path

from pydantic import BaseModel

from tests.sample import objects  # noqa: F401 - Django imports this module of an app, and so that one
from tests.sample.models import Effect
from workflows import (
    Child,
    Operation,
    PermanentError,
    Retry,
    Sleep,
    StepFailure,
    TransientError,
    Workflow,
    crashpoint,
    step,
)

crashpoint.register("sample.inside", "in the middle of a transactional step, after its write")
crashpoint.register("sample.outside", "after a call to the outside, inside the step")


class SampleInput(BaseModel):
    outside: str = ""
    key: str = ""
    fail: str = ""
    times: int = 0


def write(operation: Operation) -> str:
    Effect.objects.create(key=operation.key, attempt=operation.attempt)
    return operation.key


def call_outside(input: SampleInput, operation: Operation) -> str:
    """Do something that the database knows nothing of, as a call to another company's API would."""
    with Path(input.outside).open("a") as file:
        file.write(operation.key + "\n")
    crashpoint("sample.outside")
    return operation.key


class Ledger(Workflow[SampleInput, str]):
    """Three steps whose effects commit with their checkpoints."""

    class Meta:
        name, version, queue = "sample.ledger", 1, "workflows"

    @step(effect="transactional")
    def reserve(self, input: SampleInput, operation: Operation) -> str:
        key = write(operation)
        crashpoint("sample.inside")
        return key

    @step(effect="transactional")
    def book(self, reserve: str, operation: Operation) -> str:
        return write(operation)

    @step(effect="transactional")
    def settle(self, book: str, operation: Operation) -> str:
        return write(operation)


class Outside(Workflow[SampleInput, str]):
    """A call to the outside that may be repeated with its key."""

    class Meta:
        name, version, queue = "sample.outside", 1, "workflows"

    @step
    def call(self, input: SampleInput, operation: Operation) -> str:
        return call_outside(input, operation)


class Verified(Workflow[SampleInput, str]):
    """A call to the outside that looks before it repeats itself."""

    class Meta:
        name, version, queue = "sample.verified", 1, "workflows"

    @step(effect="verify")
    def call(self, input: SampleInput, operation: Operation) -> str:
        return call_outside(input, operation)

    @call.verify
    def find(self, input: SampleInput, operation: Operation) -> str | None:
        file = Path(input.outside)
        return operation.key if file.exists() and operation.key in file.read_text() else None


class Once(Workflow[SampleInput, str]):
    """A call to the outside that must never be repeated by a machine."""

    class Meta:
        name, version, queue = "sample.once", 1, "workflows"

    @step(effect="at_most_once")
    def call(self, input: SampleInput, operation: Operation) -> str:
        return call_outside(input, operation)


class Saga(Workflow[SampleInput, str]):
    """Two steps with undos, then one that fails as the input says. One run at a time per key."""

    class Meta:
        name, version, queue, key = "sample.saga", 1, "workflows", "saga:{input.key}"

    @step(effect="transactional")
    def first(self, input: SampleInput, operation: Operation) -> str:
        return write(operation)

    @first.undo(effect="transactional")
    def undo_first(self, first: str, failure: StepFailure, operation: Operation) -> str:
        write(operation)
        return failure.code

    @step(effect="transactional")
    def second(self, input: SampleInput, operation: Operation) -> str:
        return write(operation)

    @second.undo(effect="transactional", retry=Retry(attempts=2, first=0.01))
    def undo_second(self, input: SampleInput, operation: Operation) -> str:
        if input.fail == "undo":
            raise TransientError("UNDO_BROKEN", "the undo does not work today")
        return write(operation)

    @step
    def pause(self, input: SampleInput) -> list[Sleep]:
        return [Sleep(seconds=0.05)]

    @step(retry=Retry(attempts=3, first=0.01))
    def third(self, input: SampleInput, operation: Operation) -> str:
        if input.fail == "transient" and operation.attempt <= input.times:
            raise TransientError("NOT_YET", "not yet")
        if input.fail in ("permanent", "undo"):
            raise PermanentError("REFUSED", "the counterparty refused")
        return operation.key


class TwoQueues(Workflow[SampleInput, str]):
    """Three segments: its middle step runs on another queue."""

    class Meta:
        name, version, queue = "sample.two_queues", 1, "workflows"

    @step(effect="transactional")
    def here(self, operation: Operation) -> str:
        return write(operation)

    @step(effect="transactional", queue="ops")
    def there(self, operation: Operation) -> str:
        return write(operation)

    @step(effect="transactional")
    def back(self, operation: Operation) -> str:
        return write(operation)


class Kept(Workflow[SampleInput, str]):
    """One step; its runs are archived a month after they ended."""

    class Meta:
        name, version, queue, retention_days = "sample.kept", 1, "workflows", 30

    @step(effect="transactional")
    def only(self, input: SampleInput, operation: Operation) -> str:
        return write(operation)


class KeptFamily(Workflow[SampleInput, list[str]]):
    """A child, then three branches; archived a month after they ended, all together."""

    class Meta:
        name, version, queue, retention_days = "sample.kept_family", 1, "workflows", 30

    @step
    def child(self, input: SampleInput) -> Child[str]:
        return Kept.child(input)

    @step(effect="transactional", each=lambda input: ["a", "b", "c"])
    def letters(self, item: str, operation: Operation) -> str:
        return item + write(operation)
