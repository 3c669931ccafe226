"""A program for each shape of workflow: small, and between them all that the engine does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.programs import Act, Program

DONE, REFUSED = Act(), Act(refuses=True)
TWO = Act(items=2)


@dataclass(frozen=True)
class Maker:
    """Makes the programs of one occurrence of a shape, which `path` sets apart from all others."""

    path: str
    outside: str

    def program(self, workflow: str = "program", suffix: str = "", key: str = "", **acts: Act) -> Program:
        return Program(workflow=workflow, path=self.path + suffix, outside=self.outside, key=key, acts=acts)

    def parent(self, *last_acts: Act, **acts: Act) -> Program:
        """Return a program that waits for a child for each of the last acts."""
        children = [
            self.program("short", f"/call2.{number}", write1=DONE, call1=DONE, write2=act)
            for number, act in enumerate(last_acts)
        ]
        do: Any = "child" if len(children) == 1 else "children"
        return self.program(**acts, call2=Act(do=do, children=children))

    def taking_turns(self) -> list[Program]:
        acts = {"read1": DONE, "call1": Act(do="sleep", seconds=0.05), "bump1": DONE}
        return [self.program("keyed", f".{number}", f"{self.path}-key", **acts) for number in range(3)]

    def noted(self, **acts: Act) -> Program:
        return self.program(call1=Act(do="object", ledger=self.path), **acts)


_ONE: dict[str, Callable[[Maker], Program]] = {
    "one after the other": lambda make: make.program(
        write1=DONE, call1=DONE, verify1=DONE, write2=Act(large=True), call3=Act(large=True)
    ),
    "tried again": lambda make: make.program(
        "short", write1=Act(fails=2), call1=Act(fails=1), write2=Act(fails=1)
    ),
    "undone": lambda make: make.program(
        write1=DONE, verify1=DONE, each1=TWO, call2=Act(undo_sleeps=True), write2=DONE, call3=REFUSED
    ),
    "waiting": lambda make: make.program(
        call1=Act(do="signal"), call2=Act(do="race", seconds=0.1), call3=Act(do="sleep", seconds=0.05)
    ),
    "item by item": lambda make: make.program(
        each1=Act(items=3), calls1=Act(items=3, do="sleep", seconds=0.02)
    ),
    "an item refused": lambda make: make.program(write1=DONE, each1=Act(items=3, refused_item=1)),
    "side by side": lambda make: make.program(pair1a=DONE, pair1b=Act(do="signal"), write2=DONE),
    "with a child": lambda make: make.parent(DONE, write1=DONE, write2=DONE),
    "a child refused": lambda make: make.parent(DONE, REFUSED, write1=DONE),
    "an object": lambda make: make.noted(write2=DONE),
    "an object, undone": lambda make: make.noted(call3=REFUSED),
    "two queues": lambda make: make.program(
        "queues", write1=DONE, call1=DONE, each1=TWO, write2=DONE, call2=DONE
    ),
    "at most once": lambda make: make.program("once", write1=DONE, once1=DONE, write2=DONE),
}

SHAPES: dict[str, Callable[[Maker], list[Program]]] = {
    **{name: lambda make, shape=shape: [shape(make)] for name, shape in _ONE.items()},  # type: ignore[misc]
    "one key": Maker.taking_turns,
}
