"""Asking people whether a run may go on: N different members of a group say yes, or one says no."""

from collections.abc import Collection
from typing import Any

from workflows import clock
from workflows.commands import ApprovalRequest, Approved, CommandError, CommandResult, Operation
from workflows.engine.acts import note_act
from workflows.engine.transactions import in_one_transaction
from workflows.engine.wake import lock_runs, resolve_commands
from workflows.errors import NotPermittedError, NotPossibleError
from workflows.models import Approval, Vote, Wait


def open_approval(command: ApprovalRequest, operation: Operation) -> str:
    approval = Approval.objects.create(
        run_id=operation.run_id,
        operation_id=operation.id,
        group=command.group,
        needed=command.needed,
        show=command.show,
        due_at=command.due(clock.now()),
    )
    return str(approval.pk)


def withdraw_approval(reference: str) -> bool:
    rows = Approval.objects.filter(pk=reference, state=Approval.State.PENDING)
    rows.update(state=Approval.State.WITHDRAWN, decided_at=clock.now())
    return True


@in_one_transaction
def vote(
    approval_id: Any, *, actor: str, groups: Collection[str], approve: bool, reason: str = ""
) -> Approval:
    """Record one person's word; the last one needed decides. A person's second word changes nothing.

    groups: those that the person belongs to. Raises Approval.DoesNotExist, NotPermittedError (not a member),
    NotPossibleError (decided, or the run no longer waits for it).
    """
    # The run that waits first, then the approval: its worker, which withdraws it when its time is over, does so,
    # too. The other way round each would hold what the other one wants.
    asked = Wait.objects.filter(
        kind=ApprovalRequest.kind, reference=str(Approval.objects.get(pk=approval_id).pk)
    )
    lock_runs(set(asked.values_list("run_id", flat=True)))
    approval = Approval.objects.select_for_update().get(pk=approval_id)
    if approval.group not in groups:
        raise NotPermittedError(f"{actor} is not a member of {approval.group}")
    if approval.state != Approval.State.PENDING:
        raise NotPossibleError(f"approval {approval.pk} is {approval.state} already")
    _, new = Vote.objects.get_or_create(
        approval=approval, actor=actor, defaults={"approved": approve, "reason": reason}
    )
    if not new:
        raise NotPossibleError(f"{actor} has voted on approval {approval.pk} already")
    note_act(
        actor,
        "approve" if approve else "reject",
        f"run:{approval.run_id}",
        reason,
        approval=str(approval.pk),
    )
    _decide(approval)
    return approval


def _decide(approval: Approval) -> None:
    votes = list(approval.votes.all())
    against = next((vote for vote in votes if not vote.approved), None)
    if against is None and len(votes) < approval.needed:
        return
    approval.state = Approval.State.APPROVED if against is None else Approval.State.REJECTED
    approval.decided_at = clock.now()
    approval.save(update_fields=["state", "decided_at"])
    if against is None:
        result = CommandResult(value=Approved(by=[vote.actor for vote in votes]).model_dump())
    else:
        text = f"{against.actor} rejected it: {against.reason}"
        result = CommandResult(error=CommandError(code="APPROVAL_REJECTED", message=text))
    resolve_commands(ApprovalRequest.kind, {str(approval.pk): result})
