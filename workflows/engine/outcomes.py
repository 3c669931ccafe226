"""What may come out of one attempt at an operation."""

import json
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from workflows.commands import Command, CommandError
from workflows.errors import BadOutputError, BadStateError, Disposition, disposition_of
from workflows.models import Wait
from workflows.retry import UNKNOWN_ERROR_ATTEMPTS_MAX, Retry
from workflows.states import DeadLetterReason, Join
from workflows.steps import Effect, StepDefinition

MESSAGE_LENGTH_MAX = 2000


@dataclass(frozen=True)
class Stored:
    """A value as JSON; `large` when it is too big for the row of its step."""

    value: Any
    large: bool = False


@dataclass(frozen=True)
class Done:
    output: Stored


@dataclass(frozen=True)
class Skipped:
    """The step's condition said no."""


@dataclass(frozen=True)
class Suspended:
    """The operation has to wait for these commands."""

    commands: list[Command]
    join: Join


@dataclass(frozen=True)
class Submitted:
    """The commands exist, uncommitted; the operation waits for them."""

    waits: list[Wait]


@dataclass(frozen=True)
class FannedOut:
    """The branches exist; the operation waits for them."""

    branches: int


@dataclass(frozen=True)
class Joined:
    """All branches have succeeded."""


@dataclass(frozen=True)
class StillWaiting:
    """Woken too early: something is not done yet."""


@dataclass(frozen=True)
class CalledOff:
    """What it waited for was withdrawn, because somebody stopped the run."""


@dataclass(frozen=True)
class Halted:
    """Somebody stopped the run before the operation began: to pause it, to have another worker take it, or for good."""


@dataclass(frozen=True)
class TryLater:
    error: CommandError
    delay: float
    uncertain: bool = False


@dataclass(frozen=True)
class Failed:
    """A permanent failure: compensate."""

    error: CommandError


@dataclass(frozen=True)
class Parked:
    """Nothing but a person can help."""

    reason: DeadLetterReason
    error: CommandError
    uncertain: bool = False


Outcome = (
    Done
    | Skipped
    | Suspended
    | Submitted
    | FannedOut
    | Joined
    | StillWaiting
    | CalledOff
    | Halted
    | TryLater
    | Failed
    | Parked
)


def outcome_of_error(
    error: Exception, effect: Effect, retry: Retry, attempt: int, elapsed: float = 0.0
) -> Outcome:
    """Decide what an exception in an attempt means.

    attempt: counted from 1, since the last replay; elapsed: seconds since the first one began. An at_most_once step is
    tried again only when it says itself that nothing happened (TransientError): any other exception, a timeout for
    instance, leaves that open.
    """
    described = describe(error)
    disposition = disposition_of(error)
    # What waits for a person has done nothing; but an output that cannot be stored tells of something done.
    is_open = disposition in (None, Disposition.RECONCILE) or isinstance(error, BadOutputError)
    uncertain = is_open and effect != "transactional"
    if disposition is Disposition.FAIL or retry.stops_on(error):
        return Failed(described)
    if isinstance(error, BadOutputError):
        return Parked(DeadLetterReason.BAD_OUTPUT, described, uncertain)
    if isinstance(error, BadStateError):
        return Parked(DeadLetterReason.BAD_STATE, described)
    if uncertain and effect == "at_most_once":
        return Parked(DeadLetterReason.UNCERTAIN, described, uncertain)
    attempts = retry.attempts
    if disposition is None:
        attempts = min(attempts, UNKNOWN_ERROR_ATTEMPTS_MAX)
    delay = retry.delay(attempt)
    if attempt >= attempts or (retry.within is not None and elapsed + delay > retry.within):
        return Parked(DeadLetterReason.RETRIES_EXHAUSTED, described, uncertain)
    return TryLater(described, delay, uncertain)


def missing(text: str) -> Parked:
    """A run that this one waits for is not in the database any more: nobody would ever wake it."""
    return Parked(DeadLetterReason.RUN_MISSING, CommandError(code="RUN_MISSING", message=text))


def describe(error: Exception) -> CommandError:
    """Return an exception as a code and a text that any database can store, even if its own `str` fails."""
    said = getattr(error, "code", "") if disposition_of(error) else ""
    code = said or f"UNEXPECTED_{type(error).__name__.upper()}"
    try:
        message = str(error) or type(error).__name__
    except Exception:  # noqa: BLE001 - an exception whose text fails must still be recorded
        message = f"{type(error).__name__} (it cannot be shown as text)"
    return CommandError(code=code[:100], message=_storable(message)[:MESSAGE_LENGTH_MAX])


def _storable(text: str) -> str:
    return text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()


def to_json(step: StepDefinition, value: Any) -> Stored:
    """Return a step's output as JSON, or raise BadOutputError: not of its type, too big, or not storable everywhere."""
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
    if len(text) > settings.WORKFLOWS["output_bytes_max"]:
        raise BadOutputError(
            f"{step.name} returned {type(value).__name__} of {len(text):,} bytes, more than the "
            f"{settings.WORKFLOWS['output_bytes_max']:,} that are allowed: store it elsewhere and return its name"
        )
    return Stored(stored, large=len(text) > settings.WORKFLOWS["output_bytes_inline"])
