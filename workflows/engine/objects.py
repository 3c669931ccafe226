"""Calling the handlers of virtual objects.

An exclusive one is the step of a run that holds the object's key. It is called inside the transaction of the step's
checkpoint, and what it has made of the state is written there, if the run still holds the key and nobody has written
meanwhile: the effect of a call and its result exist together or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from pydantic import ValidationError

from workflows.commands import Operation
from workflows.crashpoints import crashpoint
from workflows.errors import BadOutputError, FencedError, ReadOnlyError
from workflows.leases import fence_is_off
from workflows.models import VirtualObjectState
from workflows.statements import columns, fetch_rows

if TYPE_CHECKING:
    from workflows.objects import ObjectDefinition, VirtualObject

log = structlog.get_logger()

crashpoint.register("engine.object_called", "an object's handler has run, its state is not written")


@dataclass(frozen=True)
class Written:
    """What a handler has made of its object, to be written with the checkpoint; and what it returned."""

    key: str
    version: int  # of the state that it was given
    state: Any
    returned: Any


def call_exclusive(
    definition: "ObjectDefinition",
    body: Callable[..., Any],
    key: str,
    arguments: Mapping[str, Any],
    operation: Operation,
) -> Written:
    """Call an exclusive handler on the object's state. Nothing is locked while it runs, and nothing written.

    Raises FencedError when the run does not hold the key (any more), BadStateError.
    """
    row = _find_held(definition.full_key(key), operation)
    target = definition.cls(key)
    target._open(definition.load(key, row.state), row.version, operation)
    returned = body(target, **arguments)
    crashpoint("engine.object_called")
    return Written(row.key, row.version, definition.dump(key, target.state), returned)


def _find_held(key: str, operation: Operation) -> VirtualObjectState:
    holder = operation.holder_id or operation.run_id
    found = _read(key)
    if found is None or (found.holder_id != holder and not fence_is_off()):
        log.warning("fenced", row=key, model="workflows.VirtualObjectState", run=str(holder))
        raise FencedError(f"run {holder} does not hold {key} any more")
    return found


def read_object(
    target: "VirtualObject[Any]", name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a shared handler on the state as it was last committed, and return what it says.

    Raises InvalidInputError, BadStateError, BadOutputError, and ReadOnlyError when it changed the state.
    """
    definition = target.definition
    handler = definition.handlers[name]
    data = handler.read_arguments(target.key, args, kwargs)
    row = _read(definition.full_key(target.key))
    state = definition.load(target.key, row.state if row else None)
    before = state.model_dump()
    opened = definition.cls(target.key)
    opened._open(state, row.version if row else 0, None)
    given = {each: getattr(data, each) for each in type(data).model_fields if each != "key"}
    returned = handler.body(opened, **given)
    if opened.state is not state or state.model_dump() != before:
        raise ReadOnlyError(f"{handler.full_name} is a shared handler, and changed the state of {target!r}")
    try:
        return handler.output.validate_python(returned)
    except ValidationError as error:
        raise BadOutputError(f"{handler.full_name} returned {type(returned).__name__}: {error}") from None


def _read(key: str) -> VirtualObjectState | None:
    sql = f"SELECT {columns(VirtualObjectState)} FROM workflows_virtualobjectstate WHERE key = %s"  # noqa: S608
    return next(iter(fetch_rows(VirtualObjectState, sql, [key])), None)
