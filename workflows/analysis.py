"""Making a Definition of a workflow class, and finding what is wrong with it."""

import inspect
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter

from workflows.commands import Operation
from workflows.definition import Definition, Workflow
from workflows.errors import DefinitionError
from workflows.fitting import fits, name_of, optional, output_type, waits
from workflows.problems import Problems
from workflows.steps import Selector, Step, StepDefinition, StepFailure, StepOptions, steps_marked

RESERVED = frozenset({"input", "operation", "failure", "item"})


def define(cls: type[Workflow[Any, Any]]) -> Definition:
    """Return what the class defines. Raises DefinitionError where it is no workflow at all."""
    meta = cls.Meta
    if not getattr(meta, "name", None):
        raise DefinitionError(f"{cls.__name__}: Meta.name is missing")
    input_model, output = _types_of(cls)
    queue = getattr(meta, "queue", Workflow.Meta.queue)
    analysis = _Analysis(cls, input_model, queue)
    with steps_marked() as marked:
        analysis.find_replaced(marked)
    steps = analysis.steps()
    if not steps:
        raise DefinitionError(f"{meta.name}: a workflow needs at least one step")
    key = getattr(meta, "key", None)
    analysis.check_key(key)
    analysis.check_undos(steps)
    options = ("deadline", "priority", "on_dead_letter", "retention_days")
    return Definition(
        meta.name,
        getattr(meta, "version", 1),
        queue,
        key,
        cls,
        tuple(steps),
        input_model,
        output,
        problems=tuple(analysis.problems),
        **{name: getattr(meta, name, getattr(Workflow.Meta, name)) for name in options},
    )


