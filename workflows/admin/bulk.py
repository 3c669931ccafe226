"""Bulk jobs: a frozen list of dead letters, worked off, with what became of each."""

from typing import Any

from django.contrib import admin
from django.db.models import Case, Count, OuterRef, QuerySet, Subquery, When
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display

from workflows import stop_bulk
from workflows.admin.acting import Acting, row_at
from workflows.admin.runs import may_change
from workflows.cells import ReadOnly, badge, link
from workflows.models import BulkItem, BulkJob

# What an item's state means, in the order in which people want to know.
WORDS = {
    "FAILED": "refused (see why below; each stays open)",
    "SKIPPED": "decided by somebody else",
    "DONE": "done",
    "PENDING": "to go",
}


class ItemRows(ReadOnly, TabularInline):  # type: ignore[misc]
    """What became of each; those that did not go well first."""

    model = BulkItem
    fields = readonly_fields = ("shown_letter", "shown_state", "detail", "done_at")
    per_page = 50
    extra = 0
    hide_title = True
    verbose_name_plural = "Dead letters in the list"

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkItem]:
        """Return the items: first those that were refused, then those that somebody else had dealt with."""
        order = Case(
            When(state="FAILED", then=0), When(state="SKIPPED", then=1), When(state="DONE", then=2), default=3
        )
        return super().get_queryset(request).order_by(order, "id")  # type: ignore[no-any-return]

    @display(description="Dead letter")
    def shown_letter(self, item: BulkItem) -> str:
        """Return a link to it."""
        return link("admin:workflows_deadletter_change", item.dead_letter_id, str(item.dead_letter_id))

    @display(description="Outcome")
    def shown_state(self, item: BulkItem) -> str:
        """Return the outcome, coloured."""
        return badge(item.state)


@admin.register(BulkJob)
class BulkJobAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Decisions about many dead letters at once."""

    list_display = ("shown_job", "shown_state", "shown_progress", "actor", "reason", "created_at")
    ordering = ("-id",)
    inlines = (ItemRows,)
    actions_detail = ("stop",)
    fields = readonly_fields = (
        "shown_state", "action", "shown_progress", "actor", "reason", "per_second", "created_at", "finished_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkJob]:
        """Return jobs, each with how many of its items ended how."""
        items = BulkItem.objects.filter(job=OuterRef("pk")).order_by()
        counts = {
            f"{state.lower()}_count": Subquery(
                items.filter(state=state).values("job").annotate(n=Count("pk")).values("n")
            )
            for state in BulkItem.State.values
        }
        return super().get_queryset(request).annotate(**counts)  # type: ignore[no-any-return]

    @display(description="What")
    def shown_job(self, job: BulkJob) -> str:
        """Return the act and its list's length."""
        return str(job).capitalize()

    @display(description="State")
    def shown_state(self, job: BulkJob) -> str:
        """Return the state, coloured."""
        return badge(job.state)

    @display(description="Progress")
    def shown_progress(self, job: BulkJob) -> str:
        """Return how many ended how."""
        counts = {state: getattr(job, f"{state.lower()}_count", None) or 0 for state in WORDS}
        if not job.total:
            return "the list is empty"
        dealt = job.total - counts["PENDING"]
        said = ", ".join(f"{count} {WORDS[state]}" for state, count in counts.items() if count)
        left = "stopped before" if job.state == BulkJob.State.STOPPED else "to go"
        return f"{dealt} of {job.total} ({100 * dealt // job.total} %): {said.replace('to go', left)}"

    def has_stop_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is under way."""
        return may_change(request) and row_at(BulkJob, object_id).filter(state="RUNNING").exists()

    @action(description="Stop", url_path="stop", icon="stop", permissions=["stop"])
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Leave the rest of the list alone."""
        return self.ask(
            request, object_id, "Stop the job", "What is done stays done; the rest is left alone.", stop_bulk
        )
