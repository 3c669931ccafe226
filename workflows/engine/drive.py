"""Driving a run: claim it, carry out one operation after the other, stop when it waits, ends or has had its slice."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError, transaction

from workflows.commands import AnyOf, Command, CommandError, WaitForSignal, command_of
from workflows.crashpoints import crashpoint
from workflows.definition import find_definition
from workflows.doorbell import send_some
from workflows.engine import branches, draining, limits, migration
from workflows.engine.arguments import arguments, limit_of, select
from workflows.engine.children import look_again
from workflows.engine.claiming import claim_run
from workflows.engine.control import STOPPING, obey_late
from workflows.engine.fanout import fan_out, join
from workflows.engine.objects import Written
from workflows.engine.outcomes import (
    CalledOff,
    Done,
    FannedOut,
    Halted,
    Outcome,
    Parked,
    Skipped,
    StillWaiting,
    Submitted,
    Suspended,
    TryLater,
    missing,
    outcome_of_error,
    to_json,
)
from workflows.engine.recording import park, record, tell_parent_of_branch
from workflows.engine.session import Session, is_away, is_database_trouble
from workflows.engine.signals import give_back, note_taken
from workflows.engine.transactions import in_transaction
from workflows.engine.wake import settle
from workflows.errors import CommandFailedError, FencedError
from workflows.leases import keep
from workflows.models import Wait
from workflows.states import Control, DeadLetterReason, Join, WaitState
from workflows.steps import StepDefinition

log = structlog.get_logger()

crashpoint.register("engine.before_claim", "a worker has the message, and has not looked at the run")
crashpoint.register("engine.claimed", "the claim is committed, the step's code has not begun")
crashpoint.register("engine.recorded", "an outcome is committed, nobody was told")


def advance(run_id: Any, *, takes_heir: bool = False) -> Session | None:
    """Carry the run as far as it goes now. None when there was nothing to claim: asleep, held by another, unknown.

    Errors of the database or the process leave the run claimed; the lease expires and the next claim goes on.
    takes_heir: the caller takes up `session.heir`, to whom the run has left its key; otherwise a worker is told.
    """
    crashpoint("engine.before_claim")
    held = claim_run(run_id)
    if held is None:
        return None
    run = held.row
    bound = {"run": str(run.pk), "workflow": run.workflow, "correlation_id": run.correlation_id}
    with structlog.contextvars.bound_contextvars(**bound), keep(held):
        crashpoint("engine.claimed")
        definition = find_definition(run.workflow)
        assert definition is not None, "a claim names known definitions"
        session = Session(held, definition)
        try:
            _drive(session)
        except FencedError:
            return None
    if session.heir is not None and not takes_heir:
        send_some([session.heir])
    return session


def _drive(session: Session) -> None:
    deadline = time.monotonic() + settings.WORKFLOWS["slice_seconds"]
    steps_left = settings.WORKFLOWS["slice_steps"]
    _look_at(session)
    while session.planned:
        if session.control and _obeys(session):
            continue
        steps_left -= 1
        may_continue = steps_left > 0 and time.monotonic() < deadline and not draining.is_draining()
        _carry_out(session, may_continue=may_continue)
        crashpoint("engine.recorded")
    late = session.news or session.control in (Control.PAUSE, Control.YIELD)
    if late and session.run.finished_at is None:
        obey_late(session.run.pk)
    if session.run.limited:
        _offer_place(session)


def _offer_place(session: Session) -> None:
    """Let the next run have the place that this one has left, where places are limited."""
    heir = limits.next_in_line(limits.scopes_of(session.run))
    if heir is not None:
        send_some([heir])


def _obeys(session: Session) -> bool:
    """Do what somebody asked for while nothing of the operation has begun; return whether it was done."""
    stopping = session.control in STOPPING
    if session.resuming or (stopping and session.run.compensating):
        return False
    if stopping and session.current.fans_out and not branches.is_over(session.run.pk):
        session.resuming = True  # a worker died while it made them: they are stopped, and waited for
        return False
    record(session, Halted(), may_continue=False)
    return True


def _look_at(session: Session) -> None:
    """See to what a new owner of the run must see to before anything is carried out."""
    run, definition = session.run, session.definition
    if run.recoveries:
        session.chain.add("run_recovered", session.claim.claimed_at, recoveries=run.recoveries)
        in_doubt = session.planned and not session.resuming and not session.current.fans_out
        if in_doubt and session.current.step.effect != "transactional":
            session.touch(session.row).uncertain = True
            if session.current.step.effect == "at_most_once":
                text = "the worker died in this step; nobody knows whether it happened, and it may happen at most once"
                park(session, DeadLetterReason.UNCERTAIN, "STEP_UNCERTAIN", text, uncertain=True)
                return
    if session.planned is None:
        text = f"{run.workflow} has no step {run.operation} any more; deploy one that has, then replay"
        park(session, DeadLetterReason.DEFINITION_CHANGED, "WORKFLOW_CHANGED", text)
        return
    migration.migrate(run, definition, session.chain, session.claim.claimed_at)
    if run.recoveries > settings.WORKFLOWS["max_recoveries"]:
        text = f"{run.recoveries} workers in a row died while carrying it out"
        park(session, DeadLetterReason.CRASH_LOOP, "STEP_KILLS_WORKERS", text)


def _carry_out(session: Session, *, may_continue: bool) -> None:
    planned, step = session.current, session.current.step
    if session.run.attempt > 1:
        session.load_row()  # while the database is there: the step may outlast it
    if planned.fans_out:
        _carry_out_branches(session, may_continue=may_continue)
    elif session.resuming:
        _resume(session, may_continue=may_continue)
    elif step.effect == "transactional":
        _carry_out_transaction(session, may_continue=may_continue)
    else:
        outcome = _attempt(session, lambda: _call(session, step))
        if isinstance(outcome, Suspended):
            _suspend(session, outcome, may_continue=may_continue)
        else:
            record(session, outcome, may_continue=may_continue)


def _carry_out_transaction(session: Session, *, may_continue: bool) -> None:
    """Run the step's own writes and its checkpoint in one transaction: both or neither."""
    step = session.current.step
    before = session.snapshot()

    def work() -> None:
        try:
            outcome = _call(session, step)
            if isinstance(
                outcome, Suspended
            ):  # a virtual object's: what it has written is kept while it waits
                session.lock()
                outcome = Submitted(_submit(session, outcome))
        except FencedError:
            raise
        except Exception as error:
            if is_database_trouble(error):
                raise
            raise _BodyError from error
        record(session, outcome, may_continue=may_continue)

    try:
        _together(session, work)
    except (_BodyError, DatabaseError) as raised:
        if is_away(raised):
            raise
        session.restore(before)
        error = raised.__cause__ if isinstance(raised, _BodyError) else raised
        assert isinstance(error, Exception)
        record(session, _outcome_of_error(session, step, error), may_continue=may_continue)


