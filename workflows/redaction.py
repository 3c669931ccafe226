"""Keeping secrets in inputs and outputs away from people: they stand in the database, and on no page, log or trace.

    class PayoutInput(BaseModel):
        iban: Annotated[str, Sensitive]

Not pydantic's SecretStr: it stores asterisks, and the step would receive those.
"""

import json
from functools import lru_cache
from typing import Any

from pydantic import Field, TypeAdapter

from workflows.definition import Definition
from workflows.steps import StepDefinition

MARK = "x-sensitive"
HIDDEN = "•••"

Sensitive = Field(json_schema_extra={MARK: True})


def shown_input(definition: Definition | None, data: Any) -> Any:
    """Return a run's input as people may see it. All of it is hidden when nobody knows which workflow it is of."""
    return _unknown(data) if definition is None else _hide(data, _schema_of_input(definition))


def shown_output(step: StepDefinition | None, data: Any) -> Any:
    """Return a step's output as people may see it. All of it is hidden when nobody knows which step it is of."""
    return _unknown(data) if step is None else _hide(data, _schema_of_output(step))


def restored(entered: Any, stored: Any) -> Any:
    """Return what a person entered, with what stands there wherever it is still hidden.

    Raises ValueError where it is not clear what that was.
    """
    found = _restored(entered, stored)
    if HIDDEN in json.dumps(found, ensure_ascii=False):
        raise ValueError(f"{HIDDEN} stands where nothing was hidden before: enter the value itself")
    return found


def _restored(entered: Any, stored: Any) -> Any:
    if entered == HIDDEN:
        return stored
    if isinstance(entered, dict) and isinstance(stored, dict):
        return {name: _restored(value, stored.get(name, value)) for name, value in entered.items()}
    if isinstance(entered, list) and isinstance(stored, list) and len(entered) == len(stored):
        return [_restored(value, old) for value, old in zip(entered, stored, strict=True)]
    return entered


def _unknown(data: Any) -> Any:
    return None if data is None else HIDDEN


def stores_asterisks(model: Any) -> bool:
    """Tell whether the model has a SecretStr, whose value would be lost when it is stored."""
    return '"writeOnly": true' in str(_schema(model)).replace("'", '"').replace("True", "true")


@lru_cache(maxsize=256)
def _schema_of_input(definition: Definition) -> dict[str, Any]:
    return definition.input_model.model_json_schema()


def _schema_of_output(step: StepDefinition) -> dict[str, Any]:
    return _schema(step.output)


@lru_cache(maxsize=1024)
def _schema(type_: Any) -> dict[str, Any]:
    adapter = type_ if isinstance(type_, TypeAdapter) else TypeAdapter(type_)
    try:
        return adapter.json_schema()
    except Exception:  # noqa: BLE001 - a type without a schema has no marked fields either
        return {}


def _hide(data: Any, schema: dict[str, Any]) -> Any:
    return _Hider(schema.get("$defs", {})).hide(data, schema) if MARK in str(schema) else data


class _Hider:
    """A walk through data beside its JSON schema."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions

    def hide(self, data: Any, schema: Any) -> Any:
        if not isinstance(schema, dict) or data is None:
            return data
        if schema.get(MARK):
            return HIDDEN
        if "$ref" in schema:
            data = self.hide(data, self.definitions.get(schema["$ref"].rpartition("/")[2], {}))
        for word in ("anyOf", "oneOf", "allOf"):
            for each in schema.get(word, ()):  # hidden if any of them says so
                data = self.hide(data, each)
        if isinstance(data, dict):
            properties, others = schema.get("properties", {}), schema.get("additionalProperties")
            return {name: self.hide(value, properties.get(name, others)) for name, value in data.items()}
        if isinstance(data, list):
            places = schema.get("prefixItems", [])
            return [
                self.hide(value, places[index] if index < len(places) else schema.get("items"))
                for index, value in enumerate(data)
            ]
        return data
