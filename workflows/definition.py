"""What a workflow is: a class whose methods are its steps, in the order in which they are written.

    class Payout(Workflow[PayoutInput, Paid]):
        class Meta:
            name, version, queue = "payout", 1, "payments"

        @step(effect="transactional")
        def reserve(self, input: PayoutInput) -> Reservation: ...

        @reserve.undo
        def give_back(self, reserve: Reservation) -> None: ...

        @step(retry=Retry(attempts=8))
        def pay(self, input: PayoutInput, reserve: Reservation, operation: Operation) -> Paid: ...

A parameter is named for what it receives: `input`, an earlier step (its output), `operation`, or in an undo `failure`.
Every contradiction is a DefinitionError when the class is made, not when the run gets there.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import UnionType
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from pydantic import BaseModel, TypeAdapter

from workflows.commands import Command, CommandError, Operation
from workflows.errors import DefinitionError

Effect = Literal["transactional", "idempotent", "verify", "at_most_once"]
Body = Callable[..., Any]
In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out")
F = TypeVar("F", bound=Body)

RESERVED = frozenset({"input", "operation", "failure"})


class StepFailure(CommandError):  # noqa: N818 - what failed, not an exception
    """The failure that started the compensation (parameter `failure` of an undo)."""

    step: str


@dataclass(frozen=True)
class Retry:
    """When a step is tried again: `first` seconds, then `factor` times longer each time, at most `cap` seconds."""

    attempts: int = 5
    first: float = 1.0
    factor: float = 2.0
    cap: float = 60.0

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after the attempt of this number, counted from 1."""
        return min(self.cap, self.first * self.factor ** min(attempt - 1, 64))


# An exception that nobody foresaw is probably a bug: a few tries, then a person.
UNKNOWN_ERROR_ATTEMPTS_MAX = 3


@dataclass(frozen=True)
class StepDefinition:
    """A step, or the undo of one, as the engine sees it."""

    name: str
    body: Body
    effect: Effect
    retry: Retry
    queue: str
    parameters: tuple[str, ...]
    output: TypeAdapter[Any]
    output_text: str
    verifier: "StepDefinition | None" = None
    undo: "StepDefinition | None" = None


@dataclass(frozen=True)
class Definition:
    """A registered workflow."""

    name: str
    version: int
    queue: str
    key: str | None
    workflow: "type[Workflow[Any, Any]]"
    steps: tuple[StepDefinition, ...]
    input_model: type[BaseModel]
    output_type: Any

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the shape that live runs depend on: steps, their order, effects, types and queues."""
        shape = [
            (s.name, s.effect, s.queue, s.parameters, s.output_text, s.undo.name if s.undo else None)
            for s in self.steps
        ]
        return hashlib.sha256(json.dumps([self.name, self.version, shape]).encode()).hexdigest()

    @cached_property
    def positions(self) -> dict[str, int]:
        return {s.name: index for index, s in enumerate(self.steps)}

    def queues_from(self, position: int) -> list[str]:
        """Return the queue of each segment from a step on: neighbours on one queue are one segment."""
        queues: list[str] = []
        for s in self.steps[position:]:
            if not queues or queues[-1] != s.queue:
                queues.append(s.queue)
        return queues or [self.queue]

    def key_for(self, data: BaseModel) -> str:
        """Return the key of the virtual object that a run with this input needs for itself, or ''."""
        return self.key.format(input=data) if self.key else ""


@dataclass
class Step:
    """A method marked with @step. `verify` and `undo` attach methods to it."""

    body: Body
    effect: Effect
    retry: Retry
    queue: str | None
    name: str = ""
    verifier: Body | None = None
    undoing: "Step | None" = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self.body.__get__(instance, owner)

    def verify(self, body: F) -> F:
        """Mark the method that finds out whether the step's effect has already happened.

        It is called before every attempt but the first; it returns the step's output, or None when nothing happened.
        """
        self.verifier = body
        return body

    @overload
    def undo(self, body: F) -> F: ...

    @overload
    def undo(self, *, effect: Effect = "idempotent", retry: Retry | None = None) -> Callable[[F], F]: ...

    def undo(
        self, body: Body | None = None, *, effect: Effect = "idempotent", retry: Retry | None = None
    ) -> Any:
        """Mark the method that takes the step back after a permanent failure further on."""

        def mark(method: Body) -> Body:
            self.undoing = Step(method, effect, retry or Retry(), None, name=method.__name__)
            return method

        return mark(body) if body is not None else mark


@overload
def step(body: Body) -> Step: ...


@overload
def step(
    *, effect: Effect = "idempotent", retry: Retry | None = None, queue: str | None = None
) -> Callable[[Body], Step]: ...


def step(
    body: Body | None = None,
    *,
    effect: Effect = "idempotent",
    retry: Retry | None = None,
    queue: str | None = None,
) -> Any:
    """Make a method a step.

    effect: what happens when a worker dies between the outside call and its record.
        transactional  the body only writes to this database; its writes commit with the checkpoint: exactly once
        idempotent     called again, with the same `operation.key`
        verify         the verifier looks first; the body is called only when it finds nothing
        at_most_once   never called again; a person decides (dead letter `uncertain`)
    queue: where it runs; the workflow's own by default.
    """

    def mark(method: Body) -> Step:
        return Step(method, effect, retry or Retry(), queue)

    return mark(body) if body is not None else mark


_REGISTRY: dict[str, Definition] = {}


def definitions() -> list[Definition]:
    """Return every registered workflow, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def find_definition(name: str) -> Definition | None:
    return _REGISTRY.get(name)


