"""A workflow in many versions, made of the same steps in another order, more of them, fewer, or changed ones."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from workflows import (
    Operation,
    PermanentError,
    Retry,
    RunEndedError,
    TransientError,
    WaitForSignal,
    Workflow,
    send_signal,
    step,
)
from workflows.definition import _REGISTRY, Definition
from workflows.engine.drive import advance
from workflows.engine.start import start_run
from workflows.models import Run

NAME = "versions.order"
called: list[str] = []  # the operations whose code ran, in their order
failing: set[str] = set()  # the names of steps that fail for good, and of undos that are to be tried again


class OrderInput(BaseModel):
    lines: list[str] = ["one", "two"]


def call(operation: Operation) -> str:
    called.append(operation.id)
    name = operation.id.partition("#")[0]
    if name in failing:
        raise (TransientError if "." in name else PermanentError)("REFUSED", name)
    return name


class Order(Workflow[OrderInput, str]):
    """Every step that some version has. `hear` waits for a signal; the first three can be undone."""

    class Meta:
        name, version, queue = NAME, 1, "workflows"

    @step
    def first(self, operation: Operation) -> str:
        return call(operation)

    @first.undo(retry=Retry(attempts=3, first=60))
    def undo_first(self, first: str, operation: Operation) -> None:
        call(operation)

    @step
    def hear(self, operation: Operation) -> WaitForSignal[str]:
        call(operation)
        return WaitForSignal[str](name="go")

    @step
    def second(self, first: str, operation: Operation) -> str:
        return call(operation)

    @second.undo(retry=Retry(attempts=3, first=60))
    def undo_second(self, second: str, operation: Operation) -> None:
        call(operation)

    @step(each="input.lines")
    def pack(self, item: str, operation: Operation) -> WaitForSignal[str]:
        call(operation)
        return WaitForSignal[str](name="go")

    @step(parallel=True)
    def left(self, operation: Operation) -> WaitForSignal[str]:
        call(operation)
        return WaitForSignal[str](name="go")

    @step(parallel=True)
    def right(self, operation: Operation) -> WaitForSignal[str]:
        call(operation)
        return WaitForSignal[str](name="go")

    @step(parallel=True)
    def middle(self, operation: Operation) -> str:
        return call(operation)

    @step
    def third(self, operation: Operation) -> str:
        return call(operation)

    @step
    def last(self, operation: Operation) -> str:
        return call(operation)

    @step
    def added(self, operation: Operation) -> str:
        return call(operation)


POOL = {each.name: each for each in Order.definition.steps}


def version(names: str, **changed: dict[str, Any]) -> Definition:
    """Return a definition of these steps; `changed`: what is different about a step."""
    steps = tuple(dataclasses.replace(POOL[name], **changed.get(name, {})) for name in names.split())
    return dataclasses.replace(Order.definition, steps=steps)


def deploy(definition: Definition | None) -> None:
    """Have this process know this version of the workflow and no other, or not know it at all."""
    _REGISTRY.pop(NAME, None)
    if definition is not None:
        _REGISTRY[NAME] = definition


def begin(definition: Definition, stage: str, *, lines: int = 2) -> Run:
    """Start a run with this version and drive it to an operation: "hear#0" is about to begin, "hear#0 command" waits.

    It has heard the signal before when that lies behind it.
    """
    operation, _, waiting_for = stage.partition(" ")
    deploy(definition)
    run, _ = start_run(definition, OrderInput(lines=["line"] * lines))
    names = [each.name for each in definition.steps]
    behind = names[: names.index(operation.partition("#")[0].strip("*").partition(".")[0])]
    for _ in range(("hear" in behind) + lines * ("pack" in behind)):
        send_signal(run.pk, "go", "went")
    drive(run, lambda: not waiting_for and run.operation == operation)
    assert (run.operation, run.waiting_for) == (operation, waiting_for), run.state
    return run


def go(run: Run) -> None:
    """Send as many signals as the run and its branches can possibly wait for."""
    for _ in range(4):
        with suppress(RunEndedError):
            send_signal(run.pk, "go", "went")


def drive(run: Run, until: Callable[[], bool] = lambda: False) -> Run:
    """Advance the run and its branches until the condition holds or nothing of it can be claimed."""
    moved = True
    while moved and not until():
        moved = False
        for each in [run, *Run.objects.filter(parent=run).order_by("pk")]:
            moved = advance(each.pk) is not None or moved
        run.refresh_from_db()
    return run


def wake(run: Run) -> None:
    """Let the instant of its next attempt come."""
    Run.objects.filter(pk=run.pk, wake_at__isnull=False).update(wake_at=run.created_at)
