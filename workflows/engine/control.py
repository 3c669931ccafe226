"""What people may do to a run: pause and resume it, cancel it, have it compensated, kill it.

A run that a worker holds is only asked (`control`), and the worker obeys at its next commit; nobody but the holder of
the claim changes a run. A kill takes the claim away from the worker, which is then fenced.
"""

from typing import Any

from django.db import transaction
from django.db.models import F, Q

from workflows.clock import db_now, now
from workflows.doorbell import ring
from workflows.engine.acts import note_act
from workflows.engine.keys import release_key
from workflows.errors import NotPossibleError, RunEndedError
from workflows.history import Chain
from workflows.leases import claim, release
from workflows.models import DeadLetter, Run, Wait
from workflows.states import TERMINAL, Control, DeadLetterState, RunState, WaitingFor, WaitState

LIVE = ~Q(state__in=sorted(TERMINAL))


def cancel_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Have the run stop where it is and undo what it has done; it ends CANCELLED.

    The step at hand is finished first, and what cannot be called off is waited for. A run that already undoes goes on.
    Raises Run.DoesNotExist, RunEndedError.
    """
    return _ask_to_stop(run_id, Control.CANCEL, "RUN_CANCELLED", actor, reason)


def compensate_run(run_id: Any, *, actor: str, reason: str, code: str = "RUN_COMPENSATED") -> Run:
    """Have the run stop where it is and undo what it has done; it ends COMPENSATED, or FAILED with nothing to undo."""
    return _ask_to_stop(run_id, Control.COMPENSATE, code, actor, reason)


def stop_run(run_id: Any, *, actor: str, reason: str) -> bool:
    """Cancel a run for another one; return whether it has ended already."""
    try:
        cancel_run(run_id, actor=actor, reason=reason)
    except RunEndedError:
        return True
    return False


def _ask_to_stop(run_id: Any, control: Control, code: str, actor: str, reason: str) -> Run:
    with transaction.atomic():
        run = _lock(run_id)
        note_act(actor, control.value, f"run:{run.pk}", reason)
        if run.compensating and run.state != RunState.DEAD_LETTER:
            return run
        resolve_letters(run, control.value, actor, reason)
        stopped = run.state in (RunState.PAUSED, RunState.DEAD_LETTER)
        Run.objects.filter(pk=run.pk).update(
            control=control,
            asked=True,
            request={"actor": actor, "reason": reason, "code": code},
            state=idle_state(run) if stopped else F("state"),
            wake_at=db_now(),
        )
        ring(run)
    run.refresh_from_db()
    return run


def obey_late(run: Run) -> None:
    """Wake a run that was asked for something just while its worker let go of it. Harmless when it wasn't."""
    rows = Run.objects.filter(LIVE, pk=run.pk, lease_until__isnull=True, asked=True)
    if rows.exclude(state=RunState.PAUSED).update(wake_at=db_now()):
        ring(run)


def wake_asked(limit: int = 500) -> int:
    """Wake the runs that were asked for something and that nobody has told. For the sweeper."""
    asked = Run.objects.filter(asked=True, lease_until__isnull=True, wake_at__isnull=True)
    asked = asked.exclude(state__in=[RunState.PAUSED, RunState.DEAD_LETTER])
    ids = list(asked.values_list("pk", flat=True)[:limit])
    return Run.objects.filter(pk__in=ids, wake_at__isnull=True).update(wake_at=db_now())


