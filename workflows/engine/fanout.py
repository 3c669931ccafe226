"""Beginning a group of branches, and going on when all of them have ended."""

from typing import Any

from workflows.commands import CommandError
from workflows.engine import branches
from workflows.engine.arguments import select
from workflows.engine.control import STOPPING, stop_branches
from workflows.engine.outcomes import Failed, FannedOut, Joined, Outcome, StillWaiting, missing
from workflows.engine.plan import ITEMS_MAX, find_operation, operation_id
from workflows.engine.session import Session
from workflows.errors import PermanentError
from workflows.models import Step
from workflows.states import StepState
from workflows.steps import StepDefinition


def fan_out(session: Session) -> Outcome:
    """Make the branches of the current group, those that are missing; nothing to wait for where there is no item."""
    wanted: list[tuple[StepDefinition, int, Any]] = []
    for step in session.definition.members(session.current.position):
        if step.each is None:
            wanted.append((step, 0, None))
        elif step.when and not select(session, step, step.when):
            session.touch(_skipped_row(session, step))
        else:
            wanted += [(step, index, item) for index, item in enumerate(_items(session, step))]
    return FannedOut(branches.make_branches(session, wanted)) if wanted else Joined()


def _items(session: Session, step: StepDefinition) -> list[Any]:
    assert step.each is not None
    assert step.item is not None
    items = [step.item.dump_python(item, mode="json") for item in select(session, step, step.each)]
    if len(items) > ITEMS_MAX:
        raise PermanentError("EACH_TOO_LARGE", f"{step.name}: {len(items):,} items, at most {ITEMS_MAX:,}")
    return items


def _skipped_row(session: Session, step: StepDefinition) -> Step:
    planned = find_operation(session.definition, operation_id(step.name))
    assert planned is not None
    return Step(
        run_id=session.run.pk,
        operation_id=planned.operation_id,
        name=step.name,
        seq=planned.seq,
        state=StepState.SKIPPED,
        finished_at=session.claim.now(),
    )


def join(session: Session) -> Outcome:
    """Return how the group ended, once no branch of it is unfinished."""
    if not branches.is_over(session.run.pk):
        if session.control in STOPPING:
            stop_branches(session.run)
        return StillWaiting()
    ends = branches.ends_of(session)
    if ends.missing:
        return missing(
            f"{ends.missing} of its branches are not in the database any more: restore them, then replay"
        )
    session.chain.add(
        "branches_ended", session.claim.now(), step=session.current.operation_id, outcomes=ends.digest
    )
    if ends.error is not None:
        return Failed(ends.error)
    if ends.stopped is not None and session.control not in STOPPING:
        return Failed(CommandError(code="BRANCH_STOPPED", message=f"{ends.stopped} was stopped"))
    return Joined()
