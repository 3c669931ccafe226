"""Bulk jobs: a frozen list of dead letters, worked off, with what became of each."""

from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display

from workflows import stop_bulk
from workflows.admin.acting import Acting
from workflows.admin.runs import may_change
from workflows.cells import ReadOnly, badge, link
from workflows.models import BulkItem, BulkJob


class ItemRows(ReadOnly, TabularInline):  # type: ignore[misc]
    """What became of each; those that did not go well first."""

    model = BulkItem
    fields = readonly_fields = ("shown_letter", "shown_state", "detail", "done_at")
    ordering = ("-state", "id")
    per_page = 50
    extra = 0
    verbose_name_plural = "Dead letters in the list"

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

    @display(description="What")
    def shown_job(self, job: BulkJob) -> str:
        """Return the act and its list's length."""
        return f"{job.action} {job.total}"

    @display(description="State")
    def shown_state(self, job: BulkJob) -> str:
        """Return the state, coloured."""
        return badge(job.state)

    @display(description="Progress")
    def shown_progress(self, job: BulkJob) -> str:
        """Return how many ended how."""
        counts = dict(job.items.values_list("state").annotate(n=Count("pk")).order_by())
        return ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items())) or "empty"

    def has_stop_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is under way."""
        return may_change(request) and BulkJob.objects.filter(pk=object_id, state="RUNNING").exists()

    @action(description="Stop", url_path="stop", icon="stop", permissions=["stop"])
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Leave the rest of the list alone."""
        return self.ask(
            request, object_id, "Stop the job", "What is done stays done; the rest is left alone.", stop_bulk
        )
