"""A random program: for each slot of a workflow what its step is to do. And the generator, the same for the same seed."""

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel

Do = Literal["effect", "sleep", "signal", "race", "child", "children", "object"]

# The slots of each workflow, in order: name and kind. Slots that a program leaves out are skipped (`when=`).
#   write   transactional          call  idempotent: an effect outside, or a command to wait for
#   verify  looks first            once  at most once
#   each    transactional, item by item     calls  idempotent, item by item
#   pair    two at the same time, a write and a call
#   read, bump   a counter that only runs taking turns count right (they hold a key)
SLOTS: dict[str, tuple[tuple[str, str], ...]] = {
    "program": (
        ("write1", "write"),
        ("call1", "call"),
        ("verify1", "verify"),
        ("each1", "each"),
        ("pair1", "pair"),
        ("call2", "call"),
        ("write2", "write"),
        ("calls1", "calls"),
        ("call3", "call"),
    ),
    "short": (("write1", "write"), ("call1", "call"), ("write2", "write")),
    "keyed": (("read1", "read"), ("call1", "call"), ("bump1", "bump"), ("each1", "each"), ("call2", "call")),
    "queues": (
        ("write1", "write"),
        ("call1", "call"),
        ("each1", "each"),
        ("write2", "write"),
        ("call2", "call"),
    ),
    "once": (("write1", "write"), ("once1", "once"), ("write2", "write")),
}
ON_OPS = {"queues": {"call1", "each1", "call2"}}  # on another queue than the rest
SIDES = ("a", "b")  # of a pair: pair1a writes, pair1b calls
ALWAYS = {"keyed": ("read1", "bump1"), "once": ("once1",)}
DEPTH_MAX = 2


class Act(BaseModel):
    """What one slot's step does."""

    do: Do = "effect"
    fails: int = 0  # so many attempts, then it succeeds
    refuses: bool = False  # for good: the program is undone
    refused_item: int | None = None  # the same for one item
    items: int = 0  # of a slot that works item by item
    seconds: float = 0.0  # how long it sleeps
    busy: float = 0.0  # how long its code takes
    large: bool = False  # its output is too large for the row
    children: list["Program"] = []
    ledger: str = ""  # the virtual object that it has note its path
    undo_sleeps: bool = False  # its undo has to wait


class Program(BaseModel):
    """The input of a run. `path` names it among all programs; that of a child begins with its parent's."""

    workflow: str
    path: str
    outside: str  # the file for effects that the database knows nothing of
    key: str = ""
    acts: dict[str, Act]

    def family(self) -> Iterator["Program"]:
        """Yield this program and those of its children."""
        yield self
        for act in self.acts.values():
            for child in act.children:
                yield from child.family()


def names_in(slot: str, kind: str) -> tuple[str, ...]:
    """Return the steps of a slot."""
    return tuple(slot + side for side in SIDES) if kind == "pair" else (slot,)


class Generator:
    """Programs without end, the same for the same seed."""

    def __init__(self, seed: int, outside: str) -> None:
        self.random = random.Random(seed)
        self.outside = outside
        self._count = 0

    def next(self) -> Program:
        """Return the next program."""
        self._count += 1
        path = f"p{self._count}"
        workflow = self.random.choices(list(SLOTS), weights=(50, 10, 18, 14, 8))[0]
        return self._program(workflow, path, f"{self.outside}/{path}", depth=0)

    def _program(self, workflow: str, path: str, outside: str, depth: int) -> Program:
        chance, acts = self.random, {}
        for slot, kind in SLOTS[workflow]:
            wanted = slot in ALWAYS.get(workflow, ()) or chance.random() < 0.6
            for name in names_in(slot, kind) if wanted else ():
                acts[name] = self._act(
                    kind if kind != "pair" else ("write", "call")[name[-1] == "b"],
                    f"{path}/{name}",
                    outside,
                    depth,
                )
        spoilable = [act for name, act in acts.items() if name not in ("read1", "once1")]
        if chance.random() < 0.3 and spoilable:
            self._spoil(chance.choice(spoilable))
        key = f"{'abc'[depth]}{chance.randrange(24)}" if workflow == "keyed" else ""
        return Program(workflow=workflow, path=path, outside=outside, key=key, acts=acts)

    def _act(self, kind: str, path: str, outside: str, depth: int) -> Act:
        chance = self.random
        act = Act(busy=chance.choice((0, 0, 0, 0.005, 0.02)), undo_sleeps=chance.random() < 0.1)
        if kind in ("each", "calls"):
            act.items = chance.choice((0, 1, 2, 3, 3, 5, 8))
        elif kind in ("write", "verify", "call"):
            act.large = chance.random() < 0.03
        if kind == "call":
            self._choose_command(act, path, outside, depth)
        elif kind == "calls" and chance.random() < 0.3:
            act.do, act.seconds = "sleep", chance.uniform(0, 0.6)
        if act.do == "effect" and kind not in ("read", "bump", "once") and chance.random() < 0.15:
            act.fails = chance.choice((1, 1, 2))
        return act

    def _choose_command(self, act: Act, path: str, outside: str, depth: int) -> None:
        chance = self.random
        choices: dict[Do, int] = {"effect": 30, "sleep": 12, "signal": 20, "race": 10, "object": 15}
        if depth < DEPTH_MAX:
            choices |= {"child": 15, "children": 6}
        act.do = chance.choices(list(choices), weights=list(choices.values()))[0]
        if act.do in ("sleep", "race"):
            act.seconds = chance.uniform(0, 1.5)
        if act.do == "object":
            act.ledger = f"l{chance.randrange(12)}"
        count = {"child": 1, "children": chance.randint(2, 3)}.get(act.do, 0)
        for number in range(count):
            workflow = chance.choices(("short", "program", "keyed"), weights=(6, 2, 2))[0]
            act.children.append(self._program(workflow, f"{path}.{number}", outside, depth + 1))

    def _spoil(self, act: Act) -> None:
        """Let it fail for good, if it does something itself."""
        if act.items:
            act.refused_item = self.random.randrange(act.items)
        elif act.do == "effect":
            act.refuses = True
