"""The shapes of workflows that runs were started with."""

from django.contrib import admin
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.html import format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import display

from workflows.cells import ReadOnly
from workflows.definition import find_definition
from workflows.models import DefinitionRecord, Run


@admin.register(DefinitionRecord)
class DefinitionAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Each definition that was ever started: its steps, whether this code has it, and how many runs still need it."""

    list_display = ("workflow", "version", "shown_current", "shown_live", "first_seen_at")
    list_filter = ("workflow",)
    ordering = ("workflow", "-first_seen_at")
    fields = readonly_fields = (
        "workflow", "version", "fingerprint", "shown_current", "shown_live", "shown_steps", "first_seen_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[DefinitionRecord]:
        """Return definitions, each with how many runs are pinned to it."""
        live = Run.objects.filter(finished_at__isnull=True, fingerprint=OuterRef("pk")).order_by()
        count = live.values("fingerprint").annotate(n=Count("pk")).values("n")
        return super().get_queryset(request).annotate(live=Subquery(count))  # type: ignore[no-any-return]

    @display(description="This code")
    def shown_current(self, record: DefinitionRecord) -> str:
        """Return whether it is the definition of the code that answers."""
        definition = find_definition(record.workflow)
        if definition is None:
            return "has no workflow of this name"
        return "has it" if definition.fingerprint == record.fingerprint else "has another version of it"

    @display(description="Live runs")
    def shown_live(self, record: DefinitionRecord) -> int:
        """Return how many runs are pinned to it."""
        return getattr(record, "live", None) or 0

    @display(description="Steps")
    def shown_steps(self, record: DefinitionRecord) -> str:
        """Return the steps in their order."""
        rows = (
            (
                step["name"],
                step["effect"],
                " for each item" if step.get("each") else "",
                " in parallel" if step.get("parallel") else "",
                f", undone by {step['undo']}" if step.get("undo") else "",
                step["queue"],
            )
            for step in record.shape
        )
        return format_html_join("", "<div><b>{}</b> {}{}{}{} on {}</div>", rows) or "-"
