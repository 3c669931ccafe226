"""What a run is waiting for, said as a sentence: the first thing that a person who is woken at night wants to know."""

from django.utils import timezone

from workflows.models import DeadLetter, Run, Step, VirtualObjectState, Wait
from workflows.states import TERMINAL, DeadLetterState, RunState, StepState, WaitingFor, WaitState


def waits_for(run: Run) -> str:
    """Return what this run waits for. Reads `steps`, `waits` and `dead_letters`; prefetch them for a list."""
    if run.state in TERMINAL:
        return "nothing: it has ended"
    if run.state == RunState.DEAD_LETTER:
        return _for_a_person(list(run.dead_letters.all()))
    held = run.lease_until is not None and run.lease_until > timezone.now()
    if held:
        return f"nothing: {run.lease_owner} works on it"
    if run.lease_until is not None:
        return f"the sweep: {run.lease_owner} has not renewed its lease since {run.lease_until:%H:%M:%S} UTC"
    if run.waiting_for == WaitingFor.KEY:
        return _for_its_key(run)
    if run.waiting_for == WaitingFor.COMMAND:
        return _for_commands(list(run.waits.all()))
    if run.waiting_for == WaitingFor.RETRY:
        return _for_the_next_attempt(run, list(run.steps.all()))
    if run.waiting_for == WaitingFor.SLEEP:
        return f"the time: {run.wake_at:%Y-%m-%d %H:%M:%S} UTC" if run.wake_at else "the time"
    return "a worker to take it"


def _for_a_person(letters: list[DeadLetter]) -> str:
    for letter in letters:
        if letter.state == DeadLetterState.OPEN:
            reason = str(letter.get_reason_display()).replace("_", " ").lower()
            code = (letter.error or {}).get("code", "")
            return f"a person: {letter.operation_id}, {reason}" + (f" ({code})" if code else "")
    return "a person"


def _for_its_key(run: Run) -> str:
    key = VirtualObjectState.objects.filter(key=run.object_key).first()
    holder = f", held by run {key.holder_id}" if key and key.holder_id else ""
    return f"{run.object_key}{holder}"


def _for_commands(waits: list[Wait]) -> str:
    pending = [wait for wait in waits if wait.state == WaitState.PENDING]
    if not pending:
        return "a worker to take it: all it waited for has come"
    first = pending[0]
    if len(pending) == 1:
        return f"the {first.kind} of {first.operation_id}"
    return f"{len(pending)} of the {first.kind}s of {first.operation_id}"


def _for_the_next_attempt(run: Run, steps: list[Step]) -> str:
    step = next(
        (step for step in reversed(steps) if step.state in (StepState.WAITING, StepState.UNDOING)), None
    )
    when = f" at {run.wake_at:%H:%M:%S} UTC" if run.wake_at else ""
    if step is None:
        return f"its next attempt{when}"
    code = (step.error or {}).get("code", "")
    return f"attempt {step.attempt + 1} of {step.operation_id}{when}" + (f", after {code}" if code else "")