def pause_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Keep the run from going on. A step at hand is finished; timers keep their instants, and are due on resuming.

    Raises Run.DoesNotExist, RunEndedError, NotPossibleError (it waits for a person already).
    """
    request = {"actor": actor, "reason": reason}
    with transaction.atomic():
        run = _lock(run_id)
        if run.state == RunState.DEAD_LETTER:
            raise NotPossibleError(f"run {run.pk} waits for a person already")
        note_act(actor, "pause", f"run:{run.pk}", reason)
        held = claim(Run, run.pk, 30)
        if held is None:
            Run.objects.filter(pk=run.pk, control=Control.NONE).update(
                control=Control.PAUSE, asked=True, request=request
            )
        elif held.row.state != RunState.PAUSED:
            _write_as_owner(held, "run_paused", request, state=RunState.PAUSED)
    run.refresh_from_db()
    return run


def resume_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """Let a paused run go on where it was. Raises Run.DoesNotExist, RunEndedError, NotPossibleError (not paused)."""
    with transaction.atomic():
        run = _lock(run_id)
        if run.control == Control.PAUSE and run.state != RunState.PAUSED:  # its worker has not obeyed yet
            Run.objects.filter(pk=run.pk).update(control=Control.NONE, asked=False, request=None)
        elif run.state != RunState.PAUSED:
            raise NotPossibleError(f"run {run.pk} is {run.state}, not PAUSED")
        else:
            held = claim(Run, run.pk, 30)
            assert held is not None, "nobody holds a paused run"
            _write_as_owner(
                held, "run_resumed", {"actor": actor, "reason": reason}, state=idle_state(held.row)
            )
            ring(run)
        note_act(actor, "resume", f"run:{run.pk}", reason)
    run.refresh_from_db()
    return run


def kill_run(run_id: Any, *, actor: str, reason: str) -> Run:
    """End the run at once, undoing nothing; it ends CANCELLED. Its branches and children are killed with it.

    What a worker is doing for it goes on to its end, unrecorded; what was sent stays sent.
    """
    with transaction.atomic():
        run = _lock(run_id)
        note_act(actor, "kill", f"run:{run.pk}", reason)
        for child in Run.objects.filter(parent=run, finished_at__isnull=True):
            kill_run(child.pk, actor=actor, reason=f"its parent was killed: {reason}")
        end_at_once(run, RunState.CANCELLED, "kill", "RUN_KILLED", actor, reason)
    run.refresh_from_db()
    return run


def end_at_once(run: Run, state: RunState, action: str, code: str, actor: str, reason: str) -> None:
    """End a locked run as it stands. The epoch rises: a worker that holds it is fenced."""
    from workflows.engine.children import tell_parent

    at = now()
    chain = Chain(run)
    chain.add(f"run_{action}ed", at, actor=actor, reason=reason)
    chain.add("run_finished", at, state=state)
    Run.objects.filter(pk=run.pk).update(
        epoch=F("epoch") + 1,
        state=state,
        error={"code": code, "message": f"{actor}: {reason}", "step": run.operation.partition("#")[0]},
        control=Control.NONE,
        asked=False,
        waiting_for=WaitingFor.NOTHING,
        wake_at=None,
        lease_until=None,
        finished_at=at,
        **chain.head(),
    )
    chain.save()
    Wait.objects.filter(run=run, state=WaitState.PENDING).update(state=WaitState.WITHDRAWN)
    resolve_letters(run, action, actor, reason)
    run.refresh_from_db()
    release_key(run)
    tell_parent(run)
    if run.branch:
        from workflows.engine.branches import join_branches

        transaction.on_commit(lambda: join_branches(run.parent_id), robust=True)


def stop_branches(parent: Run) -> None:
    """Have the branches stopped that are not over; what they have done, their parent undoes."""
    request = parent.request or {}
    for branch in Run.objects.filter(parent=parent, finished_at__isnull=True).exclude(branch=""):
        stop_run(branch.pk, actor=request.get("actor", "engine"), reason=request.get("reason", ""))


def resolve_letters(run: Run, resolution: str, actor: str, reason: str) -> int:
    """Close the run's open dead letter, if it has one."""
    return DeadLetter.objects.filter(run=run, state=DeadLetterState.OPEN).update(
        state=DeadLetterState.RESOLVED,
        resolution=resolution,
        resolved_by=actor,
        note=reason,
        resolved_at=db_now(),
    )


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
        except RunEndedError:
            continue
    return stopped


def _lock(run_id: Any) -> Run:
    run = Run.objects.select_for_update().get(pk=run_id)
    if run.state in TERMINAL:
        raise RunEndedError(f"run {run.pk} has ended {run.state}")
    return run


def _write_as_owner(held: Any, kind: str, data: dict[str, Any], **columns: Any) -> None:
    chain = Chain(held.row)
    chain.add(kind, held.now(), **data)
    chain.save()
    release(held, **columns, **chain.head())
