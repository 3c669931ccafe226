"""What people may do to a run: pause and resume it, cancel it, have it compensated, kill it.

A run that a worker holds is only asked (`control`), and the worker obeys at its next commit; nobody but the holder of
the claim changes a run. A kill takes the claim away from the worker, which is then fenced.
"""

from typing import Any

import structlog
from django.db import transaction
from django.db.models import Q

from workflows.clock import db_now
from workflows.doorbell import ring
from workflows.engine.acts import note_act
from workflows.engine.ending import end_at_once, failure, note_half_done
from workflows.engine.keys import take_key
from workflows.engine.letters import lock_run, resolve_letters
from workflows.engine.transactions import in_one_transaction
from workflows.engine.unbegun import leave_out
from workflows.errors import NotPossibleError, RunEndedError
from workflows.history import Chain
from workflows.leases import claim, release
from workflows.models import Run
from workflows.states import TERMINAL, Control, RunState, WaitingFor

log = structlog.get_logger()
STOPPING = (Control.CANCEL, Control.COMPENSATE)


def cancel_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Have the run stop where it is and undo what it has done; it ends CANCELLED.

    The step at hand is finished first, and what cannot be called off is waited for. A run that already undoes goes on.
    Raises Run.DoesNotExist, RunEndedError, NotPossibleError (it is a branch: only its parent undoes; or its undo has a
    dead letter).
    """
    return ask_to_stop(run_id, Control.CANCEL, "RUN_CANCELLED", actor, reason)


def compensate_run(run_id: Any, *, actor: str, reason: str, code: str = "RUN_COMPENSATED") -> Run:
    """Have the run stop where it is and undo what it has done; it ends COMPENSATED, or FAILED with nothing to undo.

    Raises Run.DoesNotExist, RunEndedError, NotPossibleError (it is a branch: only its parent undoes).
    """
    return ask_to_stop(run_id, Control.COMPENSATE, code, actor, reason)


def stop_run(run_id: Any, *, actor: str, reason: str) -> bool:
    """Cancel a run, or a branch, for another one; return whether it has ended already."""
    try:
        ask_to_stop(run_id, Control.CANCEL, "RUN_CANCELLED", actor, reason, branch_too=True)
    except RunEndedError:
        return True
    except NotPossibleError:  # it undoes already, and people have to help it
        return False
    return False


@in_one_transaction
def ask_to_stop(
    run_id: Any, control: Control, code: str, actor: str, reason: str, *, branch_too: bool = False
) -> Run:
    run = _lock(run_id)
    if run.branch and not branch_too:
        raise NotPossibleError(f"run {run.pk} is the branch {run.branch} of run {run.parent_id}: stop that")
    if run.compensating and run.state == RunState.DEAD_LETTER:
        raise NotPossibleError(
            f"run {run.pk} undoes already, and {run.operation} waits for a person: decide about that"
        )
    note_act(actor, control.value, f"run:{run.pk}", reason)
    if run.compensating:
        return run
    run.control, run.request = control, {"actor": actor, "reason": reason, "code": code}
    Run.objects.filter(pk=run.pk).update(control=control, asked=True, request=run.request)
    _turn_to_stop(run)
    run.refresh_from_db()
    return run


def _turn_to_stop(run: Run) -> None:
    """Have a locked run that was asked to stop claimed for that, whatever it waits for."""
    request = run.request or {}
    if run.state == RunState.DEAD_LETTER:
        resolve_letters(run, run.control, request.get("actor", ""), request.get("reason", ""))
        note_half_done(run)
        if not take_key(run):
            run.waiting_for = WaitingFor.KEY
    if run.state in (RunState.DEAD_LETTER, RunState.PAUSED):
        Run.objects.filter(pk=run.pk).update(state=idle_state(run), waiting_for=run.waiting_for)
    if not _needs_its_key(run):
        Run.objects.filter(pk=run.pk).update(wake_at=db_now())
    ring(run)


def _needs_its_key(run: Run) -> bool:
    """Tell whether the run has something to undo and must wait for the key that it gave away."""
    return run.waiting_for == WaitingFor.KEY and (run.attempt > 0 or run.position > 0)


def obey_late(run_id: Any) -> None:
    """Do what somebody asked of a run just while its worker let go of it. Harmless when it was done already.

    A timer keeps its instant, and a run that came to wait for a person stops: that was the decision.
    """
    with transaction.atomic():
        run = lock_run(run_id)
        if run.lease_until is not None or run.state in TERMINAL:
            return
        if run.control in STOPPING and not run.compensating:
            _turn_to_stop(run)
        elif run.control == Control.YIELD:
            Run.objects.filter(pk=run.pk).update(control=Control.NONE, asked=False)  # it has let go
        elif run.control == Control.PAUSE and run.state not in (RunState.PAUSED, RunState.DEAD_LETTER):
            _pause(run, run.request or {})


def wake_asked(limit: int = 500) -> int:
    """Wake the runs that were asked for something and that nobody has told. For the sweeper."""
    asked = Run.objects.filter(asked=True, lease_until__isnull=True)
    stopped = asked.filter(state__in=[RunState.DEAD_LETTER, RunState.PAUSED], compensating=False)
    for run_id in list(stopped.filter(control__in=STOPPING).values_list("pk", flat=True)[:limit]):
        obey_late(run_id)
    queued = Q(waiting_for=WaitingFor.KEY) & (Q(attempt__gt=0) | Q(position__gt=0))
    silent = asked.filter(wake_at__isnull=True).exclude(queued)
    silent = silent.exclude(state__in=[RunState.PAUSED, RunState.DEAD_LETTER])
    ids = list(silent.values_list("pk", flat=True)[:limit])
    return Run.objects.filter(pk__in=ids, wake_at__isnull=True).update(wake_at=db_now())


@in_one_transaction
def pause_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Keep the run from going on. A step at hand is finished; timers keep their instants, and are due on resuming.

    Raises Run.DoesNotExist, RunEndedError, NotPossibleError (it waits for a person already).
    """
    request = {"actor": actor, "reason": reason}
    run = _lock(run_id)
    if run.state == RunState.DEAD_LETTER:
        raise NotPossibleError(f"run {run.pk} waits for a person already")
    note_act(actor, "pause", f"run:{run.pk}", reason)
    if run.lease_until is None:
        _pause(run, request)
    else:  # also if its worker is dead: what that left behind is looked at first
        Run.objects.filter(pk=run.pk, control__in=[Control.NONE, Control.YIELD]).update(
            control=Control.PAUSE, asked=True, request=request
        )
    run.refresh_from_db()
    return run


