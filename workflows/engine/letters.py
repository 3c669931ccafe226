"""Dead letters as people see them: taking one, for one of several who decide at once, and the groups of those alike.

Locks are taken in the order parent, run, dead letter, as by everybody else who stops runs. A decision is one
transaction: afterwards the letter is resolved and the run goes on or has ended, or nothing has happened.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Max, Min, OuterRef, Q, QuerySet, Subquery

from workflows.clock import db_now
from workflows.definition import Definition, find_definition
from workflows.engine import migration
from workflows.engine.plan import find_operation
from workflows.engine.session import Session
from workflows.errors import NotReplayableError
from workflows.leases import Claim, claim
from workflows.models import DeadLetter, Run
from workflows.states import TERMINAL, DeadLetterState, RunState

DECISION_SECONDS = 30


def take_letter(dead_letter_id: Any, resolution: str, actor: str, reason: str) -> Claim[Run]:
    """Resolve a dead letter and claim its run, within the transaction of the caller, who notes the act.

    Raises DeadLetter.DoesNotExist, or NotReplayableError when somebody was faster or is the same person's second click.
    """
    letter = DeadLetter.objects.select_related("run").get(pk=dead_letter_id)
    if letter.run.branch:
        lock_run(letter.run.parent_id)
    run = lock_run(letter.run_id)
    open_one = DeadLetter.objects.filter(pk=letter.pk, state=DeadLetterState.OPEN)
    if resolve(open_one, resolution, actor, reason) == 0:
        raise _not_open(letter, run)
    held = claim(Run, run.pk, DECISION_SECONDS, where=Q(state=RunState.DEAD_LETTER))
    if held is None:
        raise NotReplayableError(f"run {run.pk} is {run.state}, not waiting for a person")
    return held


def lock_run(run_id: Any) -> Run:
    """Keep others from changing the run. Not from inserting rows that refer to it: its branches do that all the time."""
    return Run.objects.select_for_update(no_key=True).get(pk=run_id)


def _not_open(letter: DeadLetter, run: Run) -> NotReplayableError:
    letter.refresh_from_db()
    text = f"dead letter {letter.pk} was resolved already: {letter.resolution} by {letter.resolved_by}"
    if run.state in TERMINAL:
        text += f"; run {run.pk} has ended {run.state}: to do it again, fork it from one of its steps"
    return NotReplayableError(text)


def resolve(letters: "QuerySet[DeadLetter]", resolution: str, actor: str, reason: str) -> int:
    return letters.update(
        state=DeadLetterState.RESOLVED,
        resolution=resolution,
        resolved_by=actor[:100],
        note=reason,
        resolved_at=db_now(),
    )


def resolve_letters(run: Run, resolution: str, actor: str, reason: str) -> int:
    """Close the run's open dead letter, if it has one."""
    return resolve(DeadLetter.objects.filter(run=run, state=DeadLetterState.OPEN), resolution, actor, reason)


def open_session(held: Claim[Run]) -> Session:
    """Return a stopped run as a worker would have it, with the newest definition. Raises NotReplayableError."""
    run, definition = held.row, definition_for(held.row)
    session = Session(held, definition)
    migration.migrate(run, definition, session.chain, held.now())
    return session


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


@dataclass(frozen=True)
class LetterGroup:
    """Dead letters that are one trouble: how many, since when, and the newest of them."""

    fingerprint: str
    count: int
    first_at: datetime
    last_at: datetime
    sample: DeadLetter


def grouped_letters(letters: "QuerySet[DeadLetter] | None" = None, *, limit: int = 100) -> list[LetterGroup]:
    """Return the groups of the dead letters (of the open ones by default), the largest first."""
    rows = DeadLetter.objects.filter(state=DeadLetterState.OPEN) if letters is None else letters
    alike = rows.filter(fingerprint=OuterRef("fingerprint")).order_by("-id")
    found = (
        rows.order_by()
        .values("fingerprint")
        .annotate(count=Count("id"), first_at=Min("created_at"), last_at=Max("created_at"))
        .annotate(sample=Subquery(alike.values("id")[:1]))
        .order_by("-count", "fingerprint")[:limit]
    )
    return _with_samples(list(found))


def _with_samples(found: Iterable[dict[str, Any]]) -> list[LetterGroup]:
    samples = DeadLetter.objects.in_bulk([group["sample"] for group in found])
    return [LetterGroup(**{**group, "sample": samples[group["sample"]]}) for group in found]
