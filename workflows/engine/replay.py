"""Letting a person send a stopped run on its way again, with its input as it was or corrected."""

from typing import Any

from pydantic import BaseModel, ValidationError

from workflows import clock
from workflows.doorbell import ring
from workflows.engine.acts import note_act
from workflows.engine.cycles import require_no_cycle
from workflows.engine.keys import take_key
from workflows.engine.letters import open_session, take_letter
from workflows.engine.session import Session
from workflows.engine.signals import ask_again
from workflows.engine.start import parse_input
from workflows.engine.transactions import in_one_transaction
from workflows.errors import InvalidInputError, NotPossibleError, NotReplayableError, PermanentError
from workflows.history import output_digest
from workflows.models import DeadLetter, Run, Step, Wait
from workflows.states import RunState, StepState, WaitingFor, WaitState


@in_one_transaction
def replay_dead_letter(
    dead_letter_id: Any, *, actor: str, reason: str, input: BaseModel | dict[str, Any] | None = None
) -> DeadLetter:
    """Try the stopped operation again, with its attempts counted anew. Who did it and why goes into the history.

    input: what takes the place of the run's input from here on; what lies behind the run was done with the old one.
    Of a branch it is the item. The history keeps the digests of both.
    Raises DeadLetter.DoesNotExist, InvalidInputError, NotPossibleError (the input can't be edited here: see the
    message), or NotReplayableError when somebody has dealt with it already (so a double click replays once) or the
    workflow has lost steps that this run has behind it.
    """
    held = take_letter(dead_letter_id, "replay", actor, reason)
    session = open_session(held)
    edit = {} if input is None else _edit_input(session, input)
    step = session.run.operation
    session.chain.add("dead_letter_replayed", held.now(), step=step, actor=actor, reason=reason, **edit)
    note_act(actor, "replay", f"run:{held.row.pk}", reason, dead_letter=str(dead_letter_id), **edit)
    send_on(session, _forgive(session))
    return DeadLetter.objects.get(pk=dead_letter_id)


def _forgive(session: Session) -> WaitingFor:
    """Count the attempts anew; return what the operation goes on waiting for, if it has asked for it already."""
    if session.current.fans_out:
        return WaitingFor.NOTHING  # its branches that are there are not made again
    row = session.row
    resumes = _resumes(session.run, row)
    if row.pk is not None:
        row.state = StepState.WAITING if resumes else StepState.PENDING
        row.attempts_forgiven = row.attempt
        session.touch(row)
    if not resumes:
        ask_again(session.run)
    return WaitingFor.COMMAND if resumes else WaitingFor.NOTHING


def _resumes(run: Run, row: Step) -> bool:
    """Tell whether commands of the last attempt are under way or have succeeded: asking again would do it twice."""
    waits = Wait.objects.filter(run=run, operation_id=row.operation_id, attempt=run.attempt)
    states = set(waits.values_list("state", flat=True))
    return bool(states) and WaitState.FAILED not in states


def _edit_input(session: Session, given: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """Write the run's new input; return what the history says of it."""
    run = session.run
    stored = _item(session, given) if run.branch else _input(session, given)
    before, after = run.input_hash, output_digest(stored)
    run.input, run.input_hash = stored, after
    Run.objects.filter(pk=run.pk).update(input=stored, input_hash=after)
    return {"input_before": before, "input_after": after}


def _input(session: Session, given: BaseModel | dict[str, Any]) -> Any:
    run, definition = session.run, session.definition
    data = parse_input(definition, given)
    key = definition.key_for(data)
    if key != run.object_key:
        raise NotPossibleError(
            f"with this input the run would need the key {key!r}, and it has {run.object_key!r}: fork it instead"
        )
    return data.model_dump(mode="json")


def _item(session: Session, given: Any) -> Any:
    """Return the input of a branch with its item replaced; it has no other input of its own."""
    run, step = session.run, session.current.step
    if step.item is None:
        raise NotPossibleError(
            f"{run.branch} has its input from run {run.parent_id}, as its siblings have: complete or skip it, or fork "
            "that run with another input"
        )
    try:
        item = step.item.validate_python(given)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        text = f"this is no item of {step.name}"
        raise InvalidInputError(text, [dict(each) for each in errors]) from None
    return {"item": step.item.dump_python(item, mode="json")}


def send_on(session: Session, waiting_for: WaitingFor = WaitingFor.NOTHING) -> None:
    """Commit that the run goes on; one that gave its key away queues up for it again."""
    run = session.run
    run.recoveries = 0
    if not run.compensating:
        run.error = None
    if take_key(run):
        state = RunState.WAITING if waiting_for else RunState.READY
        session.let_go(state, waiting_for=waiting_for, wake_at=clock.at_once())
    else:
        refuse_cycle(run)
        session.let_go(RunState.WAITING, waiting_for=WaitingFor.KEY, wake_at=None)
    session.commit()
    ring(run)


def refuse_cycle(run: Run) -> None:
    """Refuse to queue for a key that a run holds which waits for this one."""
    try:
        require_no_cycle(run.pk, run.object_key)
    except PermanentError as error:
        raise NotReplayableError(error.message) from None
