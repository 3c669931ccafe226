"""What runs wait for, and ending it from the test."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_jsonable_python

from workflows.commands import Approved, Child, CommandError, CommandResult
from workflows.engine.approvals import vote
from workflows.engine.signals import COMPLETION, send_signal
from workflows.engine.wake import resolve_commands
from workflows.models import Approval, Run, Wait
from workflows.states import WaitState


@dataclass(frozen=True)
class PendingWait:
    """One command that a run, or one of its branches, waits for."""

    step: str
    operation: str
    kind: str
    reference: str
    index: int
    due_at: datetime | None
    run: Run

    def __str__(self) -> str:
        match self.kind:
            case "sleep":
                return f"{self.step} (sleeps until {self.due_at:%Y-%m-%d %H:%M:%S} UTC)"
            case "signal":
                return f"{self.step} (signal {self.signal!r})"
            case "approval":
                asked = Approval.objects.get(pk=self.reference)
                return f"{self.step} (approval by {asked.group!r}, {asked.votes.count()} of {asked.needed} given)"
        return f"{self.step} ({self.kind} {self.reference})"

    @property
    def signal(self) -> str:
        return self.reference.partition("/")[2]


def pending_waits(run: Run) -> list[PendingWait]:
    """Return what the run and its branches wait for now, in the order of their steps' commands."""
    run.refresh_from_db()
    holders = [run, *Run.objects.filter(parent=run, finished_at__isnull=True).exclude(branch="")]
    current = {(each.pk, each.operation, each.attempt) for each in holders}
    waits = Wait.objects.filter(run__in=holders, state=WaitState.PENDING).select_related("run").order_by("id")
    return [
        PendingWait(
            wait.operation_id.partition("#")[0],
            wait.operation_id,
            wait.kind,
            wait.reference,
            wait.index,
            wait.due_at,
            wait.run,
        )
        for wait in waits
        if (wait.run_id, wait.operation_id, wait.attempt) in current
    ]


def find_wait(run: Run, step: str, index: int | None = None) -> PendingWait:
    """Return what a step (`pay`) or operation (`charge#3`) waits for; of several the first that is no sleep."""
    pending = pending_waits(run)
    mine = [each for each in pending if step in (each.step, each.operation) and index in (None, each.index)]
    if not mine:
        place = step if index is None else f"{step}, command {index}"
        there = "; ".join(map(str, pending)) or "nothing"
        raise AssertionError(f"{run.workflow} doesn't wait at {place}: {standing(run)}, pending: {there}")
    return next((each for each in mine if each.kind != "sleep"), mine[0])


def standing(run: Run) -> str:
    """Return in words how far a run has come, and what went wrong last."""
    text = f"it is {run.state} at {run.operation}"
    last = run.steps.filter(operation_id=run.operation).values_list("error", flat=True).first() or run.error
    return f"{text} ({last['code']}: {last['message']})" if last else text


def answer_wait(wait: PendingWait, value: Any) -> None:
    """End a command as whoever carries it out would; a CommandError as value lets it fail."""
    failed = value if isinstance(value, CommandError) else None
    plain = None if failed else to_jsonable_python(value)
    if wait.kind == "approval":
        _vote(wait, plain, failed)
    elif wait.kind == "signal":
        _signal(wait, plain, failed)
    elif wait.kind == "sleep":
        raise AssertionError(f"{wait}: a sleep ends by the clock, t.advance(…)")
    elif wait.kind == Child.kind:
        raise AssertionError(f"{wait}: answer what that run waits for; t.children(run) gives it")
    else:
        resolve_commands(wait.kind, {wait.reference: CommandResult(value=plain, error=failed)})


def _vote(wait: PendingWait, value: Any, failed: CommandError | None) -> None:
    if failed:
        cast_vote(wait, by="somebody", approve=False, reason=failed.message)
        return
    for actor in Approved.model_validate(value).by:
        cast_vote(wait, by=actor, approve=True)


def cast_vote(wait: PendingWait, *, by: str, approve: bool, reason: str = "") -> None:
    """Have a member of the group say yes or no."""
    if wait.kind != "approval":
        raise AssertionError(f"{wait} is no approval")
    group = Approval.objects.get(pk=wait.reference).group
    vote(wait.reference, actor=by, groups=[group], approve=approve, reason=reason)


def _signal(wait: PendingWait, value: Any, failed: CommandError | None) -> None:
    home = wait.reference.partition("/")[0]
    if wait.signal.startswith(COMPLETION):
        payload = {"value": value, "error": failed.model_dump() if failed else None}
        send_signal(home, wait.signal, payload, dedup_id="completion")
    elif failed:
        raise AssertionError(f"{wait}: a signal doesn't fail; it can be late, t.advance(…)")
    else:
        send_signal(home, wait.signal, value)
