"""What runs and objects carry, in words where words do."""

import json
from collections.abc import Iterable
from typing import Any

from django.utils.html import format_html, format_html_join
from pydantic import TypeAdapter

from workflows.errors import NotPossibleError
from workflows.redaction import HIDDEN, MARK, restored
from workflows.schedules.cells import short_type


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
