"""What must have happened when a program is over: the same program, carried out in plain Python."""

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.programs import SIDES, SLOTS, Act, Program

LARGE = 40_000


@dataclass
class Expected:
    """Of one program and, by their paths, of its children.

    writes and undone_writes have happened exactly once; calls and undone_calls at least once; nothing else has, but
    what stands in the sets that begin with `may`.
    """

    writes: set[str] = field(default_factory=set)
    undone_writes: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    undone_calls: set[str] = field(default_factory=set)
    # A call that was cut off and then refused is undone, too: nobody could tell whether it had happened.
    may_undo: set[str] = field(default_factory=set)
    may_call: set[str] = field(default_factory=set)
    may_write: set[str] = field(default_factory=set)
    states: dict[str, set[str]] = field(default_factory=dict)  # by path
    outputs: dict[str, Any] = field(default_factory=dict)  # of those that succeed, by path
    at_most_once: set[str] = field(default_factory=set)
    noted: dict[str, str] = field(default_factory=dict)  # by path, in which ledger it stands at the end


def expect(program: Program) -> Expected:
    """Carry the program out."""
    expected = Expected()
    _Model(program, expected).carry_out()
    return expected


class _Model:
    def __init__(self, program: Program, expected: Expected) -> None:
        self.program, self.expected = program, expected
        self.done: list[tuple[str, bool]] = []  # paths to undo, and whether by a write
        self.outputs: dict[str, Any] = {}

    def carry_out(self) -> bool:
        """Return whether it succeeds."""
        states, path = self.expected.states, self.program.path
        for slot, kind in SLOTS[self.program.workflow]:
            if not self._slot(slot, kind):
                uncertain = bool(self.expected.may_undo & self._own_paths())
                self._undo()
                ends = {"COMPENSATED"} if self.done else {"FAILED"}
                states[path] = ends | ({"COMPENSATED"} if uncertain else set())
                return False
        self.expected.writes.add(f"{path}/end")
        self.expected.outputs[path] = self.outputs
        states[path] = {"SUCCEEDED"}
        return True

    def _own_paths(self) -> set[str]:
        return {path for path in self.expected.may_undo if path.rpartition("/")[0] == self.program.path}

    def _slot(self, slot: str, kind: str) -> bool:
        if kind == "pair":
            return all(  # of a list: each is carried out, whatever the one before gave
                [self._step(slot + side, kind) for side, kind in zip(SIDES, ("write", "call"), strict=True)]
            )
        return self._step(slot, kind)

    def _step(self, name: str, kind: str) -> bool:
        act, path = self.program.acts.get(name), f"{self.program.path}/{name}"
        if act is None:
            self.outputs[name] = None
            return True
        if kind in ("each", "calls"):
            return self._items(name, act, path, writes=kind == "each")
        if kind == "once":
            return self._once(name, path)
        if act.do in ("child", "children"):
            return self._children(name, act, path)
        if act.do in ("sleep", "signal", "race", "object"):
            self.outputs[name] = {"sleep": None, "race": "raced"}.get(act.do, path)
            if act.ledger:
                self.expected.noted[path] = act.ledger
            self.done.append((path, False))
            return True
        self.outputs[name] = f"{LARGE + len(path)} characters" if act.large else path
        return self._effect(path, kind in ("write", "read", "bump"), refuses=act.refuses)

    def _effect(self, path: str, write: bool, *, refuses: bool) -> bool:
        if refuses:
            # What was written is rolled back; what was done outside stays, and counts as not done.
            if not write:
                self.expected.calls.add(path)
                self.expected.may_undo.add(path)
            return False
        (self.expected.writes if write else self.expected.calls).add(path)
        self.done.append((path, write))
        return True

    def _items(self, name: str, act: Act, path: str, *, writes: bool) -> bool:
        paths = [f"{path}[{index}]" for index in range(act.items)]
        self.outputs[name] = [None if act.do == "sleep" else each for each in paths]
        if act.do == "sleep":
            self.done += [(each, False) for each in paths]
            return True
        return all(  # likewise
            [
                self._effect(each, writes, refuses=index == act.refused_item)
                for index, each in enumerate(paths)
            ]
        )

    def _once(self, name: str, path: str) -> bool:
        """A worker that dies in it leaves it to a person, and what comes after it undone."""
        expected = self.expected
        expected.at_most_once.add(path)
        expected.may_call.add(path)
        self.outputs[name] = path
        return True

    def _children(self, name: str, act: Act, path: str) -> bool:
        ends = [_Model(child, self.expected).carry_out() for child in act.children]
        outputs = [self.expected.outputs.get(child.path) for child in act.children]
        self.outputs[name] = outputs[0] if act.do == "child" else outputs
        if all(ends):
            self.done.append((path, False))
        elif any(ends):
            self.done.append((path, False))  # half of it has happened
        else:
            self.expected.may_undo.add(path)
        return all(ends)

    def _undo(self) -> None:
        for path, write in self.done:
            (self.expected.undone_writes if write else self.expected.undone_calls).add(path)
            self.expected.noted.pop(path, None)
