"""The workflows that carry programs out: one for each row of SLOTS, each step of which does what the input says.

A step's output is its path, so that a mistaken one is seen in the output of the run, which is all of them.
"""

import inspect
import time
import types
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from tests.chaos import outside
from tests.chaos.expected import LARGE
from tests.chaos.models import Counter, Effect
from tests.chaos.programs import ON_OPS, SIDES, SLOTS, Act, Program
from workflows import (
    AnyOf,
    Operation,
    PermanentError,
    Retry,
    Sleep,
    StepFailure,
    TransientError,
    WaitForSignal,
    Workflow,
    crashpoint,
    step,
)
from workflows.objects import VirtualObject, exclusive, shared
from workflows.steps import Step

crashpoint.register("chaos.inside", "in the middle of a transactional step, after its write")
crashpoint.register("chaos.outside", "after a call to the outside, inside the step")

PATIENT = Retry(attempts=8, first=0.2, factor=1.5, cap=1.0)
KEYS = {"keyed": "chaos:{input.key}"}


def write(path: str, operation: Operation, *, undo: bool = False) -> None:
    Effect.objects.create(path=path, undo=undo, attempt=operation.attempt)
    crashpoint("chaos.inside")


def call_outside(input: Program, path: str, operation: Operation) -> None:
    outside.call(input.outside, path, operation.key)
    crashpoint("chaos.outside")


def finish(act: Act, path: str, operation: Operation) -> str:
    """Take the time and fail as the act says, after the effect: what is to be rolled back must have happened."""
    time.sleep(act.busy)
    if operation.attempt <= act.fails:
        raise TransientError("NOT_YET", f"attempt {operation.attempt}")
    if act.refuses or (act.refused_item == operation.index and act.items):
        raise PermanentError("REFUSED", path)
    return path + "x" * LARGE if act.large else path


class LedgerState(BaseModel):
    entries: list[str] = []


class Ledger(VirtualObject[LedgerState]):
    """A list that anybody adds to: what was added twice stands in it twice, what was overwritten is missing."""

    class Meta:
        name, version, queue = "chaos.ledger", 1, "workflows"

    @exclusive(retry=PATIENT)
    def add(self, entry: str) -> str:
        self.state.entries.append(entry)
        return entry

    @exclusive(retry=PATIENT)
    def remove(self, entry: str) -> None:
        if entry in self.state.entries:  # else nobody knew whether it had been added, and it hadn't
            self.state.entries.remove(entry)

    @shared
    def entries(self) -> list[str]:
        return self.state.entries


def ask(act: Act, name: str, path: str) -> Any:
    """Return the command that the act waits for."""
    match act.do:
        case "sleep":
            return Sleep(seconds=act.seconds)
        case "signal":
            return WaitForSignal(name=name)
        case "race":
            return AnyOf([WaitForSignal(name=name), Sleep(seconds=act.seconds)])
        case "object":
            return Ledger(act.ledger).add(path)
        case "child":
            return CLASSES[act.children[0].workflow].child(act.children[0])
        case "children":
            return [CLASSES[child.workflow].child(child) for child in act.children]
    raise AssertionError(act.do)


