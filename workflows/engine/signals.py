"""Messages to a run: stored when they come before the run waits for them, consumed once, the oldest first.

Sending and beginning to wait both lock the run's row, so that neither can miss the other; so does the timeout of a wait.
"""

from typing import Any
from uuid import UUID

from django.core import signing

from workflows.commands import CommandError, CommandResult, Operation
from workflows.engine.transactions import in_one_transaction
from workflows.engine.wake import settle, wake
from workflows.errors import InvalidTokenError, RunEndedError
from workflows.models import Run, Signal, Wait
from workflows.states import TERMINAL, WaitState

COMPLETION = "completion:"
TAKEN = "?"  # by the operation that is being submitted in this transaction


def wait_reference(operation: Operation, name: str) -> str:
    return f"{operation.run_id}/{name}"


def completion_name(operation_id: str) -> str:
    return COMPLETION + operation_id


@in_one_transaction
def send_signal(
    run_id: Any, name: str, payload: Any = None, *, dedup_id: str | None = None, sender: str = ""
) -> Signal:
    """Send a signal to a run and return it. The same dedup_id again changes nothing and returns the first one.

    Raises Run.DoesNotExist, or RunEndedError when the run has ended: nobody would ever take it.
    """
    run = Run.objects.select_for_update().get(pk=run_id)
    first = Signal.objects.filter(run=run, name=name, dedup_id=dedup_id).first() if dedup_id else None
    if first is not None:
        return first
    if run.state in TERMINAL:
        raise RunEndedError(f"run {run.pk} has ended {run.state}; nothing waits for {name!r} any more")
    signal = Signal.objects.create(
        run=run, name=name, payload=payload, dedup_id=dedup_id or None, sender=sender
    )
    _offer(signal)
    return signal


def _offer(signal: Signal) -> None:
    """Give a signal to the oldest wait for it, if there is one; the run that it was sent to is locked."""
    reference = f"{signal.run_id}/{signal.name}"
    wait = Wait.objects.filter(kind="signal", reference=reference, state=WaitState.PENDING).first()
    if wait is not None:
        _hand_over(signal, wait)


def _hand_over(signal: Signal, wait: Wait) -> None:
    waiting = Run.objects.select_for_update().get(pk=wait.run_id)
    settle(wait, _result_of(signal))
    # A branch may have ended its wait by the clock before it was locked; then the signal stays here.
    pending = Wait.objects.filter(pk=wait.pk, state=WaitState.PENDING)
    if pending.update(state=wait.state, result=wait.result, error=wait.error):
        Signal.objects.filter(pk=signal.pk).update(consumed_by=wait.operation_id)
        wake([waiting])


def take_stored(reference: str) -> CommandResult | None:
    """Consume the oldest signal that nobody has, for an operation that begins to wait; its run is locked."""
    run_id, _, name = reference.partition("/")
    Run.objects.select_for_update().get(pk=run_id)  # a branch locks its own row, the sender its parent's
    signal = Signal.objects.filter(run_id=run_id, name=name, consumed_by="").first()
    if signal is None:
        return None
    Signal.objects.filter(pk=signal.pk).update(consumed_by=TAKEN)
    return _result_of(signal)


def note_taken(wait: Wait) -> None:
    """Say by which operation the signal was taken that `take_stored` has just found for it."""
    run_id, _, name = wait.reference.partition("/")
    Signal.objects.filter(run_id=run_id, name=name, consumed_by=TAKEN).update(consumed_by=wait.operation_id)


def give_back(wait: Wait) -> None:
    """Keep a signal for whoever wants it next: it came to one of several waits, and another of them was first."""
    run_id, _, name = wait.reference.partition("/")
    Run.objects.select_for_update().get(pk=run_id)  # as in `take_stored`
    signal = Signal.objects.filter(run_id=run_id, name=name, consumed_by=wait.operation_id).last()
    if signal is not None:
        Signal.objects.filter(pk=signal.pk).update(consumed_by="")
        _offer(signal)


def ask_again(run: Run) -> None:
    """Let the operation at hand be completed once more: it is tried again, after it was completed with an error."""
    told = Signal.objects.filter(
        run_id=run.home_id, name=completion_name(run.operation), consumed_by=run.operation
    )
    told.update(dedup_id=None)


def _result_of(signal: Signal) -> CommandResult:
    if not signal.name.startswith(COMPLETION):
        return CommandResult(value=signal.payload)
    payload: dict[str, Any] = signal.payload or {}
    error = payload.get("error")
    return CommandResult(
        value=payload.get("value"), error=CommandError.model_validate(error) if error else None
    )


def complete_operation(token: str, value: Any = None, *, error: CommandError | None = None) -> None:
    """End what a step with WaitForCompletion waits for, with a value or an error. The first call counts.

    Raises InvalidTokenError, RunEndedError.
    """
    try:
        key = signing.Signer(salt="workflows.completion").unsign(token)
        run_id, _, operation_id = key.partition(":")
        name = completion_name(operation_id)
        payload = {"value": value, "error": error.model_dump() if error else None}
        send_signal(UUID(run_id), name, payload, dedup_id="completion")
    except (signing.BadSignature, ValueError, Run.DoesNotExist):
        raise InvalidTokenError("this is not a completion token of ours") from None
