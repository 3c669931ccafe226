"""What may come out of one attempt at an operation."""

import json
from dataclasses import dataclass
from typing import Any

from workflows.commands import Command, CommandError
from workflows.definition import UNKNOWN_ERROR_ATTEMPTS_MAX, Effect, Retry, StepDefinition
from workflows.errors import BadOutputError, Disposition, WorkflowError
from workflows.models import Wait
from workflows.states import DeadLetterReason

MESSAGE_LENGTH_MAX = 2000


@dataclass(frozen=True)
class Done:
    value: Any  # as JSON


@dataclass(frozen=True)
class Suspended:
    """The operation has to wait for these commands."""

    commands: list[Command]
    alone: bool


@dataclass(frozen=True)
class Submitted:
    """The commands exist, uncommitted; the operation waits for them."""

    waits: list[Wait]


@dataclass(frozen=True)
class StillWaiting:
    """Woken too early: some command is not done yet."""


@dataclass(frozen=True)
class TryLater:
    error: CommandError
    delay: float


@dataclass(frozen=True)
class Failed:
    """A permanent failure: compensate."""

    error: CommandError


@dataclass(frozen=True)
class Parked:
    """Nothing but a person can help."""

    reason: DeadLetterReason
    error: CommandError


Outcome = Done | Suspended | Submitted | StillWaiting | TryLater | Failed | Parked


def outcome_of_error(error: Exception, effect: Effect, retry: Retry, attempt: int) -> Outcome:
    """Decide what an exception in an attempt means. `attempt` counts from 1, since the last replay.

    An at_most_once step is tried again only when it says itself that nothing happened (TransientError): any other
    exception, a timeout for instance, leaves that open.
    """
    described = describe(error)
    disposition = error.disposition if isinstance(error, WorkflowError) else None
    if disposition is Disposition.FAIL:
        return Failed(described)
    if isinstance(error, BadOutputError):
        return Parked(DeadLetterReason.BAD_OUTPUT, described)
    if disposition is None and effect == "at_most_once":
        return Parked(DeadLetterReason.UNCERTAIN, described)
    attempts = retry.attempts
    if disposition is None:
        attempts = min(attempts, UNKNOWN_ERROR_ATTEMPTS_MAX)
    if attempt >= attempts:
        return Parked(DeadLetterReason.RETRIES_EXHAUSTED, described)
    return TryLater(described, retry.delay(attempt))


def describe(error: Exception) -> CommandError:
    """Return an exception as a code and a text that any database can store, even if its own `str` fails."""
    code = error.code if isinstance(error, WorkflowError) else f"UNEXPECTED_{type(error).__name__.upper()}"
    try:
        message = str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an exception whose text fails must still be recorded
        message = f"{type(error).__name__} (it cannot be shown as text)"
    return CommandError(code=code[:100], message=_storable(message)[:MESSAGE_LENGTH_MAX])


def _storable(text: str) -> str:
    return text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()


def to_json(step: StepDefinition, value: Any) -> Any:
    """Return a step's output as JSON, or raise BadOutputError: not of its type, or not storable in every database."""
    try:
        checked = step.output.validate_python(value)
        stored = step.output.dump_python(checked, mode="json", warnings="error")
        text = json.dumps(stored, allow_nan=False)
    except Exception as error:
        raise BadOutputError(
            f"{step.name} returned {type(value).__name__}: {describe(error).message}"
        ) from error
    if "\\u0000" in text:
        raise BadOutputError(f"{step.name} returned text with a NUL character, which no database stores")
    return stored
