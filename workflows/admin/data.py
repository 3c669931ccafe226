"""What runs and objects carry, as the pages show it: in words where words do, and nothing that is sensitive.

What no definition of this code describes is hidden as a whole: nobody could tell what in it is sensitive.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django.utils.html import format_html, format_html_join
from pydantic import TypeAdapter

from workflows.definition import Definition, find_definition
from workflows.errors import NotPossibleError
from workflows.models import Run, Step
from workflows.objects import find_object
from workflows.redaction import HIDDEN, MARK, restored, shown_input, shown_output
from workflows.retry import Retry
from workflows.schedules.cells import short_type
from workflows.steps import StepDefinition

UNDO = ".undo"


def as_words(value: Any) -> str:
    """Return a value as text: an object of plain values as `name value` lines, anything deeper as JSON; escaped."""
    if value is None or value in ("", {}, []):
        return "-"
    if _is_plain(value):
        return _word(value)
    if isinstance(value, dict) and all(_is_plain(each) for each in value.values()):
        rows = ((name, _word(each)) for name, each in value.items())
        return format_html_join("", '<div class="break-all"><b>{}</b> {}</div>', rows)
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return format_html(
        '<pre class="whitespace-pre-wrap break-all text-xs font-mono max-w-4xl">{}</pre>', text
    )


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


def whole(entered: Any, stored: Any) -> Any:
    """Return what was entered with what is hidden put back. Raises NotPossibleError where nobody knows what it was."""
    try:
        return restored(entered, stored)
    except ValueError as error:
        raise NotPossibleError(str(error)) from None


def describe_type(adapter: "TypeAdapter[Any]") -> str:
    """Return what a value of this type looks like, in a line; '' when nothing can be said."""
    try:
        schema = adapter.json_schema()
    except Exception:  # noqa: BLE001 - a type without a schema
        return ""
    return _describe(schema, schema.get("$defs", {}))


def fields_of(schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return name, type, and whether it is required or what stands for it, of each field of a model's JSON schema."""
    required = set(schema.get("required", []))
    return [
        (name, short_type(field), "required" if name in required else f"{_default(field)} when left out")
        for name, field in schema.get("properties", {}).items()
    ]


def listed_errors(errors: Iterable[dict[str, Any]]) -> list[str]:
    """Return pydantic's errors as `field: what is wrong`."""
    return [
        ": ".join(filter(None, (".".join(map(str, each.get("loc", ()))), str(each.get("msg", "")))))
        for each in errors
    ]


def _nothing() -> None:
    """A body that nobody calls."""


def _shown(step: StepDefinition, output: Any) -> Any:
    if step.each is not None and isinstance(output, list):
        return [shown_output(step, item) for item in output]
    return shown_output(step, output)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _default(field: dict[str, Any]) -> str:
    return HIDDEN if MARK in str(field) else json.dumps(field.get("default"), ensure_ascii=False)


def _describe(schema: dict[str, Any], models: dict[str, Any]) -> str:
    model = models.get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    if "properties" not in model:
        return short_type(schema) if schema else ""
    inner = ", ".join(f"{name}: {short_type(field)}" for name, field in model["properties"].items())
    return "{" + inner + "}"
