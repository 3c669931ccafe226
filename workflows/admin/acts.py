"""What people did, and what proves that the records are as they were."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import quote
from unfold.admin import ModelAdmin
from unfold.decorators import display

from workflows.admin.data import as_words
from workflows.cells import ReadOnly, link
from workflows.models import Act, ArchivedRun, Seal
from workflows.shown import state_of_object


@admin.register(Act)
class ActAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Who did what, to what, and why. Nobody can change or delete an entry."""

    list_display = ("at", "actor", "action", "shown_target", "reason")
    list_filter = ("action",)
    search_fields = ("target", "actor")
    search_help_text = "run:<id>, queue:<name>, key:<key>, or a person"
    ordering = ("-id",)
    fields = readonly_fields = ("at", "actor", "action", "shown_target", "reason", "shown_details")

    @display(description="Details")
    def shown_details(self, act: Act) -> str:
        """Return what else was noted."""
        kind, _, key = act.target.partition(":")
        details = dict(act.details)
        if act.action == "edit_state" and kind == "key":
            for name in ("before", "after"):
                details[name] = state_of_object(key, details.get(name))
        return as_words(details)

    @display(description="Target", ordering="target")
    def shown_target(self, act: Act) -> str:
        """Return what was acted on, linked to its page."""
        kind, _, name = act.target.partition(":")
        view, identifier = {
            "run": ("admin:workflows_run_change", name),
            "bulk": ("admin:workflows_bulkjob_change", name),
            "key": ("admin:workflows_virtualobjectstate_change", quote(name)),
            "queue": ("admin:workflows_limit_change", quote(act.target)),
            "workflow": ("admin:workflows_limit_change", quote(act.target)),
        }.get(kind, ("", ""))
        return link(view, identifier, act.target)


@admin.register(Seal)
class SealAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Merkle roots over the events and acts. Keep a root elsewhere, and no record before it can be altered unnoticed."""

    list_display = ("number", "sealed_at", "event_count", "act_count", "root")
    ordering = ("-number",)

    def get_readonly_fields(self, *_: Any) -> list[str]:
        """Return every field."""
        return [field.name for field in Seal._meta.fields]


@admin.register(ArchivedRun)
class ArchivedRunAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs that were moved into files: where each is, and the end of its history."""

    list_display = ("run_id", "workflow", "state", "finished_at", "file", "archived_at")
    list_filter = ("workflow", "state")
    search_fields = ("run_id", "file")
    ordering = ("-archived_at",)
