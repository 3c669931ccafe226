"""What can go wrong in the engine, and what may be done about it.

WorkflowError
├── PermanentError            FAIL       a step says: never as is; compensate
│   └── CommandFailedError    FAIL       what the step waited for failed (a transaction reverted)
├── TransientError            RETRY      a step says: try again by its policy
├── FencedError               RECONCILE  another worker owns the row now; write nothing, stop
├── BadOutputError            PARK       a step returned what cannot be stored, or not what it declares
├── BadStateError             PARK       the state of a virtual object cannot be read, or cannot be stored
├── DefinitionError           FAIL       a workflow class contradicts itself; raised at import
├── UnknownWorkflowError      FAIL       no such workflow is registered
├── InvalidInputError         FAIL       the input does not fit the workflow's model
├── IdempotencyConflictError  FAIL       the key was used for another input
├── StepTimeoutError          -          a step took too long; retried as an error that nobody foresaw
├── RunEndedError             FAIL       the run has ended: nothing can be done to it any more
├── NotPossibleError          FAIL       the run is in another state than the one that was asked for needs
├── NotPermittedError         FAIL       this person may not do that
├── InvalidTokenError         FAIL       a completion token that we never gave away
├── ObjectParkedError         FAIL       the virtual object takes nothing new while its holder waits for a person
├── ReadOnlyError             FAIL       a shared handler of a virtual object changed its state
├── ObjectConflictError       FAIL       the virtual object is being written, or was written since
├── RunArchivedError          FAIL       the key was used for a run that is in an archive now
├── ArchiveError              FAIL       an archive file was altered or cut off, or does not fit this database
└── NotReplayableError        FAIL       the dead letter is not open
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar


class Disposition(Enum):
    """What a loop may do with an error; the loops look at nothing else."""

    RETRY = "retry"
    FAIL = "fail"
    PARK = "park"  # waits for a person
    RECONCILE = "reconcile"  # outcome unknown: look before acting


def disposition_of(error: Exception) -> Disposition | None:
    """Return what the error says may be done, or None when it says nothing.

    Other packages have errors of the same form, with a code and a disposition, and know nothing of this one.
    """
    said = getattr(error, "disposition", None)
    if not isinstance(said, Enum) or not isinstance(getattr(error, "code", None), str):
        return None
    return next((each for each in Disposition if each.value == said.value), None)


class WorkflowError(Exception):
    """An error of the engine, with a stable code and what it means for a retry."""

    code: str = "WORKFLOW_ERROR"
    remedy: ClassVar[str] = ""
    disposition: ClassVar[Disposition] = Disposition.FAIL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class PermanentError(WorkflowError):
    """Raised by a step: trying again cannot help. The run is compensated."""

    code = "STEP_FAILED"
    remedy = "Correct the cause named in the message and start a new run."

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CommandFailedError(PermanentError):
    """What a step waited for ended in failure."""


class TransientError(WorkflowError):
    """Raised by a step: it may succeed later. Its retry policy decides when."""

    code = "STEP_TRY_AGAIN"
    remedy = "Nothing, while attempts are left; afterwards replay the dead letter."
    disposition = Disposition.RETRY

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FencedError(WorkflowError):
    """Another worker has taken the row over. The caller must write nothing more."""

    code = "WORKFLOW_FENCED"
    remedy = "None needed: the newer owner carries on."
    disposition = Disposition.RECONCILE


class BadOutputError(WorkflowError):
    """A step returned something that cannot be stored or is not of its declared type."""

    code = "STEP_BAD_OUTPUT"
    remedy = "Correct the step's code, deploy, replay the dead letter."
    disposition = Disposition.PARK


class BadStateError(WorkflowError):
    """The state of a virtual object cannot be read as its model, or not be stored. The call that met it holds the object."""

    code = "OBJECT_BAD_STATE"
    remedy = "Let the model read what is stored, or edit the state; then replay the dead letter."
    disposition = Disposition.PARK


class DefinitionError(WorkflowError):
    """A workflow class contradicts itself."""

    code = "WORKFLOW_DEFINITION"
    remedy = "Correct the class; the message names the step."


class UnknownWorkflowError(WorkflowError):
    """No workflow of this name is registered in this process."""

    code = "WORKFLOW_UNKNOWN"
    remedy = "GET /api/v1/workflows lists the names."


class InvalidInputError(WorkflowError):
    """The input does not fit the workflow's input model; nothing was stored."""

    code = "WORKFLOW_INPUT_INVALID"
    remedy = "Correct the fields named in `errors`."

    def __init__(self, message: str, errors: Sequence[dict[str, Any]], field: str = "input") -> None:
        super().__init__(message)
        self.errors, self.field = list(errors), field


class IdempotencyConflictError(WorkflowError):
    """The idempotency key was used before, with another input."""

    code = "IDEMPOTENCY_KEY_REUSED"
    remedy = "Use a new key for a new request."

    def __init__(self, message: str, first_id: str) -> None:
        super().__init__(message)
        self.first_id = first_id


class RunArchivedError(IdempotencyConflictError):
    """The idempotency key was used before, for a run that has ended and was archived; nothing was started."""

    code = "RUN_ARCHIVED"
    remedy = "Do not start it again. To see that run: manage.py restore_archive."


class ArchiveError(WorkflowError):
    """An archive file was altered or cut off, or can't be put back here. Nothing was changed."""

    code = "ARCHIVE_REFUSED"
    remedy = "Take another copy of the file if this one was altered; the message names the line."

    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(f"{file}: line {line} {problem}")
        self.file, self.line, self.problem = file, line, problem


class StepTimeoutError(Exception):
    """A step took longer than its `timeout`. What it did until then is not known."""


class RunEndedError(WorkflowError):
    """The run has ended."""

    code = "RUN_ENDED"
    remedy = "Nothing can be done to it any more; fork it into a new run."


class NotPossibleError(WorkflowError):
    """What was asked for does not suit the run's state."""

    code = "RUN_NOT_IN_STATE"
    remedy = "Look at the run's state; somebody else may have acted."


class NotPermittedError(WorkflowError):
    """This person may not do that."""

    code = "NOT_PERMITTED"
    remedy = "Ask a member of the group that the message names."


class InvalidTokenError(WorkflowError):
    """A completion token that was never given away, or was changed on its way."""

    code = "COMPLETION_TOKEN_INVALID"
    remedy = "Hand back the token as the step gave it away."


class ObjectParkedError(WorkflowError):
    """A virtual object takes nothing new while the run that holds it waits for a person."""

    code = "OBJECT_PARKED"
    remedy = "Deal with the dead letter of the run that holds it."


class ReadOnlyError(WorkflowError):
    """A shared handler of a virtual object changed the state, which it may only read."""

    code = "OBJECT_READ_ONLY"
    remedy = "Make the handler exclusive, or let it change nothing."


class ObjectConflictError(WorkflowError):
    """The state of a virtual object was not edited: a call is at it, or has written it since it was looked at."""

    code = "OBJECT_CONFLICT"
    remedy = "Look at the state again; pause the key first when calls keep coming."


class NotReplayableError(WorkflowError):
    """The dead letter has been dealt with already."""

    code = "DEAD_LETTER_NOT_OPEN"
    remedy = "Look at the run: somebody else has acted."
