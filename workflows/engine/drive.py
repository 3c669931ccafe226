"""Driving a run: claim it, carry out one operation after the other, stop when it waits, ends or has had its slice."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from pydantic import BaseModel

from workflows.commands import Command, CommandError, Sleep
from workflows.crashpoints import crashpoint
from workflows.definition import Definition, StepDefinition, StepFailure, Workflow, find_definition
from workflows.engine.outcomes import (
    Done,
    Outcome,
    StillWaiting,
    Submitted,
    Suspended,
    outcome_of_error,
    to_json,
)
from workflows.engine.session import Session, claim_run
from workflows.errors import CommandFailedError, FencedError
from workflows.leases import keep
from workflows.models import Wait
from workflows.states import DeadLetterReason, StepState, WaitState

log = structlog.get_logger()

crashpoint.register("engine.before_claim", "a worker has the message, and has not looked at the run")
crashpoint.register("engine.claimed", "the claim is committed, the step's code has not begun")
crashpoint.register("engine.recorded", "an outcome is committed, nobody was told")


def advance(run_id: Any) -> Session | None:
    """Carry the run as far as it goes now. None when there was nothing to claim: asleep, held by another, unknown.

    Errors of the database or the process leave the run claimed; the lease expires and the next claim goes on.
    """
    crashpoint("engine.before_claim")
    session = _open(run_id)
    if session is None:
        return None
    bound = {
        "run": str(session.run.pk),
        "workflow": session.run.workflow,
        "correlation_id": session.run.correlation_id,
    }
    with structlog.contextvars.bound_contextvars(**bound), keep(session.claim):
        crashpoint("engine.claimed")
        try:
            _drive(session)
        except FencedError:
            return None
    return session


def _drive(session: Session) -> None:
    deadline = time.monotonic() + settings.WORKFLOWS["slice_seconds"]
    steps_left = settings.WORKFLOWS["slice_steps"]
    while session.current:
        steps_left -= 1
        _carry_out(session, may_continue=steps_left > 0 and time.monotonic() < deadline)
        crashpoint("engine.recorded")


def _open(run_id: Any) -> Session | None:
    """Claim the run and count the attempt at its next operation, in one commit."""
    with transaction.atomic():
        held = claim_run(run_id)
        if held is None:
            return None
        definition = find_definition(held.row.workflow) or _missing(held.row.workflow)
        session = Session(held, definition)
        trouble = _trouble(session)
        if trouble:
            session.park(*trouble)
        elif not _resumes(session):
            session.begin()
    return session


def _missing(name: str) -> Definition:
    return Definition(name, 0, "", None, Workflow, (), BaseModel, None)


def _trouble(session: Session) -> tuple[DeadLetterReason, str, str] | None:
    """Return why this run must not be driven by this worker, if so."""
    run, definition = session.run, session.definition
    if _is_uncertain(session):
        text = (
            "the worker died in this step; nobody knows whether it happened, and it may happen at most once"
        )
        return DeadLetterReason.UNCERTAIN, "STEP_UNCERTAIN", text
    if not definition.steps:
        text = f"no workflow named {run.workflow!r} is known to this worker; deploy it, then replay"
        return DeadLetterReason.DEFINITION_CHANGED, "WORKFLOW_UNKNOWN", text
    if run.fingerprint != definition.fingerprint or session.current is None:
        text = f"the steps of {run.workflow} were changed while the run was under way; check it, then replay"
        return DeadLetterReason.DEFINITION_CHANGED, "WORKFLOW_CHANGED", text
    if run.recoveries > settings.WORKFLOWS["max_recoveries"]:
        text = f"{run.recoveries} workers in a row died while carrying it out"
        return DeadLetterReason.CRASH_LOOP, "STEP_KILLS_WORKERS", text
    return None


def _is_uncertain(session: Session) -> bool:
    """Tell whether a worker died in a step that may happen at most once."""
    if session.current is None or session.current.step.effect != "at_most_once":
        return False
    row = session.rows.get(session.current.operation_id)
    return row is not None and row.state == StepState.RUNNING


def _resumes(session: Session) -> bool:
    """Tell whether the current operation has been waiting for commands, rather than for its next attempt."""
    row = session.rows.get(session.planned.operation_id)
    return row is not None and row.state == StepState.WAITING and bool(session.waits())


def _carry_out(session: Session, *, may_continue: bool) -> None:
    step = session.planned.step
    if session.row.state == StepState.WAITING:
        session.record(_attempt(session, step, _collect), may_continue=may_continue)
    elif step.effect == "transactional":
        with transaction.atomic():  # the step's own writes and its checkpoint: both or neither
            outcome = _attempt_in_savepoint(session, step, lambda: _submitted(session, _call(session, step)))
            session.record(outcome, may_continue=may_continue)
    else:
        outcome = _attempt(session, step, _call)
        if isinstance(outcome, Suspended):
            _suspend(session, step, outcome, may_continue=may_continue)
        else:
            session.record(outcome, may_continue=may_continue)


def _suspend(session: Session, step: StepDefinition, returned: Suspended, *, may_continue: bool) -> None:
    with transaction.atomic():  # the commands and the wait for them: both or neither
        outcome = _attempt_in_savepoint(session, step, lambda: _submitted(session, returned))
        session.record(outcome, may_continue=may_continue)


def _attempt(
    session: Session, step: StepDefinition, work: Callable[[Session, StepDefinition], Outcome]
) -> Outcome:
    try:
        return work(session, step)
    except Exception as error:  # noqa: BLE001 - whatever a step raises is that step's outcome
        return _outcome_of_error(session, step, error)


def _attempt_in_savepoint(session: Session, step: StepDefinition, work: Callable[[], Outcome]) -> Outcome:
    try:
        with transaction.atomic():
            return work()
    except Exception as error:  # noqa: BLE001 - whatever a step raises is that step's outcome
        return _outcome_of_error(session, step, error)


def _submitted(session: Session, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Suspended):
        return Submitted(session.submit(outcome.commands, outcome.alone))
    return outcome


def _outcome_of_error(session: Session, step: StepDefinition, error: Exception) -> Outcome:
    attempt = session.row.attempt
    outcome = outcome_of_error(error, step.effect, step.retry, attempt - session.row.attempts_forgiven)
    log.warning(
        "step_attempt_failed",
        step=step.name,
        attempt=attempt,
        outcome=type(outcome).__name__,
        error=type(error).__name__,
        exc_info=error,
    )
    return outcome


def _call(session: Session, step: StepDefinition) -> Outcome:
    workflow = session.definition.workflow()
    if step.verifier and session.row.attempt > 1:
        found = step.verifier.body(workflow, **_arguments(session, step.verifier))
        if found is not None:
            return Done(to_json(step, found))
    value = step.body(workflow, **_arguments(session, step))
    if isinstance(value, Command):
        return Suspended([value], alone=True)
    if isinstance(value, list) and value and all(isinstance(item, Command) for item in value):
        return Suspended(value, alone=False)
    return Done(to_json(step, value))


def _arguments(session: Session, step: StepDefinition) -> dict[str, Any]:
    return {name: _argument(session, name) for name in step.parameters}


def _argument(session: Session, name: str) -> Any:
    match name:
        case "input":
            return session.input
        case "operation":
            return session.operation
        case "failure":
            return StepFailure.model_validate(session.run.error)
        case _:
            return session.output_of(name)


def _collect(session: Session, step: StepDefinition) -> Outcome:
    """Turn the commands of a waiting operation into its outcome, once all of them have ended.

    Not before: a compensation that begins while a sibling is still on its way could be overtaken by it.
    """
    waits = session.waits()
    now = session.claim.now()
    if any(_pending(wait, now) for wait in waits):
        return StillWaiting()
    failed = next((wait for wait in waits if wait.state == WaitState.FAILED), None)
    if failed:
        error = CommandError.model_validate(failed.error)
        raise CommandFailedError(error.code, error.message)
    results = [wait.result for wait in waits]
    return Done(to_json(step, results[0] if waits[0].alone else results))


def _pending(wait: Wait, now: Any) -> bool:
    if wait.kind == Sleep.kind:
        return wait.due_at is not None and wait.due_at > now
    return wait.state == WaitState.PENDING
