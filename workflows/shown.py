"""What runs, steps and objects carry, as people may see it.

What no definition of this code describes is hidden as a whole: nobody could tell what in it is sensitive.
"""

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from workflows.definition import Definition, find_definition
from workflows.models import Run, Step
from workflows.objects import find_object
from workflows.redaction import HIDDEN, shown_input, shown_output
from workflows.retry import Retry
from workflows.steps import StepDefinition

UNDO = ".undo"


def step_definition(name: str, definition: Definition | None) -> StepDefinition | None:
    """Return the definition of a step, or of its undo, by the name that its row has."""
    place = definition.places.get(name.removesuffix(UNDO)) if definition else None
    if definition is None or place is None:
        return None
    step = definition.steps[place]
    return step.undo if name.endswith(UNDO) else step


def input_of(run: Run) -> Any:
    """Return what a run was started with; of a branch, its item."""
    definition = find_definition(run.workflow)
    if not run.branch:
        return shown_input(definition, run.input)
    step = step_definition(run.branch.partition("#")[0], definition)
    if "item" not in run.input:
        return None
    if step is None or step.item is None:
        return HIDDEN
    return shown_output(replace(step, output=step.item), run.input["item"])


def output_of(run: Run) -> Any:
    """Return what a run ended with: the output of its last step, or those of its last steps by their names."""
    definition = find_definition(run.workflow)
    if run.output is None:
        return None
    if definition is None:
        return HIDDEN
    if run.branch:
        step = step_definition(run.branch.partition("#")[0], definition)
        return shown_output(step, run.output)
    last = definition.members(len(definition.groups) - 1)
    if len(last) == 1:
        return _shown(last[0], run.output)
    by_name = run.output if isinstance(run.output, dict) else {}
    return {step.name: _shown(step, by_name.get(step.name)) for step in last}


def output_of_step(step: Step, definition: Definition | None) -> Any:
    """Return what a step, or an undo, has returned."""
    if step.output is None:
        return None
    return shown_output(step_definition(step.name, definition), step.output)


def state_of_object(key: str, state: Any) -> Any:
    """Return the state of a virtual object."""
    if state is None:
        return None
    definition = find_object(key.partition(":")[0])
    if definition is None:
        return HIDDEN
    model: TypeAdapter[Any] = TypeAdapter(definition.state_model)
    return shown_output(StepDefinition("", _nothing, "idempotent", Retry(), "", (), model, ""), state)


def _nothing() -> None:
    """A body that nobody calls."""


def _shown(step: StepDefinition, output: Any) -> Any:
    if step.each is not None and isinstance(output, list):
        return [shown_output(step, item) for item in output]
    return shown_output(step, output)
