"""Approvals: the questions that runs ask people."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from workflows import vote
from workflows.admin.acting import Acting, row_at
from workflows.admin.data import as_words
from workflows.cells import ReadOnly, badge, link
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
        "shown_state", "shown_who", "shown_show", "shown_votes", "shown_run", "operation_id", "due_at", "created_at",
        "decided_at",
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
        said = format_html_join("", "<div><b>{}</b> says {}: {}</div>", rows)
        yes = sum(vote.approved for vote in approval.votes.all())
        return format_html("{} of {} said yes{}", yes, approval.needed, said)

    @display(description="To look at")
    def shown_show(self, approval: Approval) -> str:
        """Return what the step shows to those who decide."""
        return as_words(approval.show)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Approval]:
        """Return approvals with their votes."""
        return super().get_queryset(request).prefetch_related("votes")  # type: ignore[no-any-return]

    @display(description="Who decides")
    def shown_who(self, approval: Approval) -> str:
        """Return whose word counts, and how many of them it takes."""
        people = "member" if approval.needed == 1 else "members"
        return (
            f"{approval.needed} {people} of the group {approval.group}; one no ends it. "
            "Who is not of the group sees no buttons; an administrator neither."
        )

    def has_vote_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person belongs to the group that is asked."""
        pending = row_at(Approval, object_id).filter(state=Approval.State.PENDING).first()
        return pending is not None and pending.group in _groups(request)

    @action(description="Approve", url_path="approve", icon="thumb_up", permissions=["vote"])
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say yes."""

        def act(approval_id: Any, *, actor: str, reason: str) -> None:
            vote(approval_id, actor=actor, groups=_groups(request), approve=True, reason=reason)

        text = "The run goes on once enough people have said yes."
        return self.ask(request, object_id, "Approve", text, act, facts=self._facts(request, object_id))

    @action(description="Reject", url_path="reject", icon="thumb_down", permissions=["vote"])
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Say no."""

        def act(approval_id: Any, *, actor: str, reason: str) -> None:
            vote(approval_id, actor=actor, groups=_groups(request), approve=False, reason=reason)

        text = "One no is enough: the run fails at this step, and undoes what it has done."
        facts = self._facts(request, object_id)
        return self.ask(request, object_id, "Reject", text, act, danger=True, facts=facts)

    def _facts(self, request: HttpRequest, object_id: str) -> list[tuple[str, str]]:
        """Return what is decided about."""
        approval = self.row(request, object_id)
        return [
            ("Asked by", f"{approval.run}, {approval.operation_id}"),
            ("To look at", as_words(approval.show)),
            ("Votes", self.shown_votes(approval)),
        ]


def _groups(request: HttpRequest) -> set[str]:
    return set(request.user.groups.values_list("name", flat=True)) if request.user.is_authenticated else set()
