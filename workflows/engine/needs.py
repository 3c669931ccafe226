"""Who needs the output of a step. Pure: asks the definition alone."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from workflows.definition import Definition
from workflows.fitting import fits, name_of
from workflows.steps import StepDefinition


def needs_output(definition: Definition, step: StepDefinition, *, item: bool = False) -> str | None:
    """Return which later step can't do without the output of this one, and why, or None when all of them can.

    item: it is about one of the outputs of a step that is carried out for a list.
    """
    for later in definition.steps[definition.places[step.name] + 1 :]:
        for what, method in _methods(later):
            hint = get_type_hints(method.body, include_extras=True).get(step.name, Any)
            if step.name in method.parameters and not _takes_none(hint, as_item=item):
                return f"{what} takes its output as {name_of(hint)}"
        if later.each is not None and step.name in later.each.parameters:
            return f"{later.name} is carried out for each of it"
    return None


def _methods(step: StepDefinition) -> Iterator[tuple[str, StepDefinition]]:
    yield step.name, step
    if step.verifier:
        yield f"the verifier of {step.name}", step.verifier
    if step.undo:
        yield f"the undo of {step.name}", step.undo


def _takes_none(hint: Any, *, as_item: bool) -> bool:
    """Tell whether None may stand in place of the output, or among the outputs of a list."""
    if not as_item:
        return fits(NoneType, hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_takes_none(each, as_item=True) for each in get_args(hint) if each is not NoneType)
    items = get_args(hint)
    return not items or fits(NoneType, items[0])
