"""Which operation comes next, decided from the rows alone. Pure: no database, no clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from workflows.definition import Definition, StepDefinition
from workflows.states import StepState


class StepRow(Protocol):
    state: str
    half_done: bool


@dataclass(frozen=True)
class Planned:
    """An operation to carry out: a step forward, or the undo of one."""

    step: StepDefinition
    operation_id: str
    position: int
    undoes: str = ""  # the operation id that it takes back


def operation_id(step: StepDefinition, occurrence: int = 0) -> str:
    return f"{step.name}#{occurrence}"


def next_operation(definition: Definition, rows: Mapping[str, StepRow], compensating: bool) -> Planned | None:
    """Return what the run has to do next, or None when it has reached its end.

    Forward: the first step that has not succeeded. Compensating: the undo, not yet done, of the last step that has, or
    that failed after part of it had happened.
    """
    return _next_undo(definition, rows) if compensating else _next_step(definition, rows)


def _next_step(definition: Definition, rows: Mapping[str, StepRow]) -> Planned | None:
    for position, step in enumerate(definition.steps):
        row = rows.get(operation_id(step))
        if row is None or row.state != StepState.SUCCEEDED:
            return Planned(step, operation_id(step), position)
    return None


def _next_undo(definition: Definition, rows: Mapping[str, StepRow]) -> Planned | None:
    for position, step in reversed(list(enumerate(definition.steps))):
        done = rows.get(operation_id(step))
        if step.undo and done and _took_effect(done):
            return Planned(step.undo, f"{step.name}.undo#0", position, undoes=operation_id(step))
    return None


def _took_effect(row: StepRow) -> bool:
    return row.state in (StepState.SUCCEEDED, StepState.UNDOING) or (
        row.state == StepState.FAILED and row.half_done
    )
