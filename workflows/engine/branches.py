"""Doing several things at once: parallel steps, and a step for each item of a list.

Each is a *branch*: a run of its own that carries out one operation of its parent and writes the outcome there. So it is
claimed, retried, parked and recovered like any other. The parent goes on when no unfinished branch is left: a question
about a set, asked after each branch's commit and by the sweeper, so that nothing is counted down and nothing is missed.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef

from workflows.clock import at_once, db_now, now
from workflows.commands import CommandError
from workflows.crashpoints import crashpoint
from workflows.doorbell import ring, send_some
from workflows.engine.plan import find_operation
from workflows.engine.session import Session
from workflows.engine.unbegun import unbegun
from workflows.history import Chain, output_digest
from workflows.ids import uuid7
from workflows.models import Event, Run, Step
from workflows.states import RunState, StepState, WaitingFor
from workflows.steps import StepDefinition

crashpoint.register("engine.branching", "some of the branches are committed, others not yet")

CHUNK = 1000
RING_FIRST = 32  # of each queue; the others are taken up by those who have finished one


def make_branches(session: Session, wanted: "list[tuple[StepDefinition, int, Any]]") -> int:
    """Insert a run for each (step, index, item) that has none yet; return how many there are."""
    parent = session.run
    mine = Run.objects.filter(parent=parent).exclude(branch="")
    present = set(mine.values_list("branch", flat=True))  # a worker died while it made them
    missing = [each for each in wanted if f"{each[0].name}#{each[1]}" not in present]
    rest = iter(missing)
    while chunk := list(islice(rest, CHUNK)):
        rows = [_branch(session, *each) for each in chunk]
        events = [event for run in rows for event in _begin(run)]
        with transaction.atomic():
            session.lock()
            Run.objects.bulk_create(rows)
            Event.objects.bulk_create(events)
        crashpoint("engine.branching")
    return len(wanted)


def _branch(session: Session, step: StepDefinition, index: int, item: Any) -> Run:
    parent, at = session.run, now()
    stored = {"item": item} if step.each else {}
    return Run(
        id=uuid7(),
        workflow=parent.workflow,
        version=parent.version,
        fingerprint=parent.fingerprint,
        queue=step.queue,
        priority=parent.priority,
        operation=f"{step.name}#{index}",
        branch=f"{step.name}#{index}",
        parent=parent,
        input=stored,
        input_hash=output_digest(stored),
        scope=parent.scope,
        correlation_id=parent.correlation_id,
        position=parent.position,
        created_at=at,
        wake_at=at_once(),
    )


def _begin(run: Run) -> list[Event]:
    chain = Chain(run)
    chain.add(
        "branch_started",
        run.created_at,
        parent=str(run.parent_id),
        operation=run.branch,
        input=run.input_hash,
    )
    run.history_seq, run.history_hash = chain.seq, chain.hash
    return chain.take()


def ring_branches(session: Session) -> None:
    """Send some of the branches on their way, on each of their queues; whoever finishes one takes up the next."""
    planned = find_operation(session.definition, session.run.operation)
    assert planned is not None
    for queue in {step.queue for step in session.definition.members(planned.position)}:
        send_some(list(unbegun(session.run.pk).filter(queue=queue)[:RING_FIRST]))


def is_over(parent_id: Any) -> bool:
    """Tell whether no branch of the run is unfinished."""
    return not Run.objects.filter(parent_id=parent_id, finished_at__isnull=True).exclude(branch="").exists()


def join_branches(parent_id: Any) -> int:
    """Wake the parent if it waits for branches and none is left; to be called after a branch's end is committed."""
    return _wake(Run.objects.filter(pk=parent_id))


def join_forgotten(limit: int = 500) -> int:
    """Wake the parents whose last branch ended without telling: its worker died just then. For the sweeper."""
    return _wake(Run.objects.filter(finished_at__isnull=True), limit)


def _wake(parents: Any, limit: int = 1) -> int:
    unfinished = Run.objects.filter(parent=OuterRef("pk"), finished_at__isnull=True).exclude(branch="")
    waiting = parents.filter(waiting_for=WaitingFor.BRANCHES, wake_at__isnull=True, lease_until__isnull=True)
    found = list(waiting.filter(~Exists(unfinished))[:limit])
    woken = 0
    for parent in found:
        rows = Run.objects.filter(
            pk=parent.pk, waiting_for=WaitingFor.BRANCHES, wake_at__isnull=True, lease_until__isnull=True
        )
        if rows.update(wake_at=db_now()):
            woken += 1
            ring(parent)
    return woken


@dataclass(frozen=True)
class Ends:
    """How the branches of a group ended: the digest of all, the first error, the first that was stopped, how many are gone."""

    digest: str
    error: CommandError | None
    stopped: str | None
    missing: int


def ends_of(session: Session) -> Ends:
    """Return how the branches of the current group ended."""
    members = {step.name for step in session.definition.members(session.current.position)}
    digest, present, stopped = hashlib.sha256(), 0, None
    for branch, state, head in _ended(session.run, members):
        present += 1
        digest.update(f"{branch} {state} {head}\n".encode())
        if state != RunState.SUCCEEDED:
            stopped = stopped or branch
    rows = Step.objects.filter(run=session.run, name__in=members, state=StepState.FAILED)
    failed = rows.filter(error__isnull=False).order_by("seq").first()
    error = CommandError.model_validate(failed.error) if failed else None
    return Ends(digest.hexdigest(), error, stopped, max(_made(session) - present, 0))


def _made(session: Session) -> int:
    """Return how many branches the current group has, by the run's history."""
    made = Event.objects.filter(
        run=session.run, kind="step_branched", data__step=session.current.operation_id
    )
    return made.order_by("-seq").values_list("data__branches", flat=True).first() or 0


def _ended(parent: Run, members: set[str]) -> Iterator[tuple[str, str, str]]:
    children = Run.objects.filter(parent=parent).exclude(branch="").order_by("branch")
    for branch, state, head in children.values_list("branch", "state", "history_hash").iterator(2000):
        if branch.partition("#")[0] in members:
            yield branch, state, head