class Workflow(Generic[In, Out]):
    """The base of every workflow. Subclassing registers it."""

    definition: ClassVar[Definition]

    class Meta:
        """name, version, queue, and optionally key: the virtual object that a run holds while it lives."""

        name: str
        version: int = 1
        queue: str = "workflows"
        key: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.definition = _define(cls)
        other = _REGISTRY.get(cls.definition.name)
        if other and other.workflow.__qualname__ != cls.__qualname__:
            raise DefinitionError(
                f"two workflows are named {cls.definition.name!r}: {other.workflow} and {cls}"
            )
        _REGISTRY[cls.definition.name] = cls.definition

    @classmethod
    def start(
        cls,
        input: In,
        *,
        idempotency_key: str | None = None,
        scope: str = "",
        correlation_id: str | None = None,
    ) -> Any:
        """Start a run, within the caller's transaction if there is one, and return it.

        The same idempotency key and input return the first run again; another input raises IdempotencyConflictError.
        """
        from workflows.engine.start import start_run  # models are loaded by now, not when this module is

        return start_run(
            cls.definition, input, idempotency_key=idempotency_key, scope=scope, correlation_id=correlation_id
        )[0]


def _define(cls: type[Workflow[Any, Any]]) -> Definition:
    meta = cls.Meta
    if not getattr(meta, "name", None):
        raise DefinitionError(f"{cls.__name__}: Meta.name is missing")
    input_model, output_type = _types_of(cls)
    queue = getattr(meta, "queue", Workflow.Meta.queue)
    steps = tuple(_define_steps(cls, input_model, queue))
    if not steps:
        raise DefinitionError(f"{meta.name}: a workflow needs at least one step")
    return Definition(
        meta.name,
        getattr(meta, "version", 1),
        queue,
        getattr(meta, "key", None),
        cls,
        steps,
        input_model,
        output_type,
    )


def _types_of(cls: type) -> tuple[type[BaseModel], Any]:
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is Workflow:
            input_model, output_type = get_args(base)
            if not (isinstance(input_model, type) and issubclass(input_model, BaseModel)):
                raise DefinitionError(f"{cls.__name__}: the input type must be a pydantic model")
            return input_model, output_type
    raise DefinitionError(f"{cls.__name__}: write class {cls.__name__}(Workflow[Input, Output])")


def _define_steps(cls: type, input_model: type, queue: str) -> Iterator[StepDefinition]:
    known: dict[str, Any] = {"input": input_model, "operation": Operation}
    for name, marked in list(vars(cls).items()):
        if not isinstance(marked, Step):
            continue
        if name in RESERVED:
            raise DefinitionError(f"{cls.__name__}.{name}: {name!r} is not a possible name of a step")
        output = output_type(_hints(cls, name, marked.body).get("return", Any))
        after = {**known, name: output}
        verifier = undo = None
        if marked.effect == "verify" and marked.verifier is None:
            raise DefinitionError(
                f"{cls.__name__}.{name}: effect='verify' needs a method marked @{name}.verify"
            )
        if marked.verifier:
            check = Step(
                marked.verifier, "idempotent", marked.retry, marked.queue, name=marked.verifier.__name__
            )
            verifier = _definition(cls, check, known, queue)
        if marked.undoing:
            undo = _definition(cls, marked.undoing, {**after, "failure": StepFailure}, marked.queue or queue)
        yield _definition(cls, marked, known, marked.queue or queue, verifier, undo)
        known = after


def _definition(
    cls: type,
    marked: Step,
    known: dict[str, Any],
    queue: str,
    verifier: StepDefinition | None = None,
    undo: StepDefinition | None = None,
) -> StepDefinition:
    hints = _hints(cls, marked.name, marked.body)
    parameters = tuple(inspect.signature(marked.body).parameters)[1:]
    for parameter in parameters:
        if parameter not in known:
            choices = ", ".join(known)
            raise DefinitionError(
                f"{cls.__name__}.{marked.name}: no step named {parameter!r} before it (known: {choices})"
            )
        _check_type(f"{cls.__name__}.{marked.name}", parameter, hints.get(parameter, Any), known[parameter])
    output = output_type(hints.get("return", Any))
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(output)
    except Exception as error:
        raise DefinitionError(f"{cls.__name__}.{marked.name}: {output} cannot be stored: {error}") from error
    return StepDefinition(
        marked.name,
        marked.body,
        marked.effect,
        marked.retry,
        marked.queue or queue,
        parameters,
        adapter,
        str(output),
        verifier,
        undo,
    )


def _hints(cls: type, name: str, body: Body) -> dict[str, Any]:
    try:
        return get_type_hints(body, include_extras=True)
    except NameError as error:
        raise DefinitionError(f"{cls.__name__}.{name}: {error}") from error


def _check_type(where: str, parameter: str, declared: Any, produced: Any) -> None:
    """Refuse a parameter whose class can't be that of the output it takes."""
    if isinstance(declared, type) and isinstance(produced, type) and not issubclass(produced, declared):
        raise DefinitionError(
            f"{where}: parameter {parameter!r} is {declared.__name__}, but takes {produced.__name__}"
        )


def output_type(annotation: Any) -> Any:
    """Return the type of a step's output: its annotation, with every command replaced by that command's result."""
    if isinstance(annotation, type) and issubclass(annotation, Command):
        return annotation.result_type
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or not arguments:
        return annotation
    replaced = tuple(output_type(a) for a in arguments)
    if replaced == arguments:
        return annotation
    if origin in (Union, UnionType):
        return Union[replaced]  # noqa: UP007 - built from values
    return origin[replaced]
