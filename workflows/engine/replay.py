"""Letting a person send a stopped run on its way again."""

from typing import Any

from django.db import transaction
from django.db.models import F

from workflows.clock import db_now
from workflows.definition import Definition, find_definition
from workflows.doorbell import ring
from workflows.engine import migration
from workflows.engine.acts import note_act
from workflows.engine.control import resolve_letters
from workflows.engine.keys import take_key
from workflows.engine.plan import find_operation
from workflows.errors import NotReplayableError
from workflows.history import Chain
from workflows.leases import Claim, claim, release
from workflows.models import DeadLetter, Run, Step, Wait
from workflows.states import DeadLetterState, RunState, StepState, WaitingFor, WaitState


def replay_dead_letter(dead_letter_id: Any, *, actor: str, reason: str) -> DeadLetter:
    """Try the stopped operation again, with its attempts counted anew. Who did it and why goes into the history.

    Raises DeadLetter.DoesNotExist, or NotReplayableError when somebody has dealt with it already (so a double click
    replays once) or the workflow has lost steps that this run has behind it.
    """
    with transaction.atomic():
        letter, held = take_letter(dead_letter_id, "replay", actor, reason)
        run = held.row
        definition = definition_for(run)
        chain = Chain(run)
        chain.add("dead_letter_replayed", held.now(), step=letter.operation_id, actor=actor, reason=reason)
        waiting_for = WaitingFor.NOTHING
        for row in Step.objects.filter(run_id=run.home_id, operation_id=letter.operation_id):  # type: ignore[misc]
            resumes = _resumes(run, row)
            waiting_for = WaitingFor.COMMAND if resumes else WaitingFor.NOTHING
            state = StepState.WAITING if resumes else StepState.PENDING
            Step.objects.filter(pk=row.pk).update(state=state, attempts_forgiven=F("attempt"))
        if letter.operation_id.endswith("*"):
            waiting_for = WaitingFor.NOTHING  # its branches that are there are not made again
        send_on(
            held,
            chain,
            waiting_for=waiting_for,
            fingerprint=definition.fingerprint,
            version=definition.version,
            error=F("error") if run.compensating else None,
        )
    letter.refresh_from_db()
    return letter


def take_letter(
    dead_letter_id: Any, resolution: str, actor: str, reason: str
) -> tuple[DeadLetter, Claim[Run]]:
    """Resolve a dead letter and claim its run, for one of several who may decide at once. Raises NotReplayableError."""
    letter = DeadLetter.objects.select_related("run").get(pk=dead_letter_id)
    if letter.state != DeadLetterState.OPEN or resolve_letters(letter.run, resolution, actor, reason) == 0:
        letter.refresh_from_db()
        raise NotReplayableError(
            f"dead letter {letter.pk} was resolved already ({letter.resolution or 'just now'})"
        )
    held = claim(Run, letter.run_id, 30)
    if held is None or held.row.state != RunState.DEAD_LETTER:
        raise NotReplayableError(f"run {letter.run_id} is {letter.run.state}, not waiting for a person")
    note_act(actor, resolution, f"run:{letter.run_id}", reason, dead_letter=str(letter.pk))
    return letter, held


def send_on(held: Claim[Run], chain: Chain, **columns: Any) -> None:
    """Let the run go on; one that gave its key away queues up for it again."""
    run = held.row
    chain.save()
    state = RunState.COMPENSATING if run.compensating else RunState.READY
    values: dict[str, Any] = {
        "state": state,
        "waiting_for": WaitingFor.NOTHING,
        "wake_at": db_now(),
        **columns,
    }
    if values["waiting_for"] and not run.compensating:
        values["state"] = RunState.WAITING
    if not take_key(run):
        values |= {"state": RunState.WAITING, "waiting_for": WaitingFor.KEY, "wake_at": None}
    release(held, recoveries=0, **values, **chain.head())
    ring(run)


def _resumes(run: Run, row: Step) -> bool:
    """Tell whether commands of the last attempt are under way or have succeeded: asking again would do it twice."""
    waits = Wait.objects.filter(run=run, operation_id=row.operation_id, attempt=row.attempt)
    states = set(waits.values_list("state", flat=True))
    return bool(states) and WaitState.FAILED not in states


def definition_for(run: Run) -> Definition:
    """Return the definition with which the run would go on. Raises NotReplayableError when there is none that suits it."""
    definition = find_definition(run.workflow)
    if definition is None:
        raise NotReplayableError(f"no workflow named {run.workflow!r} is known here; deploy it first")
    if run.fingerprint == definition.fingerprint and find_operation(definition, run.operation):
        return definition
    why = migration.obstacle(run, definition)
    if why is not None:
        raise NotReplayableError(f"{run.workflow} does not suit this run: {why}")
    return definition
