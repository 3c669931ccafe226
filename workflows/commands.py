"""What a step may return in order to wait, and how other apps add their own.

A command is submitted in the database transaction that suspends the run: either both exist afterwards or neither.
The app that carries it out reports the end with `resolve_commands`, in the transaction in which it records that end.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator


@dataclass(frozen=True)
class Operation:
    """One occurrence of a step in a run, as the step's code may see it (parameter `operation`)."""

    run_id: UUID
    id: str
    attempt: int
    correlation_id: str

    @property
    def key(self) -> str:
        """The idempotency key for calls to the outside: the same at every attempt."""
        return f"{self.run_id}:{self.id}"


class CommandError(BaseModel):
    code: str
    message: str


class CommandResult(BaseModel):
    """The end of a command: a value, or an error."""

    value: JsonValue = None
    error: CommandError | None = None


class Command(BaseModel):
    """Something to wait for. A step returns one, or a list of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    result_type: ClassVar[Any] = Any  # what the step's output becomes

    def submit(self, operation: Operation, index: int) -> str:
        """Insert what is to be carried out and return its reference.

        Runs inside the engine's transaction: database writes only. `index` is its place in the list returned by the step.
        """
        raise NotImplementedError


class Sleep(Command):
    """Wait for a time or until an instant, holding no worker."""

    kind: ClassVar[str] = "sleep"
    result_type: ClassVar[Any] = type(None)
    seconds: float | None = Field(default=None, ge=0)
    until: datetime | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "Sleep":
        if (self.seconds is None) == (self.until is None):
            raise ValueError("give either seconds or until")
        return self

    def submit(self, operation: Operation, index: int) -> str:
        return ""  # the wait's own due instant is all there is