def _pause(run: Run, request: dict[str, Any]) -> None:
    """Pause a locked run that nobody holds."""
    if run.state == RunState.PAUSED:
        return
    held = claim(Run, run.pk, 30)
    assert held is not None, "it is locked, and nobody holds it"
    asked = {"control": Control.NONE, "asked": False, "request": None} if run.control == Control.PAUSE else {}
    _write_as_owner(held, "run_paused", request, state=RunState.PAUSED, **asked)


@in_one_transaction
def resume_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Let a paused run go on where it was. Raises Run.DoesNotExist, RunEndedError, NotPossibleError (not paused)."""
    run = _lock(run_id)
    if run.control == Control.PAUSE and run.state != RunState.PAUSED:  # its worker has not obeyed yet
        Run.objects.filter(pk=run.pk).update(control=Control.NONE, asked=False, request=None)
    elif run.state != RunState.PAUSED:
        raise NotPossibleError(f"run {run.pk} is {run.state}, not PAUSED")
    else:
        held = claim(Run, run.pk, 30)
        assert held is not None, "nobody holds a paused run"
        _write_as_owner(held, "run_resumed", {"actor": actor, "reason": reason}, state=idle_state(held.row))
        ring(run)
    note_act(actor, "resume", f"run:{run.pk}", reason)
    run.refresh_from_db()
    return run


@in_one_transaction
def kill_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """End the run at once, undoing nothing; it ends CANCELLED. Its branches and children are killed with it.

    What a worker is doing for it goes on to its end, unrecorded; what was sent stays sent. The parent of a branch that
    is killed alone goes on as after a failure. Raises Run.DoesNotExist, RunEndedError.
    """
    parent_id = Run.objects.values_list("parent_id", flat=True).get(pk=run_id)
    if parent_id is not None:
        lock_run(parent_id)
    run = _lock(run_id)
    note_act(actor, "kill", f"run:{run.pk}", reason)
    resolve_letters(run, "kill", actor, reason)
    error = failure("RUN_KILLED", actor, reason, run)
    end_at_once(run, RunState.CANCELLED, "run_killed", error, actor, reason)
    return run


def stop_branches(parent: Run) -> None:
    """Have the branches stopped that are not over; what they have done, their parent undoes."""
    request = parent.request or {}
    leave_out(parent.pk, "its parent was stopped")
    for branch in Run.objects.filter(parent=parent, finished_at__isnull=True).exclude(branch=""):
        stop_run(branch.pk, actor=request.get("actor", "engine"), reason=request.get("reason", ""))


def idle_state(run: Run) -> RunState:
    """Return the state of a run that nobody holds and nothing stops."""
    if run.compensating:
        return RunState.COMPENSATING
    return RunState.WAITING if run.waiting_for else RunState.READY


def stop_overdue(limit: int = 200) -> int:
    """Have the runs stopped that have passed their deadlines. For the sweeper."""
    overdue = Run.objects.filter(
        finished_at__isnull=True, deadline_at__lte=db_now(), compensating=False, control=Control.NONE
    )
    stopped = 0
    for run in overdue.exclude(state=RunState.DEAD_LETTER)[:limit]:
        try:
            text = f"it was to end before {run.deadline_at:%Y-%m-%d %H:%M:%S} UTC"
            compensate_run(run.pk, actor="engine", reason=text, code="DEADLINE_EXCEEDED")
            stopped += 1
        except (RunEndedError, NotPossibleError):
            continue
        except Exception:  # one row keeps none of the others from being looked at
            log.exception("run_not_stopped", run=str(run.pk))
    return stopped


def _lock(run_id: Any) -> Run:
    run = lock_run(run_id)
    if run.state in TERMINAL:
        raise RunEndedError(f"run {run.pk} has ended {run.state}")
    return run


def _write_as_owner(held: Any, kind: str, data: dict[str, Any], **columns: Any) -> None:
    chain = Chain(held.row)
    chain.add(kind, held.now(), **data)
    chain.save()
    release(held, **columns, **chain.head())