def parameters(**types: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare what a body takes, for bodies that are made for several names."""

    def declare(body: Callable[..., Any]) -> Callable[..., Any]:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        body.__annotations__ = {**types, "return": Any}
        names = [inspect.Parameter(name, kind) for name in ("self", *types)]
        body.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
        return body

    return declare


def place(input: Program, name: str, operation: Operation, items: bool) -> str:
    return f"{input.path}/{name}" + (f"[{operation.index}]" if items else "")


def writing(name: str, *, items: bool) -> Callable[..., Any]:
    @parameters(input=Program, operation=Operation)
    def body(self: Any, input: Program, operation: Operation) -> Any:
        path = place(input, name, operation, items)
        write(path, operation)
        return finish(input.acts[name], path, operation)

    return body


def calling(name: str, *, items: bool) -> Callable[..., Any]:
    @parameters(input=Program, operation=Operation)
    def body(self: Any, input: Program, operation: Operation) -> Any:
        act, path = input.acts[name], place(input, name, operation, items)
        if act.do != "effect":
            time.sleep(act.busy)
            return ask(act, name, path)
        call_outside(input, path, operation)
        return finish(act, path, operation)

    return body


def looking(name: str) -> Callable[..., Any]:
    """Make the verifier: what was called before, and would not have failed, need not be called again."""

    @parameters(input=Program, operation=Operation)
    def body(self: Any, input: Program, operation: Operation) -> Any:
        act, path = input.acts[name], f"{input.path}/{name}"
        fails = act.refuses or operation.attempt <= act.fails
        return None if fails or not outside.was_called(input.outside, path) else finish(act, path, operation)

    return body


def reading(name: str) -> Callable[..., Any]:
    @parameters(input=Program, operation=Operation)
    def body(self: Any, input: Program, operation: Operation) -> Any:
        write(f"{input.path}/{name}", operation)
        row = Counter.objects.filter(key=input.key).first()
        return row.value if row else 0

    return body


def bumping(name: str) -> Callable[..., Any]:
    """Write back what an earlier step has read, plus one: whoever did so in between is overwritten, and missing."""

    @parameters(input=Program, operation=Operation, read1=int)
    def body(self: Any, input: Program, operation: Operation, read1: int) -> Any:
        path = f"{input.path}/{name}"
        write(path, operation)
        Counter.objects.update_or_create(key=input.key, defaults={"value": read1 + 1})
        return finish(input.acts[name], path, operation)

    return body


def unbumping(name: str) -> Callable[..., Any]:
    @parameters(input=Program, operation=Operation, read1=int)
    def body(self: Any, input: Program, operation: Operation, read1: int) -> None:
        write(f"{input.path}/{name}", operation, undo=True)
        Counter.objects.filter(key=input.key).update(value=read1)

    return body


def undoing(name: str, *, items: bool, writes: bool) -> Callable[..., Any]:
    @parameters(input=Program, operation=Operation, failure=StepFailure, **{name: Any})
    def body(self: Any, input: Program, operation: Operation, failure: StepFailure, **output: Any) -> Any:
        path = place(input, name, operation, items)
        if writes:
            write(path, operation, undo=True)
            return None
        outside.call(input.outside, f"undo:{path}", operation.key)
        crashpoint("chaos.outside")
        act = input.acts[name]
        if act.ledger:
            return Ledger(act.ledger).remove(path)
        return Sleep(seconds=0.2) if act.undo_sleeps else None

    return body


def a_step(name: str, kind: str, *, queue: str | None, parallel: bool = False) -> Step:
    """Return the step of one slot, with its undo."""
    items, writes = kind in ("each", "calls"), kind in ("write", "each", "read", "bump")
    effects = {"verify": "verify", "once": "at_most_once"}
    made = {"read": reading, "bump": bumping}.get(kind)
    body = made(name) if made else (writing if writes else calling)(name, items=items)
    body.__name__ = name
    marked: Step = step(
        effect=effects.get(kind, "transactional" if writes else "idempotent"),  # type: ignore[arg-type]
        retry=PATIENT,
        queue=queue,
        when=lambda input: name in input.acts,
        each=items_of(name) if items else None,
        parallel=parallel,
        undo=kind != "once",
    )(body)
    if kind == "verify":
        marked.verify(looking(name))
    if kind != "once":
        undo = unbumping(name) if kind == "bump" else undoing(name, items=items, writes=writes)
        undo.__name__ = f"undo_{name}"
        marked.undo(effect="transactional" if writes else "idempotent", retry=PATIENT)(undo)
    return marked


def shown(input: Program, name: str, value: Any) -> Any:
    """Return an output as the model knows it: without chance, and with what is large told by its length."""
    if name == "read1":
        return f"{input.path}/{name}"
    act = input.acts.get(name)
    if act is not None and act.do == "race":
        return "raced"
    return f"{len(value)} characters" if isinstance(value, str) and len(value) >= LARGE else value


def items_of(name: str) -> Callable[..., list[int]]:
    def items(input: Program) -> list[int]:
        return list(range(input.acts[name].items))

    return items


def ending(names: tuple[str, ...]) -> Step:
    """Return the last step, whose output is those of all the others."""

    @parameters(input=Program, operation=Operation, **dict.fromkeys(names, Any))
    def end(self: Any, input: Program, operation: Operation, **outputs: Any) -> Any:
        write(f"{input.path}/end", operation)
        return {name: shown(input, name, value) for name, value in outputs.items()}

    marked: Step = step(effect="transactional", undo=False)(end)
    return marked


def a_workflow(name: str) -> type[Workflow[Program, Any]]:
    body: dict[str, Any] = {}
    for slot, kind in SLOTS[name]:
        queue = "ops" if slot in ON_OPS.get(name, ()) else None
        if kind == "pair":
            for side, half in zip(SIDES, ("write", "call"), strict=True):
                body[slot + side] = a_step(slot + side, half, queue=queue, parallel=True)
        else:
            body[slot] = a_step(slot, kind, queue=queue)
    body["end"] = ending(tuple(body))
    body["Meta"] = type("Meta", (), {"name": f"chaos.{name}", "key": KEYS.get(name)})
    title = f"Chaos{name.title()}"
    return types.new_class(title, (Workflow[Program, Any],), exec_body=lambda space: space.update(body))


CLASSES = {name: a_workflow(name) for name in SLOTS}
