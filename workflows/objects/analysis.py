"""Reading a class of virtual objects: its handlers become workflows of one step each, its mistakes system checks."""

import inspect
import re
import warnings
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from workflows.definition import Definition, Workflow, register
from workflows.errors import DefinitionError
from workflows.fitting import fits, name_of, output_type, waits
from workflows.objects.definition import HandlerDefinition, ObjectDefinition, register_object
from workflows.objects.handlers import Body, Exclusive, Handler, Shared, handlers_marked
from workflows.objects.virtual import VirtualObject
from workflows.problems import Problems
from workflows.steps import StepDefinition, StepFailure

NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")
KEY_LENGTH_MAX = 255
RESERVED = frozenset({"key", "state", "version", "operation", "definition", "abstract", "Meta"})
OPTIONS = ("version", "queue", "on_dead_letter", "deadline", "priority", "retention_days")


def define_object(cls: type[VirtualObject[Any]]) -> None:
    """Read the class and register it with its handlers. Raises DefinitionError where it is no virtual object at all."""
    name = getattr(cls.Meta, "name", None)
    if not name or not NAME.fullmatch(name):
        raise DefinitionError(
            f"{cls.__name__}: Meta.name is missing, or not of letters, digits, '_', '.' and '-'"
        )
    analysis = _Analysis(cls, name, _state_model_of(cls))
    analysis.check_state_model()
    with handlers_marked() as marked:
        analysis.find_replaced(marked)
    readings = [_Reading(analysis, each) for each in _handlers_of(cls)]
    if not any(isinstance(reading.marked, Exclusive) for reading in readings):
        raise DefinitionError(f"{cls.__name__}: a virtual object needs at least one @exclusive handler")
    handlers = {reading.marked.name: reading.definition() for reading in readings}
    cls.definition = ObjectDefinition(name, cls, analysis.state_model, handlers)
    for handler in handlers.values():
        if handler.workflow is not None:
            register(handler.workflow)
    register_object(cls.definition)


def _handlers_of(cls: type) -> list[Handler]:
    """Return the handlers of the class and of those that it inherits from, as Python finds them."""
    names = {name for base in cls.__mro__ for name in vars(base)}
    found = (inspect.getattr_static(cls, name) for name in sorted(names))
    return [each for each in found if isinstance(each, Handler)]


def _state_model_of(cls: type) -> type[BaseModel]:
    for base in cls.__mro__:
        for written in vars(base).get("__orig_bases__", ()):
            origin, arguments = get_origin(written), get_args(written)
            is_object = isinstance(origin, type) and issubclass(origin, VirtualObject)
            if is_object and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
                return arguments[0]
    raise DefinitionError(
        f"{cls.__name__}: write class {cls.__name__}(VirtualObject[State]), with a pydantic model"
    )


@dataclass
class _Analysis:
    """The reading of one class."""

    cls: type[VirtualObject[Any]]
    name: str
    state_model: type[BaseModel]
    problems: Problems = field(default_factory=Problems)

    def check_state_model(self) -> None:
        try:
            self.state_model()
        except ValidationError:
            self.problems.add(
                "E020",
                f"{self.cls.__name__}: {self.state_model.__name__} has fields without a default",
                "Give every field of the state a default: a new object begins with them.",
            )

    def find_replaced(self, marked: list[Handler]) -> None:
        """A second method of the same name silently replaces the first one in Python."""
        present = {id(each) for each in vars(self.cls).values()}
        for each in marked:
            if each.body.__qualname__ == f"{self.cls.__qualname__}.{each.name}" and id(each) not in present:
                self.problems.add(
                    "E008", f"{self._at(each.name)}: two methods have this name", "Rename one of them."
                )

    def option(self, name: str) -> Any:
        return getattr(self.cls.Meta, name, getattr(VirtualObject.Meta, name))

    def _at(self, name: str) -> str:
        return f"{self.cls.__name__}.{name}"