def _types_of(cls: type) -> tuple[type[BaseModel], Any]:
    for base in getattr(cls, "__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Workflow):
            input_model, output = get_args(base)
            if not (isinstance(input_model, type) and issubclass(input_model, BaseModel)):
                raise DefinitionError(f"{cls.__name__}: the input type must be a pydantic model")
            return input_model, output
    raise DefinitionError(f"{cls.__name__}: write class {cls.__name__}(Workflow[Input, Output])")


@dataclass
class _Analysis:
    """The reading of one class from top to bottom; `known` is what a step may take as a parameter."""

    cls: type
    input_model: type[BaseModel]
    queue: str
    problems: Problems = field(default_factory=Problems)
    known: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> list[StepDefinition]:
        self.known = {"input": self.input_model, "operation": Operation}
        siblings: dict[str, Any] = {}  # of the parallel group under way: known only after it
        found = []
        for name, marked in list(vars(self.cls).items()):
            if not isinstance(marked, Step):
                continue
            if name in RESERVED:
                self.problems.add(
                    "E007", f"{self._at(name)}: {name!r} is not a possible name", "Rename the step."
                )
            if not marked.options.parallel:
                self.known |= siblings
                siblings = {}
            output = self._output_of(marked)
            found.append(self._step(marked, siblings, output))
            if marked.options.parallel:
                siblings[name] = output
            else:
                self.known[name] = output
        return found

    def _step(self, marked: Step, siblings: dict[str, Any], output: Any) -> StepDefinition:
        options, name = marked.options, marked.name
        hints = self._hints(marked.body, name)
        self._check_options(marked, hints)
        each, item = self._each(marked)
        known = {**self.known, **({"item": item} if each else {})}
        verifier = undo = None
        if marked.verifier:
            verifier = self._definition(marked.verifier, StepOptions(retry=options.retry), known)
        if marked.undoing:
            own = self._definition_output(hints)
            body, undo_options = marked.undoing
            undo = self._definition(
                body,
                undo_options,
                {**known, name: own, "failure": StepFailure},
                queue=options.queue or self.queue,
            )
        return self._definition(
            marked.body,
            options,
            known,
            name=name,
            siblings=siblings,
            when=self._selector(name, options.when),
            each=each,
            item=TypeAdapter(item) if each else None,
            verifier=verifier,
            undo=undo,
        )

    def _definition(
        self,
        body: Callable[..., Any],
        options: StepOptions,
        known: dict[str, Any],
        *,
        name: str = "",
        queue: str = "",
        siblings: dict[str, Any] | None = None,
        **more: Any,
    ) -> StepDefinition:
        name = name or body.__name__
        hints = self._hints(body, name)
        parameters = tuple(inspect.signature(body).parameters)[1:]
        self._check_parameters(name, parameters, hints, known, siblings or {})
        output = self._definition_output(hints)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(output)
        except Exception as error:  # noqa: BLE001 - whatever pydantic says of the annotation is the problem
            self.problems.add(
                "E006",
                f"{self._at(name)}: {name_of(output)} cannot be stored: {error}",
                "Return a pydantic model, or JSON's own types.",
            )
            adapter = TypeAdapter(Any)
        return StepDefinition(
            name,
            body,
            options.effect,
            options.retry,
            queue or options.queue or self.queue,
            parameters,
            adapter,
            str(output),
            timeout=options.timeout,
            parallel=options.parallel,
            fail_fast=options.fail_fast,
            **more,
        )

    def _check_options(self, marked: Step, hints: dict[str, Any]) -> None:
        at, options = self._at(marked.name), marked.options
        if options.effect == "verify" and marked.verifier is None:
            self.problems.add(
                "E004",
                f"{at}: effect='verify' without a verifier",
                f"Write a method marked @{marked.name}.verify that looks whether it has happened.",
            )
        for body, effect in [(marked.body, options.effect)] + (
            [(marked.undoing[0], marked.undoing[1].effect)] if marked.undoing else []
        ):
            if effect == "transactional" and waits(self._hints(body, marked.name).get("return", Any)):
                self.problems.add(
                    "E005",
                    f"{self._at(body.__name__)}: a transactional step cannot wait",
                    "Write to the database in one step, and return the command in the next.",
                )
        if options.fail_fast and not (options.each or options.parallel):
            self.problems.add(
                "E012",
                f"{at}: fail_fast without siblings",
                "It is for steps with each= or parallel=True.",
            )

    def _check_parameters(
        self,
        name: str,
        parameters: tuple[str, ...],
        hints: dict[str, Any],
        known: dict[str, Any],
        siblings: dict[str, Any],
    ) -> None:
        for parameter in parameters:
            if parameter in siblings:
                self.problems.add(
                    "E009",
                    f"{self._at(name)}: {parameter!r} runs at the same time",
                    "Parallel steps can't take each other's outputs; move one behind the group.",
                )
            elif parameter not in known:
                self.problems.add(
                    "E001",
                    f"{self._at(name)}: no step named {parameter!r} before it",
                    f"A parameter is one of: {', '.join(known)}.",
                )
            elif not fits(known[parameter], hints.get(parameter, Any)):
                produced, declared = name_of(known[parameter]), name_of(hints[parameter])
                self.problems.add(
                    "E002",
                    f"{self._at(name)}: parameter {parameter!r} is {declared}, but takes {produced}",
                    f"Annotate it as {produced}, or let {parameter!r} return {declared}.",
                )

    def _output_of(self, marked: Step) -> Any:
        """Return what later steps receive for this one."""
        output = self._definition_output(self._hints(marked.body, marked.name))
        if marked.options.each:
            output = list[output]  # type: ignore[valid-type]
        return optional(output) if marked.options.when else output

    def _definition_output(self, hints: dict[str, Any]) -> Any:
        return output_type(hints.get("return", Any))

    def _each(self, marked: Step) -> tuple[Selector | None, Any]:
        """Return how the items are found, and their type as far as it is known."""
        each, at = marked.options.each, self._at(marked.name)
        if each is None:
            return None, Any
        if callable(each):
            selector = self._selector(marked.name, each)
            return selector, _item_of(self._hints(each, marked.name).get("return", Any))
        first, *path = each.split(".")
        produced = self.known.get(first)
        if first not in self.known:
            self.problems.add(
                "E010", f"{at}: each={each!r} names no earlier step", "Name a step, or input.field."
            )
        for name in path:
            fields = getattr(produced, "model_fields", None)
            if fields is not None and name not in fields:
                self.problems.add(
                    "E010", f"{at}: each={each!r}: there is no field {name!r}", "Correct the path."
                )
            produced = fields[name].annotation if fields and name in fields else Any
        return Selector(_follow(first, path), (first,)), _item_of(produced)

    def _selector(self, name: str, function: Any) -> Selector | None:
        if function is None:
            return None
        parameters = tuple(inspect.signature(function).parameters)
        self._check_parameters(name, parameters, {}, self.known, {})
        return Selector(function, parameters)

    def check_key(self, key: str | None) -> None:
        for _, expression, _, _ in string.Formatter().parse(key or ""):
            if expression is None:
                continue
            root, _, path = expression.partition(".")
            name = path.split(".")[0].split("[")[0]
            if root != "input" or name not in {*self.input_model.model_fields, *dir(self.input_model)}:
                self.problems.add(
                    "E011",
                    f"{self.cls.__name__}: Meta.key names {{{expression}}}, which is no field of the input",
                    "Write {input.field}.",
                )

    def check_undos(self, steps: list[StepDefinition]) -> None:
        """Where some steps are undone, one with an effect that isn't was probably forgotten."""
        if not any(s.undo for s in steps):
            return
        marked = {name: each for name, each in vars(self.cls).items() if isinstance(each, Step)}
        for s in steps[:-1]:
            returns = self._hints(s.body, s.name).get("return", Any)
            has_effect = s.effect != "idempotent" or waits(returns)
            if has_effect and s.undo is None and marked[s.name].options.undo:
                self.problems.add(
                    "W001",
                    f"{self._at(s.name)}: has an effect and no undo, in a workflow that undoes others",
                    f"Write @{s.name}.undo, or say @step(undo=False) where there is nothing to take back.",
                )

    def find_replaced(self, marked: list[Step]) -> None:
        """A second method of the same name silently replaces the first one in Python."""
        present = {id(each) for each in vars(self.cls).values()}
        own = f"{self.cls.__qualname__}."
        for each in marked:
            if each.body.__qualname__.startswith(own) and id(each) not in present:
                self.problems.add(
                    "E008", f"{self._at(each.name)}: two methods have this name", "Rename one of them."
                )

    def _hints(self, body: Callable[..., Any], name: str) -> dict[str, Any]:
        try:
            return get_type_hints(body, include_extras=True)
        except NameError as error:
            self.problems.add("E006", f"{self._at(name)}: {error}", "Import what the annotation names.")
            return {}

    def _at(self, name: str) -> str:
        return f"{self.cls.__name__}.{name}"


def _item_of(produced: Any) -> Any:
    """Return the type of a list's items."""
    arguments = get_args(produced)
    return arguments[0] if get_origin(produced) in (list, tuple, set, frozenset) and arguments else Any


def _follow(first: str, path: list[str]) -> Callable[..., Any]:
    def follow(**values: Any) -> Any:
        value = values[first]
        for name in path:
            value = getattr(value, name)
        return value

    return follow
