"""Which operation a run is at, and which comes next. Pure: no database, no clock."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from workflows.definition import Definition
from workflows.states import StepState
from workflows.steps import StepDefinition

ITEMS_MAX = 100_000
_FAN_OUT = "*"
_UNDO = ".undo"
_SEQ_BITS = 20


class StepRow(Protocol):
    """What planning reads of a step's row."""

    name: str
    index: int
    state: str
    uncertain: bool
    borrowed: bool


@dataclass(frozen=True)
class Planned:
    """An operation to carry out."""

    step: StepDefinition
    operation_id: str
    position: int  # of its group
    seq: int  # its place among the run's operations
    index: int = 0
    fans_out: bool = False  # it starts branches and waits for them
    undoes: str = ""  # the operation that it takes back


def operation_id(name: str, index: int = 0) -> str:
    return f"{name}#{index}"


def undo_id(name: str, index: int = 0) -> str:
    return f"{name}{_UNDO}#{index}"


def seq_of(place: int, index: int = 0) -> int:
    """Return the place among a run's operations of the step at this place of the definition."""
    return (place << _SEQ_BITS) + index


def at_position(definition: Definition, position: int) -> Planned | None:
    """Return the operation of this group, or None behind the last one."""
    if position >= len(definition.groups):
        return None
    place = definition.groups[position][0]
    step = definition.steps[place]
    if definition.branches_at(position):
        return Planned(step, step.name + _FAN_OUT, position, seq_of(place), fans_out=True)
    return Planned(step, operation_id(step.name), position, seq_of(place))


def find_operation(definition: Definition, wanted: str) -> Planned | None:
    """Return the operation of this id, or None when the definition has no such step (any more)."""
    if wanted.endswith(_FAN_OUT):
        position = definition.group_of.get(wanted.removesuffix(_FAN_OUT))
        found = None if position is None else at_position(definition, position)
        return found if found and found.operation_id == wanted else None
    name, _, number = wanted.partition("#")
    if not number.isdigit():
        return None
    if name.endswith(_UNDO):
        return undo_of(definition, name.removesuffix(_UNDO), int(number))
    place = definition.places.get(name)
    if place is None:
        return None
    position = definition.group_of[name]
    return Planned(definition.steps[place], wanted, position, seq_of(place, int(number)), int(number))


def undo_of(definition: Definition, name: str, index: int) -> Planned | None:
    """Return the undo of an operation, or None when its step has none."""
    place = definition.places.get(name)
    undo = None if place is None else definition.steps[place].undo
    if undo is None or place is None:
        return None
    backwards = 2 * len(definition.steps) - place
    seq = (backwards << _SEQ_BITS) + (1 << _SEQ_BITS) - 1 - index
    return Planned(
        undo, undo_id(name, index), definition.group_of[name], seq, index, undoes=operation_id(name, index)
    )


def pending_undos(definition: Definition, rows: Iterable[StepRow]) -> Iterator[Planned]:
    """Return the undos that are still to be done, the last step's first.

    A step is undone when it has succeeded, or when nobody can tell that it hasn't; not when a person skipped its undo.
    """
    rows = list(rows)
    left_out = {(row.name, row.index) for row in rows if row.state == StepState.SKIPPED}
    effective = [
        row
        for row in rows
        if row.name in definition.places
        and took_effect(row)
        and (row.name + _UNDO, row.index) not in left_out
    ]
    effective.sort(key=lambda row: (definition.places[row.name], row.index), reverse=True)
    for row in effective:
        planned = undo_of(definition, row.name, row.index)
        if planned:
            yield planned


def took_effect(row: StepRow) -> bool:
    if row.borrowed:
        return False
    return row.state in (StepState.SUCCEEDED, StepState.UNDOING) or (
        row.state == StepState.FAILED and row.uncertain
    )