class _Reading:
    """The reading of one handler. What is wrong with one is wrong with its class: none of its calls is started."""

    def __init__(self, of: _Analysis, marked: Handler) -> None:
        self.of, self.marked = of, marked
        if marked.name in RESERVED:
            self._add("E021", f"{marked.name!r} is not a possible name", "Rename the handler.")
        returned = self._hints(marked.body).get("return", Any)
        self.returned, self.waits = output_type(returned), waits(returned)
        self.output = self._adapter(self.returned)
        self.arguments = self._arguments(marked.body)
        self.undo = self._undo(marked) if isinstance(marked, Exclusive) else None
        if isinstance(marked, Shared) and self.waits:
            self._add("E024", "a shared handler is answered at once; it cannot wait", "Make it @exclusive.")
        if isinstance(marked, Exclusive) and self.waits and self.undo is None and marked.needs_undo:
            self._add(
                "W020",
                "it waits, and what it has changed stays when what it waits for fails",
                f"Write @{marked.name}.undo, or say @exclusive(undo=False) where that is right.",
            )

    def definition(self) -> HandlerDefinition:
        marked, full_name = self.marked, f"{self.of.name}.{self.marked.name}"
        workflow = self._workflow(marked, full_name) if isinstance(marked, Exclusive) else None
        return HandlerDefinition(full_name, marked.body, self.arguments, self.output, workflow)

    def _arguments(self, body: Body) -> type[BaseModel]:
        """Return the model of a call: the object's key, and a field for each parameter."""
        hints = self._hints(body)
        longest = KEY_LENGTH_MAX - len(self.of.name) - 1
        fields: dict[str, Any] = {"key": (Annotated[str, Field(min_length=1, max_length=longest)], ...)}
        for parameter in list(inspect.signature(body).parameters.values())[1:]:
            if (
                parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                or parameter.name in fields
            ):
                self._add(
                    "E022",
                    f"parameter {parameter.name!r} cannot be stored with a call",
                    "Name each argument, none of them 'key', and none by * or **.",
                )
                continue
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
        return self._model(fields)

    def _model(self, fields: dict[str, Any]) -> type[BaseModel]:
        name = f"{self.of.cls.__name__}_{self.marked.name}"
        config = ConfigDict(extra="forbid", frozen=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a field that shadows one of pydantic's own names
                return create_model(name, __config__=config, **fields)
        except Exception as error:  # noqa: BLE001 - whatever pydantic says of the parameters is the problem
            self._add(
                "E022",
                f"its parameters cannot be stored: {error}",
                "Use pydantic models, or JSON's own types.",
            )
            return create_model(name, key=(str, ...))

    def _workflow(self, marked: Exclusive[Any, Any], full_name: str) -> Definition:
        """Return the workflow of one step that an exclusive handler is."""
        meta = {name: self.of.option(name) for name in OPTIONS}
        step = StepDefinition(
            marked.name,
            self._step_body(marked.body),
            "transactional",
            marked.retry,
            meta["queue"],
            ("input", "operation"),
            self.output,
            str(self.returned),
            timeout=marked.timeout,
            undo=self.undo,
        )
        return Definition(
            name=full_name,
            key=f"{self.of.name}:{{input.key}}",
            workflow=self._carrier(),
            steps=(step,),
            input_model=self.arguments,
            output_type=self.returned,
            problems=tuple(self.of.problems),
            **meta,
        )

    def _undo(self, marked: Exclusive[Any, Any]) -> StepDefinition | None:
        if marked.undoing is None:
            return None
        body, retry = marked.undoing
        self._check_undo(marked.body, body)
        called, queue, parameters = (
            self._step_body(body),
            self.of.option("queue"),
            ("input", "operation", "failure"),
        )
        return StepDefinition(
            body.__name__, called, "transactional", retry, queue, parameters, TypeAdapter(Any), "Any"
        )

    def _check_undo(self, body: Body, undo: Body) -> None:
        given, taken = self._hints(body), self._hints(undo)
        known = {name: given.get(name, Any) for name in list(inspect.signature(body).parameters)[1:]}
        known["failure"] = StepFailure
        for name in list(inspect.signature(undo).parameters)[1:]:
            if name not in known:
                self._add(
                    "E023",
                    f"{undo.__name__} takes {name!r}, which is no parameter of it",
                    f"A parameter of the undo is one of: {', '.join(known)}.",
                )
            elif not fits(known[name], taken.get(name, Any)):
                self._add(
                    "E023",
                    f"{undo.__name__} takes {name!r} as {name_of(taken[name])}, but gets {name_of(known[name])}",
                    f"Annotate it as {name_of(known[name])}.",
                )

    def _step_body(self, body: Body) -> Body:
        """Return what the engine calls as the step: the method, on the object's state."""
        cls, names = self.of.cls, set(list(inspect.signature(body).parameters)[1:])

        def carry_out(workflow: object, **given: Any) -> Any:
            from workflows.engine.objects import call_exclusive

            data: BaseModel = given["input"]
            arguments = {name: getattr(data, name) for name in type(data).model_fields if name in names}
            if "failure" in names:
                arguments["failure"] = given["failure"]
            return call_exclusive(cls.definition, body, data.key, arguments, given["operation"])  # type: ignore[attr-defined]

        return carry_out

    def _carrier(self) -> type[Workflow[Any, Any]]:
        """Return what the engine makes an instance of; it bears the handler's name and description."""
        cls, name = self.of.cls, self.marked.name
        names = {
            "abstract": True,
            "__module__": cls.__module__,
            "__qualname__": f"{cls.__qualname__}.{name}",
            "__doc__": self.marked.__doc__,
        }
        return type(f"{cls.__name__}.{name}", (Workflow,), names)

    def _adapter(self, output: Any) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(output)
        except Exception as error:  # noqa: BLE001 - whatever pydantic says of the annotation is the problem
            self._add(
                "E006",
                f"{name_of(output)} cannot be stored: {error}",
                "Return a pydantic model, or JSON's own types.",
            )
            return TypeAdapter(Any)

    def _hints(self, body: Body) -> dict[str, Any]:
        try:
            return get_type_hints(body, include_extras=True)
        except NameError as error:
            self._add("E006", str(error), "Import what the annotation names.")
            return {}

    def _add(self, id: str, message: str, hint: str) -> None:
        self.of.problems.add(id, f"{self.of.cls.__name__}.{self.marked.name}: {message}", hint)
