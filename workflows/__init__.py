"""The durable engine: runs, steps, waits, virtual objects, dead letters, history. Knows no blockchain."""

from typing import TYPE_CHECKING, Any

from workflows.commands import (
    AnyOf,
    ApprovalRequest,
    Approved,
    Child,
    Command,
    CommandError,
    CommandResult,
    First,
    Operation,
    Sleep,
    WaitForCompletion,
    WaitForSignal,
)
from workflows.crashpoints import crashpoint
from workflows.definition import Definition, Workflow, definitions, find_definition
from workflows.errors import (
    CommandFailedError,
    DefinitionError,
    Disposition,
    FencedError,
    IdempotencyConflictError,
    InvalidInputError,
    InvalidTokenError,
    NotPermittedError,
    NotPossibleError,
    NotReplayableError,
    ObjectParkedError,
    PermanentError,
    RunEndedError,
    StepTimeoutError,
    TransientError,
    UnknownWorkflowError,
    WorkflowError,
)
from workflows.ids import uuid7
from workflows.retry import Retry
from workflows.steps import StepDefinition, StepFailure, step

if TYPE_CHECKING:
    from workflows.alerts import on_dead_letter
    from workflows.clock import db_now, in_seconds
    from workflows.engine.approvals import vote
    from workflows.engine.control import cancel_run, compensate_run, kill_run, pause_run, resume_run
    from workflows.engine.replay import replay_dead_letter
    from workflows.engine.signals import complete_operation, send_signal
    from workflows.engine.start import start_workflow
    from workflows.engine.wake import resolve_commands
    from workflows.history import HistoryFault, verify_history
    from workflows.leases import Claim, Leased, claim, guard, keep, release

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    "complete_operation": "workflows.engine.signals",
    "on_dead_letter": "workflows.alerts",
    "replay_dead_letter": "workflows.engine.replay",
    "resolve_commands": "workflows.engine.wake",
    "send_signal": "workflows.engine.signals",
    "start_workflow": "workflows.engine.start",
    "vote": "workflows.engine.approvals",
    **dict.fromkeys(("HistoryFault", "verify_history"), "workflows.history"),
    **dict.fromkeys(("Claim", "Leased", "claim", "guard", "keep", "release"), "workflows.leases"),
    **dict.fromkeys(("db_now", "in_seconds"), "workflows.clock"),
    **dict.fromkeys(
        ("cancel_run", "compensate_run", "kill_run", "pause_run", "resume_run"), "workflows.engine.control"
    ),
}

__all__ = [
    "AnyOf",
    "ApprovalRequest",
    "Approved",
    "Child",
    "Claim",
    "Command",
    "CommandError",
    "CommandFailedError",
    "CommandResult",
    "Definition",
    "DefinitionError",
    "Disposition",
    "FencedError",
    "First",
    "HistoryFault",
    "IdempotencyConflictError",
    "InvalidInputError",
    "InvalidTokenError",
    "Leased",
    "NotPermittedError",
    "NotPossibleError",
    "NotReplayableError",
    "ObjectParkedError",
    "Operation",
    "PermanentError",
    "Retry",
    "RunEndedError",
    "Sleep",
    "StepDefinition",
    "StepFailure",
    "StepTimeoutError",
    "TransientError",
    "UnknownWorkflowError",
    "WaitForCompletion",
    "WaitForSignal",
    "Workflow",
    "WorkflowError",
    "cancel_run",
    "claim",
    "compensate_run",
    "complete_operation",
    "crashpoint",
    "db_now",
    "definitions",
    "find_definition",
    "guard",
    "in_seconds",
    "keep",
    "kill_run",
    "on_dead_letter",
    "pause_run",
    "release",
    "replay_dead_letter",
    "resolve_commands",
    "resume_run",
    "send_signal",
    "start_workflow",
    "step",
    "uuid7",
    "verify_history",
    "vote",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workflows' has no attribute {name!r}")
