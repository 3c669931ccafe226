"""What a step may return in order to wait, and how other apps add their own.

A command is submitted in the database transaction that suspends the run: either both exist afterwards or neither.
The app that carries it out reports the end with `resolve_commands`, in the transaction in which it records that end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from django.core import signing
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

T = TypeVar("T")


@dataclass(frozen=True)
class Operation:
    """One occurrence of a step in a run, as the step's code may see it (parameter `operation`)."""

    run_id: UUID
    id: str
    attempt: int
    correlation_id: str
    index: int = 0  # which item of the list, for a step with `each`
    holder_id: UUID | None = None  # the run that waits: a branch's own, otherwise run_id

    @property
    def key(self) -> str:
        """The idempotency key for calls to the outside: the same at every attempt."""
        return f"{self.run_id}:{self.id}"

    @property
    def token(self) -> str:
        """What an outside system hands back with `complete_operation`, for a step that returns WaitForCompletion."""
        return signing.Signer(salt="workflows.completion").sign(self.key)


class CommandError(BaseModel):
    code: str
    message: str


class CommandResult(BaseModel):
    """The end of a command: a value, or an error."""

    value: JsonValue = None
    error: CommandError | None = None


_KINDS: dict[str, "type[Command]"] = {}


class Command(BaseModel):
    """Something to wait for. A step returns one, a list of them (all must end), or AnyOf them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    result_type: ClassVar[Any] = Any  # what the step's output becomes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in vars(cls):
            _KINDS[cls.kind] = cls

    def submit(self, operation: Operation, index: int) -> str:
        """Insert what is to be carried out and return its reference.

        Runs inside the engine's transaction: database writes only. `index` is its place in the list returned by the step.
        """
        raise NotImplementedError

    def due(self, at: datetime) -> datetime | None:
        """Return when it has taken too long, if it can; `at` is now. The wait then fails as `<KIND>_TIMEOUT`."""
        return None

    @classmethod
    def find_result(cls, reference: str) -> CommandResult | None:
        """Return how it ended, if it has already when it is submitted."""
        return None

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        """Call it off, because nobody waits any more; return whether it certainly will not happen from now on."""
        return False


def command_of(kind: str) -> type[Command]:
    return _KINDS.get(kind, Command)


class Sleep(Command):
    """Wait for a time or until an instant, holding no worker."""

    kind: ClassVar[str] = "sleep"
    result_type: ClassVar[Any] = type(None)
    seconds: float | None = Field(default=None, ge=0)
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Sleep":
        if (self.seconds is None) == (self.until is None):
            raise ValueError("give either seconds or until")
        return self

    def submit(self, operation: Operation, index: int) -> str:
        return ""  # the wait's own due instant is all there is

    def due(self, at: datetime) -> datetime | None:
        return self.until or at + timedelta(seconds=self.seconds or 0)

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        return True


class _Timed(Command):
    """A command that may take too long."""

    timeout: float | None = Field(default=None, gt=0)  # seconds

    def due(self, at: datetime) -> datetime | None:
        return None if self.timeout is None else at + timedelta(seconds=self.timeout)


class WaitForSignal(_Timed, Generic[T]):
    """Wait for a signal of this name to the run; the step's output is its payload.

    One that was sent before is taken at once, the oldest first. Annotate the step `-> WaitForSignal[Payment]`.
    """

    kind: ClassVar[str] = "signal"
    name: str = Field(max_length=100)

    def submit(self, operation: Operation, index: int) -> str:
        from workflows.engine.signals import wait_reference

        return wait_reference(operation, self.name)

    @classmethod
    def find_result(cls, reference: str) -> CommandResult | None:
        from workflows.engine.signals import take_stored

        return take_stored(reference)

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        return True


class WaitForCompletion(WaitForSignal[T], Generic[T]):
    """Wait until somebody outside calls `complete_operation` with the `operation.token` that the step gave away."""

    name: str = ""

    def submit(self, operation: Operation, index: int) -> str:
        from workflows.engine.signals import completion_name, wait_reference

        return wait_reference(operation, completion_name(operation.id))


class Approved(BaseModel):
    """Who allowed it."""

    by: list[str]


class ApprovalRequest(_Timed):
    """Wait until `needed` members of a group have approved. One rejection is the step's permanent failure."""

    kind: ClassVar[str] = "approval"
    result_type: ClassVar[Any] = Approved
    group: str = Field(min_length=1, max_length=100)
    needed: int = Field(default=1, ge=1, le=20)
    show: JsonValue = None  # what the approvers are to look at

    def submit(self, operation: Operation, index: int) -> str:
        from workflows.engine.approvals import open_approval

        return open_approval(self, operation)

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        from workflows.engine.approvals import withdraw_approval

        return withdraw_approval(reference)


class Child(Command, Generic[T]):
    """Wait for a run of another workflow: `return Payout.child(PayoutInput(...))`, or a list of them.

    The step's output is that run's; annotate the step `-> Child[Paid]`. A child that fails fails the step.
    """

    kind: ClassVar[str] = "run"
    workflow: str
    input: dict[str, JsonValue]
    priority: int | None = None

    def submit(self, operation: Operation, index: int) -> str:
        from workflows.engine.children import start_child

        return start_child(self, operation, index)

    @classmethod
    def withdraw(cls, reference: str) -> bool:
        from workflows.engine.children import cancel_child

        return cancel_child(reference)


class First(BaseModel, Generic[T]):
    """Which of several commands ended first, and how."""

    index: int
    value: T


@dataclass(frozen=True, init=False)
class AnyOf(Generic[T]):
    """Wait for the first of several commands to succeed; the others are called off. Output: First.

    It fails when all of them have failed. Annotate the step `-> AnyOf[WaitForSignal[Payment] | Sleep]`.
    """

    commands: tuple[Command, ...]

    def __init__(self, commands: Sequence[Command]) -> None:
        if not commands:
            raise ValueError("AnyOf needs at least one command")
        object.__setattr__(self, "commands", tuple(commands))
