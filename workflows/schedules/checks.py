"""Whether a schedule can work, and if not, which field a person must change and how."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from workflows.definition import definitions, find_definition
from workflows.schedules.cron import Cron, CronError, find_zone

if TYPE_CHECKING:
    from workflows.schedules.models import Schedule

Problems = dict[str, list[str]]


def problems(schedule: "Schedule") -> Problems:
    """Return what is wrong, by field; empty when nothing is."""
    found: Problems = defaultdict(list)
    try:
        find_zone(schedule.timezone)
    except CronError as error:
        found["timezone"].append(_sentence(str(error)))
    try:
        Cron(schedule.cron, "UTC")
    except CronError as error:
        found["cron"].append(_sentence(str(error)))
    definition = find_definition(schedule.workflow)
    if definition is None:
        found["workflow"].append(_unknown(schedule.workflow))
    else:
        found["input"] += input_problems(definition.input_model, schedule.input)
    return {field: messages for field, messages in found.items() if messages}


def input_problems(model: type[BaseModel], data: Any) -> list[str]:
    """Return what keeps `data` from being the input of a run, each with its field named."""
    if not isinstance(data, dict):
        return [f"It must be a JSON object with the fields of {model.__name__}: {_names(_fields(model))}."]
    if "\\u0000" in json.dumps(data):
        return ["It holds a NUL character, which no database stores."]
    found = _unknown_fields(model, data)
    try:
        model.model_validate(data)
    except ValidationError as error:
        found += by_field(error.errors(include_url=False, include_context=False, include_input=False))
    return found


def _unknown_fields(model: type[BaseModel], data: dict[str, Any]) -> list[str]:
    """Return the names that the model does not know. pydantic passes over them: a slip of the pen would not be noticed."""
    known = _fields(model)
    if model.model_config.get("extra"):  # it says itself what it thinks of them
        return []
    return [
        f"{name}: {model.__name__} has no such field, only {_names(known)}."
        for name in data
        if name not in known
    ]


def by_field(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return pydantic's errors as `field.path: message`, without the values."""
    return [f"{'.'.join(str(part) for part in error['loc'])}: {_sentence(error['msg'])}" for error in errors]


def _fields(model: type[BaseModel]) -> set[str]:
    aliases = set(model.model_json_schema().get("properties", {}))
    return aliases | set(model.model_fields)


def _unknown(name: str) -> str:
    known = [definition.name for definition in definitions()]
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"registered are {_names(known)}."
    return f"There is no workflow {name!r}; {hint}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", ")")) else text + "."
