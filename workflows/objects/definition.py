"""What a class of virtual objects is, as the engine sees it."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.conf import settings
from pydantic import BaseModel, TypeAdapter, ValidationError

from workflows.definition import Definition
from workflows.errors import BadStateError, InvalidInputError

if TYPE_CHECKING:
    from workflows.objects.handlers import Body
    from workflows.objects.virtual import VirtualObject


@dataclass(frozen=True)
class HandlerDefinition:
    """A handler: its arguments as a model, beside the object's key; and for an exclusive one its workflow."""

    full_name: str
    body: "Body"
    arguments: type[BaseModel]
    output: TypeAdapter[Any]
    workflow: Definition | None = None

    def read_arguments(self, key: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BaseModel:
        """Return the call's arguments, checked. Raises InvalidInputError with the parameters named."""
        from workflows.engine.start import read_input

        try:
            bound = inspect.signature(self.body).bind_partial(None, *args, **kwargs)
        except TypeError as error:
            problem = {"type": "call", "loc": (), "msg": str(error)}
            raise InvalidInputError(
                f"the call of {self.full_name} is not valid: {error}", [problem]
            ) from None
        given = dict(list(bound.arguments.items())[1:])
        return read_input(self.arguments, {"key": key, **given}, f"the call of {self.full_name}")


@dataclass(frozen=True)
class ObjectDefinition:
    """A registered class of virtual objects."""

    name: str
    cls: "type[VirtualObject[Any]]"
    state_model: type[BaseModel]
    handlers: dict[str, HandlerDefinition] = field(default_factory=dict)

    def full_key(self, key: str) -> str:
        """Return the key among those of all classes, as runs and limits name it."""
        return f"{self.name}:{key}"

    def load(self, key: str, stored: Any) -> BaseModel:
        """Return a stored state as the model; a new one where nothing is stored. Raises BadStateError."""
        try:
            return self.state_model() if stored is None else self.state_model.model_validate(stored)
        except ValidationError as error:
            raise BadStateError(
                f"the stored state of {self.full_key(key)} is no {self.state_model.__name__}: {_told(error)}; "
                "let the model read it, or edit the state, then replay"
            ) from None

    def dump(self, key: str, state: Any) -> Any:
        """Return a state as JSON that can be stored, and read again. Raises BadStateError."""
        what = f"the new state of {self.full_key(key)}"
        try:
            if not isinstance(state, self.state_model):
                raise TypeError(f"it is {type(state).__name__}, not {self.state_model.__name__}")
            stored = state.model_dump(mode="json", warnings="error")
            text = json.dumps(stored, allow_nan=False)
            self.state_model.model_validate(stored)
        except ValidationError as error:
            raise BadStateError(f"{what} is no {self.state_model.__name__}: {_told(error)}") from None
        except Exception as error:
            raise BadStateError(f"{what} cannot be stored: {error}") from error
        _require_storable(what, text)
        return stored


def _require_storable(what: str, text: str) -> None:
    if "\\u0000" in text:
        raise BadStateError(f"{what} has a NUL character, which no database stores")
    allowed = settings.WORKFLOWS["state_bytes_max"]
    if len(text) > allowed:
        raise BadStateError(
            f"{what} has {len(text):,} bytes, more than the {allowed:,} that are allowed: "
            "keep what grows in tables of your own"
        )


def _told(error: ValidationError) -> str:
    """Return what is wrong, field by field, without the values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in problems[:5])


_OBJECTS: dict[str, ObjectDefinition] = {}


def objects() -> list[ObjectDefinition]:
    """Return every registered class of virtual objects, by name."""
    return [_OBJECTS[name] for name in sorted(_OBJECTS)]


def find_object(name: str) -> ObjectDefinition | None:
    return _OBJECTS.get(name)


def register_object(definition: ObjectDefinition) -> None:
    """Make a class known to this process. Of two with one name the first stays, as with workflows."""
    other = _OBJECTS.get(definition.name)
    if other is None or _place(other) == _place(definition):
        _OBJECTS[definition.name] = definition


def _place(definition: ObjectDefinition) -> tuple[str, str]:
    return definition.cls.__module__, definition.cls.__qualname__
