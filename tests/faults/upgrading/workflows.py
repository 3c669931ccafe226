"""A workflow that each of its runs stays in another way in, as its input says, while the app is upgraded.

UPGRADE is "old"; "new", which inserts a step and appends one; or "bad", which has lost a step.
"""

import os
from pathlib import Path

from pydantic import BaseModel

from tests.sample.models import Effect
from workflows import Operation, Retry, Sleep, TransientError, WaitForSignal, Workflow, step

UPGRADE = os.environ.get("UPGRADE", "old")
PATIENT = Retry(attempts=1000, first=0.5, factor=1, jitter=0.5)


class OrderInput(BaseModel):
    stage: str
    directory: str
    lines: list[int] = []


def write(operation: Operation) -> str:
    Effect.objects.create(key=operation.key, attempt=operation.attempt)
    return operation.key


def require_go(input: OrderInput) -> None:
    if not (Path(input.directory) / "go").exists():
        raise TransientError("NOT_YET", "the test has not said so yet")


class Order(Workflow[OrderInput, str]):
    """Reserve, stay in a stage, pack what there is, settle."""

    class Meta:
        name, version, queue = "upgrading.order", 1, "workflows"

    if UPGRADE != "bad":

        @step(effect="transactional")
        def reserve(self, operation: Operation) -> str:
            return write(operation)

    @step(when=lambda input: input.stage == "signal")
    def hear(self) -> WaitForSignal[str]:
        return WaitForSignal[str](name="go")

    @step(when=lambda input: input.stage == "sleep")
    def doze(self) -> Sleep:
        return Sleep(seconds=4)

    @step(when=lambda input: input.stage == "retry", retry=PATIENT)
    def knock(self, input: OrderInput) -> None:
        require_go(input)

    @step(each="input.lines", effect="transactional", retry=PATIENT)
    def pack(self, input: OrderInput, item: int, operation: Operation) -> str:
        if item % 2:
            require_go(input)
        return write(operation)

    if UPGRADE == "new":

        @step(effect="transactional")
        def weigh(self, pack: list[str], operation: Operation) -> str:
            return write(operation)

    @step(effect="transactional")
    def settle(self, operation: Operation) -> str:
        return write(operation)

    if UPGRADE == "new":

        @step(effect="transactional")
        def announce(self, weigh: str, operation: Operation) -> str:
            return write(operation)