def _together(session: Session, work: Callable[[], None]) -> None:
    in_transaction(session, work)
    tell_parent_of_branch(session)


class _BodyError(Exception):
    """A transactional step's own exception, on its way out of the transaction that it spoils."""


def _suspend(session: Session, returned: Suspended, *, may_continue: bool) -> None:
    """Submit the commands and record that the run waits for them: both or neither."""

    def work() -> None:
        session.lock()
        outcome = _attempt_in_savepoint(session, lambda: Submitted(_submit(session, returned)))
        record(session, outcome, may_continue=may_continue)

    _together(session, work)


def _submit(session: Session, returned: Suspended) -> list[Wait]:
    """Have the commands insert what is to be carried out; note those that have ended already."""
    operation, at, waits = session.operation, session.claim.now(), []
    for index, command in enumerate(returned.commands):
        wait = Wait(
            run=session.run,
            operation_id=operation.id,
            attempt=operation.attempt,
            index=index,
            join=returned.join,
            kind=command.kind,
            reference=command.submit(operation, index),
            due_at=command.due(at),
        )
        result = command.find_result(wait.reference)
        if result is not None:
            settle(wait, result)
            if wait.kind == WaitForSignal.kind:
                note_taken(wait)
        waits.append(wait)
    return waits


def _resume(session: Session, *, may_continue: bool) -> None:
    """Look at what the operation waits for, with nobody ending any of it meanwhile."""

    def work() -> None:
        session.lock()
        outcome = _attempt_in_savepoint(session, lambda: _collect(session))
        if isinstance(outcome, TryLater):  # another attempt would ask a second time for what is under way
            outcome = Parked(DeadLetterReason.RETRIES_EXHAUSTED, outcome.error, uncertain=True)
        record(session, outcome, may_continue=may_continue)

    _together(session, work)


def _collect(session: Session) -> Outcome:
    """Turn the commands of a waiting operation into its outcome, once enough of them have ended.

    Of a list all must end, also when one has failed: a compensation that begins while a sibling is still on its way could
    be overtaken by it.
    """
    waits, at = session.waits(), session.claim.now()
    _end_by_the_clock(session, waits, at)
    gone = look_again(waits)
    if session.control in STOPPING and not session.run.compensating and any(map(_pending, waits)):
        return CalledOff() if _withdraw(waits) else StillWaiting()
    failed = [wait for wait in waits if wait.state == WaitState.FAILED]
    done = [wait for wait in waits if wait.state == WaitState.DONE]
    if gone is not None and not (done and waits[0].join == Join.ANY):
        return missing(
            f"run {gone}, for which it waits, is not in the database any more: restore it, then replay"
        )
    if waits[0].join == Join.ANY:
        if done:
            _withdraw(waits)
            first = min(done, key=lambda wait: wait.index)
            _give_back([wait for wait in done if wait is not first])
            return Done(to_json(session.current.step, {"index": first.index, "value": first.result}))
        if len(failed) < len(waits):
            return StillWaiting()
    elif any(map(_pending, waits)):
        return StillWaiting()
    if failed:
        error = CommandError.model_validate(failed[0].error)
        # Not raised: that would take back what the clock has ended, and leave it open to those who come too late.
        return _outcome_of_error(session, session.current.step, CommandFailedError(error.code, error.message))
    results = [wait.result for wait in waits]
    return Done(to_json(session.current.step, results[0] if waits[0].join == Join.ALONE else results))


