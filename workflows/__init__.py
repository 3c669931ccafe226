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
    ArchiveError,
    BadStateError,
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
    ObjectConflictError,
    ObjectParkedError,
    PermanentError,
    ReadOnlyError,
    RunArchivedError,
    RunEndedError,
    StepTimeoutError,
    TransientError,
    UnknownWorkflowError,
    WorkflowError,
)
from workflows.ids import uuid7
from workflows.objects import ObjectCall, VirtualObject, exclusive, shared
from workflows.retry import Retry
from workflows.steps import StepDefinition, StepFailure, step

if TYPE_CHECKING:
    from workflows.alerts import on_blocked_key, on_dead_letter
    from workflows.clock import db_now, in_seconds
    from workflows.engine.approvals import vote
    from workflows.engine.bulk import count_items, start_bulk, stop_bulk
    from workflows.engine.control import cancel_run, compensate_run, kill_run, pause_run, resume_run
    from workflows.engine.decisions import (
        compensate_dead_letter,
        complete_dead_letter,
        discard_dead_letter,
        kill_dead_letter,
        skip_dead_letter,
    )
    from workflows.engine.fork import fork_run
    from workflows.engine.letters import LetterGroup, grouped_letters
    from workflows.engine.object_control import describe_object, edit_state, skip_head
    from workflows.engine.pauses import pause_scope, resume_scope, set_limit
    from workflows.engine.replay import replay_dead_letter
    from workflows.engine.signals import complete_operation, send_signal
    from workflows.engine.start import start_workflow
    from workflows.engine.wake import resolve_commands
    from workflows.history import HistoryFault, verify_history
    from workflows.history.auditing import ArchiveFault, SealFault, verify_archives, verify_seals
    from workflows.history.checking import verify_archive
    from workflows.history.proofs import verify_proof
    from workflows.history.restoring import restore_archive
    from workflows.history.retention import set_legal_hold
    from workflows.history.seals import on_seal, proof_of
    from workflows.leases import Claim, Leased, claim, guard, keep, release

# These need Django's models, which are not loaded yet when this package is first imported.
_LAZY = {
    "complete_operation": "workflows.engine.signals",
    **dict.fromkeys(("on_blocked_key", "on_dead_letter"), "workflows.alerts"),
    **dict.fromkeys(("describe_object", "edit_state", "skip_head"), "workflows.engine.object_control"),
    **dict.fromkeys(("pause_scope", "resume_scope", "set_limit"), "workflows.engine.pauses"),
    **dict.fromkeys(("count_items", "start_bulk", "stop_bulk"), "workflows.engine.bulk"),
    **dict.fromkeys(
        (
            "compensate_dead_letter",
            "complete_dead_letter",
            "discard_dead_letter",
            "kill_dead_letter",
            "skip_dead_letter",
        ),
        "workflows.engine.decisions",
    ),
    "fork_run": "workflows.engine.fork",
    **dict.fromkeys(("LetterGroup", "grouped_letters"), "workflows.engine.letters"),
    "replay_dead_letter": "workflows.engine.replay",
    "resolve_commands": "workflows.engine.wake",
    "send_signal": "workflows.engine.signals",
    "start_workflow": "workflows.engine.start",
    "vote": "workflows.engine.approvals",
    **dict.fromkeys(("HistoryFault", "verify_history"), "workflows.history"),
    **dict.fromkeys(
        ("ArchiveFault", "SealFault", "verify_archives", "verify_seals"), "workflows.history.auditing"
    ),
    **dict.fromkeys(("on_seal", "proof_of"), "workflows.history.seals"),
    "restore_archive": "workflows.history.restoring",
    "set_legal_hold": "workflows.history.retention",
    "verify_archive": "workflows.history.checking",
    "verify_proof": "workflows.history.proofs",
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
    "ArchiveError",
    "ArchiveFault",
    "BadStateError",
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
    "LetterGroup",
    "NotPermittedError",
    "NotPossibleError",
    "NotReplayableError",
    "ObjectCall",
    "ObjectConflictError",
    "ObjectParkedError",
    "Operation",
    "PermanentError",
    "ReadOnlyError",
    "Retry",
    "RunArchivedError",
    "RunEndedError",
    "SealFault",
    "Sleep",
    "StepDefinition",
    "StepFailure",
    "StepTimeoutError",
    "TransientError",
    "UnknownWorkflowError",
    "VirtualObject",
    "WaitForCompletion",
    "WaitForSignal",
    "Workflow",
    "WorkflowError",
    "cancel_run",
    "claim",
    "compensate_dead_letter",
    "compensate_run",
    "complete_dead_letter",
    "complete_operation",
    "count_items",
    "crashpoint",
    "db_now",
    "definitions",
    "describe_object",
    "discard_dead_letter",
    "edit_state",
    "exclusive",
    "find_definition",
    "fork_run",
    "grouped_letters",
    "guard",
    "in_seconds",
    "keep",
    "kill_dead_letter",
    "kill_run",
    "on_blocked_key",
    "on_dead_letter",
    "on_seal",
    "pause_run",
    "pause_scope",
    "proof_of",
    "release",
    "replay_dead_letter",
    "resolve_commands",
    "restore_archive",
    "resume_run",
    "resume_scope",
    "send_signal",
    "set_legal_hold",
    "set_limit",
    "shared",
    "skip_dead_letter",
    "skip_head",
    "start_bulk",
    "start_workflow",
    "step",
    "stop_bulk",
    "uuid7",
    "verify_archive",
    "verify_archives",
    "verify_history",
    "verify_proof",
    "verify_seals",
    "vote",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workflows' has no attribute {name!r}")
