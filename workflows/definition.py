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

A parameter is named for what it receives: `input`, an earlier step (its output), `item`, `operation`, or in an undo
`failure`. Contradictions are found when the class is made; Django's system checks tell them, and no run is started.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel

from workflows.commands import Child
from workflows.errors import DefinitionError
from workflows.problems import Problem
from workflows.steps import StepDefinition

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out")

# What becomes of the key of a run that waits for a person: it keeps it, gives it to the next, or keeps it and lets
# nobody queue up behind it.
OnDeadLetter = Literal["hold", "release", "park"]


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
    deadline: float | None = None
    priority: int = 0
    on_dead_letter: OnDeadLetter = "hold"
    retention_days: int | None = None
    problems: tuple[Problem, ...] = ()

    @cached_property
    def shape(self) -> list[dict[str, Any]]:
        """What live runs depend on: the steps, their order, effects, types and queues."""
        return [
            {
                "name": s.name,
                "effect": s.effect,
                "queue": s.queue,
                "parameters": s.parameters,
                "output": s.output_text,
                "each": s.each is not None,
                "parallel": s.parallel,
                "undo": s.undo.name if s.undo else None,
            }
            for s in self.steps
        ]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the shape."""
        return hashlib.sha256(json.dumps([self.name, self.version, self.shape]).encode()).hexdigest()

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The places of the steps that are carried out together: parallel neighbours, otherwise one by one."""
        groups: list[tuple[int, ...]] = []
        for index, s in enumerate(self.steps):
            if s.parallel and groups and self.steps[groups[-1][0]].parallel:
                groups[-1] += (index,)
            else:
                groups.append((index,))
        return tuple(groups)

    @cached_property
    def places(self) -> dict[str, int]:
        return {s.name: index for index, s in enumerate(self.steps)}

    @cached_property
    def group_of(self) -> dict[str, int]:
        """The group of each step, by name."""
        return {self.steps[index].name: g for g, group in enumerate(self.groups) for index in group}

    def members(self, position: int) -> list[StepDefinition]:
        return [self.steps[index] for index in self.groups[position]]

    def branches_at(self, position: int) -> bool:
        """Tell whether this group is carried out by runs of its own."""
        members = self.members(position)
        return len(members) > 1 or members[0].each is not None

    def queues_from(self, position: int) -> list[str]:
        """Return the queue of each segment from a group on: neighbours on one queue are one segment."""
        queues: list[str] = []
        for group in self.groups[position:]:
            queue = self.steps[group[0]].queue
            if not queues or queues[-1] != queue:
                queues.append(queue)
        return queues or [self.queue]

    def key_for(self, data: BaseModel) -> str:
        """Return the key of the virtual object that a run with this input needs for itself, or ''."""
        return self.key.format(input=data) if self.key else ""

    def require_sound(self) -> None:
        """Raise DefinitionError when the class contradicts itself."""
        for problem in self.problems:
            if problem.is_error:
                raise DefinitionError(f"{problem.message} ({problem.hint})")


_REGISTRY: dict[str, Definition] = {}
_DUPLICATES: list[tuple[str, str, str]] = []


def definitions() -> list[Definition]:
    """Return every registered workflow, by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


def find_definition(name: str) -> Definition | None:
    return _REGISTRY.get(name)


def duplicates() -> list[tuple[str, str, str]]:
    """Return the names that two classes claim, with both."""
    return list(_DUPLICATES)


def register(definition: Definition) -> None:
    """Make a workflow known to this process. The same class again replaces itself; another of its name doesn't."""
    other = _REGISTRY.get(definition.name)
    mine = f"{definition.workflow.__module__}.{definition.workflow.__qualname__}"
    if other is not None:
        first = f"{other.workflow.__module__}.{other.workflow.__qualname__}"
        if first != mine:
            _DUPLICATES.append((definition.name, first, mine))
            return
    _REGISTRY[definition.name] = definition


class Workflow(Generic[In, Out]):
    """The base of every workflow. Subclassing registers it."""

    definition: ClassVar[Definition]

    class Meta:
        """What a workflow says of itself.

        key: of the virtual object that a run holds while it lives, as "account:{input.account}".
        deadline: seconds after which a run is given up and compensated. priority: 0 to 9, higher goes first.
        on_dead_letter: what becomes of the key meanwhile: "hold" it, "release" it, or "park": hold, and refuse new runs.
        retention_days: how long a finished run is kept in the database before it is archived; for ever by default.
        """

        name: str
        version: int = 1
        queue: str = "workflows"
        key: str | None = None
        deadline: float | None = None
        priority: int = 0
        on_dead_letter: OnDeadLetter = "hold"
        retention_days: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        from workflows.analysis import define

        super().__init_subclass__(**kwargs)
        if vars(cls).get("abstract"):
            return
        cls.definition = define(cls)
        register(cls.definition)

    @classmethod
    def start(
        cls,
        input: In,
        *,
        idempotency_key: str | None = None,
        scope: str = "",
        correlation_id: str | None = None,
        priority: int | None = None,
        deadline: float | None = None,
    ) -> Any:
        """Start a run, within the caller's transaction if there is one, and return it.

        The same idempotency key and input return the first run again; another input raises IdempotencyConflictError.
        priority and deadline (seconds from now) are the workflow's own by default.
        """
        from workflows.engine.start import start_run  # models are loaded by now, not when this module is

        return start_run(
            cls.definition,
            input,
            idempotency_key=idempotency_key,
            scope=scope,
            correlation_id=correlation_id,
            priority=priority,
            deadline=deadline,
        )[0]

    @classmethod
    def child(cls, input: In, *, priority: int | None = None) -> Child[Out]:
        """Return the command that starts a run of this workflow and waits for it, for a step to return."""
        name = cls.definition.name
        return Child[Any](workflow=name, input=input.model_dump(mode="json"), priority=priority)