def _pending(wait: Wait) -> bool:
    return wait.state == WaitState.PENDING


def _end_by_the_clock(session: Session, waits: list[Wait], at: datetime) -> None:
    """End the sleeps that are over, and what has taken too long."""
    for wait in waits:
        if not _pending(wait) or wait.due_at is None or wait.due_at > at:
            continue
        if wait.kind == "sleep":
            wait.state = WaitState.DONE
        else:
            text = f"{wait.kind} did not come before {wait.due_at:%Y-%m-%d %H:%M:%S} UTC"
            wait.state = WaitState.FAILED
            wait.error = {"code": f"{wait.kind.upper()}_TIMEOUT", "message": text}
            command_of(wait.kind).withdraw(wait.reference)
        if wait.kind != "sleep" or wait.join == Join.ANY:  # else the run was not to be woken for it
            session.late_by = max(session.late_by, at - wait.due_at)
        wait.save(update_fields=["state", "error"])


def _withdraw(waits: list[Wait]) -> bool:
    """Call off what is pending; return whether none of it will happen from now on."""
    certain = True
    for wait in filter(_pending, waits):
        if command_of(wait.kind).withdraw(wait.reference):
            wait.state = WaitState.WITHDRAWN
            wait.save(update_fields=["state"])
        else:
            certain = False
    return certain


def _give_back(waits: list[Wait]) -> None:
    """Keep the signals that came as well, but were not first, for the steps that may wait for them yet."""
    for wait in waits:
        if wait.kind == WaitForSignal.kind:
            Wait.objects.filter(pk=wait.pk).update(state=WaitState.WITHDRAWN, result=None)
            give_back(wait)


def _carry_out_branches(session: Session, *, may_continue: bool) -> None:
    outcome = join(session) if session.resuming else _attempt(session, lambda: fan_out(session))
    record(session, outcome, may_continue=may_continue)
    if isinstance(outcome, FannedOut):
        branches.ring_branches(session)
    if isinstance(outcome, FannedOut | StillWaiting):
        branches.join_branches(session.run.pk)  # all of them may have ended before the run waited


def _attempt(session: Session, work: Callable[[], Outcome]) -> Outcome:
    step = session.current.step
    try:
        return work()
    except FencedError:
        raise
    except Exception as error:  # whatever a step raises is that step's outcome
        if is_away(error):  # but for this: the run stays claimed, and whoever is next to claim it goes on
            raise
        return _outcome_of_error(session, step, error)


def _attempt_in_savepoint(session: Session, work: Callable[[], Outcome]) -> Outcome:
    try:
        with transaction.atomic():
            return work()
    except FencedError:
        raise
    except Exception as error:
        if is_database_trouble(error):
            raise  # the whole transaction is begun again
        return _outcome_of_error(session, session.current.step, error)


def _outcome_of_error(session: Session, step: StepDefinition, error: Exception) -> Outcome:
    log.info("step_raised", step=step.name, attempt=session.run.attempt, error=type(error).__name__)
    row = session.row
    elapsed = (session.claim.now() - row.started_at).total_seconds() if row.started_at else 0.0
    attempt = session.run.attempt - row.attempts_forgiven
    return outcome_of_error(error, step.effect, step.retry, attempt, elapsed)


def _call(session: Session, step: StepDefinition) -> Outcome:
    if step.when and step.each is None and not select(session, step, step.when):
        return Skipped()
    workflow = session.definition.workflow()
    with limit_of(step):
        if step.verifier and session.run.attempt > 1:
            found = step.verifier.body(workflow, **arguments(session, step.verifier.parameters))
            if found is not None:
                return Done(to_json(step, found))
        value = step.body(workflow, **arguments(session, step.parameters))
    if isinstance(value, Written):
        session.written, value = value, value.returned
    if isinstance(value, Command):
        return Suspended([value], Join.ALONE)
    if isinstance(value, AnyOf):
        return Suspended(list(value.commands), Join.ANY)
    if isinstance(value, list) and value and all(isinstance(item, Command) for item in value):
        return Suspended(value, Join.ALL)
    return Done(to_json(step, value))
