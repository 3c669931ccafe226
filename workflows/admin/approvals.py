"""Approvals: the questions that runs ask people."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from workflows import vote
from workflows.admin.acting import Acting
from workflows.cells import ReadOnly, badge, code_block, link
from workflows.models import Approval


@admin.register(Approval)
class ApprovalAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What waits for somebody's yes. Members of the group decide, nobody else, an administrator neither."""

    list_display = ("shown_what", "group", "shown_state", "shown_votes", "due_at", "created_at")
    list_filter = ("state", "group")
    ordering = ("-id",)
    list_select_related = ("run",)
    actions_detail = ("approve", "reject")
    fields = readonly_fields = (
        "shown_state", "shown_run", "operation_id", "group", "needed", "shown_votes", "shown_show", "due_at",
        "created_at", "decided_at",
    )  # fmt: skip

    @display(description="Asked by")
    def shown_what(self, approval: Approval) -> str:
        """Return workflow and step."""
        return f"{approval.run.workflow}, {approval.operation_id}"

    @display(description="Run")
    def shown_run(self, approval: Approval) -> str:
        """Return a link to the run."""
        return link("admin:workflows_run_change", approval.run_id, str(approval.run))

    @display(description="State", ordering="state")
    def shown_state(self, approval: Approval) -> str:
        """Return the state, coloured."""
        return badge(approval.state)

    @display(description="Votes")
    def shown_votes(self, approval: Approval) -> str:
        """Return who has said what."""
        rows = ((vote.actor, "yes" if vote.approved else "no", vote.reason) for vote in approval.votes.all())
        said = format_html_join("", "<div><b>{}</b> {} {}</div>", rows)
        return said or f"none of {approval.needed}"

    @display(description="To look at")
    def shown_show(self, approval: Approval) -> str:
        """Return what the step shows to those who decide."""
        return code_block(approval.show)

    def has_vote_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person belongs to the group that is asked."""
        pending = Approval.objects.filter(pk=object_id, state=Approval.State.PENDING).first()
        return pending is not None and pending.group in _groups(request)

    @action(description="Approve", url_path="approve", icon="thumb_up", permissions=["vote"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say yes."""

        def act(approval_id: Any, *, actor: str, reason: str) -> None:
            vote(approval_id, actor=actor, groups=_groups(request), approve=True, reason=reason)

        return self.ask(
            request, object_id, "Approve", "The run goes on once enough people have said yes.", act
        )

    @action(description="Reject", url_path="reject", icon="thumb_down", permissions=["vote"])
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say no."""

        def act(approval_id: Any, *, actor: str, reason: str) -> None:
            vote(approval_id, actor=actor, groups=_groups(request), approve=False, reason=reason)

        text = "One no is enough: the run fails at this step, and undoes what it has done."
        return self.ask(request, object_id, "Reject", text, act, danger=True)


def _groups(request: HttpRequest) -> set[str]:
    return set(request.user.groups.values_list("name", flat=True)) if request.user.is_authenticated else set()
