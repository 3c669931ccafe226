"""The durable engine: runs, steps, waits, virtual objects, dead letters, history. Knows no blockchain."""

from typing import TYPE_CHECKING, Any

from workflows.commands import Command, CommandError, CommandResult, Operation, Sleep
from workflows.crashpoints import crashpoint
from workflows.definition import (
    Definition,
    Retry,
    StepDefinition,
    StepFailure,
    Workflow,
    definitions,
    find_definition,
    step,
)
from workflows.errors import (
    CommandFailedError,
    DefinitionError,
    Disposition,
    FencedError,
    IdempotencyConflictError,
    InvalidInputError,
    NotReplayableError,
    PermanentError,
    TransientError,
    UnknownWorkflowError,
    WorkflowError,
)
from workflows.ids import uuid7

if TYPE_CHECKING:
    from workflows.alerts import on_dead_letter
    from workflows.engine.replay import replay_dead_letter
    from workflows.engine.start import start_workflow
    from workflows.engine.wake import resolve_commands
    from workflows.history import HistoryFault, verify_history
    from workflows.leases import Claim, Leased, claim, db_now, guard, in_seconds, keep, release

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    "on_dead_letter": "workflows.alerts",
    "replay_dead_letter": "workflows.engine.replay",
    "start_workflow": "workflows.engine.start",
    "resolve_commands": "workflows.engine.wake",
    "HistoryFault": "workflows.history",
    "verify_history": "workflows.history",
    **dict.fromkeys(
        ("Claim", "Leased", "claim", "db_now", "guard", "in_seconds", "keep", "release"), "workflows.leases"
    ),
}

__all__ = [
    "Claim",
    "Command",
    "CommandError",
    "CommandFailedError",
    "CommandResult",
    "Definition",
    "DefinitionError",
    "Disposition",
    "FencedError",
    "HistoryFault",
    "IdempotencyConflictError",
    "InvalidInputError",
    "Leased",
    "NotReplayableError",
    "Operation",
    "PermanentError",
    "Retry",
    "Sleep",
    "StepDefinition",
    "StepFailure",
    "TransientError",
    "UnknownWorkflowError",
    "Workflow",
    "WorkflowError",
    "claim",
    "crashpoint",
    "db_now",
    "definitions",
    "find_definition",
    "guard",
    "in_seconds",
    "keep",
    "on_dead_letter",
    "release",
    "replay_dead_letter",
    "resolve_commands",
    "start_workflow",
    "step",
    "uuid7",
    "verify_history",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workflows' has no attribute {name!r}")
