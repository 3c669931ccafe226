"""Runs of steps that do nothing: what is left is the engine. And runs of every kind, to look at their queries."""

import time
import types
from typing import Any

from pydantic import BaseModel

from workflows import Child, PermanentError, Sleep, WaitForSignal, Workflow, step

STEPS = 10
STEPS_IN_PROCESS = 200
STEPS_SHORT = 3
# The runs that are driven without a broker, or not at all: their messages go where no worker listens.
QUEUE_IN_PROCESS = "unattended"
BLOCK_SECONDS = 0.02


class Nothing(BaseModel):
    """An empty input."""


class Account(BaseModel):
    account: str


def nothing(self: Any) -> None:
    """Do nothing."""


def _noops(name: str, steps: int, queue: str, **meta: Any) -> type[Workflow[Nothing, None]]:
    """Define a workflow of so many steps that do nothing."""
    meta_class = type("Meta", (), {"name": name, "version": 1, "queue": queue, **meta})
    body = {"Meta": meta_class, **{f"step_{number}": step(nothing) for number in range(steps)}}
    class_name = name.title().replace(".", "").replace("_", "")
    return types.new_class(class_name, (Workflow[Nothing, None],), exec_body=lambda space: space.update(body))


TenSteps = _noops("benchmark.ten_steps", STEPS, "workflows")
ThreeSteps = _noops("benchmark.three_steps", STEPS_SHORT, "workflows")
ManySteps = _noops("benchmark.many_steps", STEPS_IN_PROCESS, QUEUE_IN_PROCESS)
Unattended = _noops("benchmark.unattended", STEPS_SHORT, QUEUE_IN_PROCESS)
# What the tables are filled with.
Finished = _noops("benchmark.finished", 2, QUEUE_IN_PROCESS, retention_days=365)


class Blocking(Workflow[Nothing, None]):
    """Sleeps until somebody ends it, then keeps its process for a moment."""

    class Meta:
        name, version = "benchmark.blocking", 1

    @step
    def begin(self) -> None:
        return None

    @step
    def sleep(self) -> Sleep:
        return Sleep(seconds=86_400)

    @step
    def block(self) -> None:
        time.sleep(BLOCK_SECONDS)

    @step
    def end(self) -> None:
        return None


class Undone(Workflow[Nothing, None]):
    """Does something, fails, and takes it back."""

    class Meta:
        name, version, queue = "benchmark.undone", 1, QUEUE_IN_PROCESS

    @step
    def reserve(self) -> int:
        return 1

    @reserve.undo
    def give_back(self, reserve: int) -> None:
        return None

    @step
    def fail(self) -> None:
        raise PermanentError("BENCHMARK", "it always fails")


class Signalled(Workflow[Nothing, None]):
    """Waits for a signal."""

    class Meta:
        name, version, queue = "benchmark.signalled", 1, QUEUE_IN_PROCESS

    @step
    def wait(self) -> WaitForSignal[int]:
        return WaitForSignal[int](name="go")


class Branching(Workflow[Nothing, None]):
    """Does the same for three items at once."""

    class Meta:
        name, version, queue = "benchmark.branching", 1, QUEUE_IN_PROCESS

    @step(each=lambda input: [1, 2, 3])
    def each(self, item: int) -> int:
        return item

    @step
    def collect(self, each: list[int]) -> None:
        return None


class Parent(Workflow[Nothing, None]):
    """Waits for another run."""

    class Meta:
        name, version, queue = "benchmark.parent", 1, QUEUE_IN_PROCESS

    @step
    def child(self) -> Child[None]:
        return Unattended.child(Nothing())


class Keyed(Workflow[Account, None]):
    """Holds the key of a virtual object while it lives."""

    class Meta:
        name, version, queue, key = "benchmark.keyed", 1, QUEUE_IN_PROCESS, "benchmark:{input.account}"

    @step
    def change(self) -> None:
        return None
