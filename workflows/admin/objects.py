"""Virtual objects: who holds each, who waits behind, and its state."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from workflows import clock, edit_state, pause_scope, resume_scope, skip_head
from workflows.admin.acting import Acting, ValueForm
from workflows.admin.runs import may_change
from workflows.cells import ReadOnly, badge, code_block, link
from workflows.engine.keys import inbox
from workflows.models import Limit, Run, VirtualObjectState

SHOWN = 20


@admin.register(VirtualObjectState)
class VirtualObjectAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Keys: one run at a time holds each, the others queue up behind it."""

    list_display = ("key", "shown_holder", "shown_held", "shown_waiting")
    search_fields = ("key",)
    list_select_related = ("holder",)
    actions_detail = ("pause", "resume", "skip", "edit")
    fields = readonly_fields = (
        "key", "shown_holder", "shown_held", "shown_paused", "shown_queue", "version", "shown_object_state",
    )  # fmt: skip

    @display(description="Held by")
    def shown_holder(self, key: VirtualObjectState) -> str:
        """Return a link to the run that holds it."""
        holder = key.holder
        if holder is None:
            return "nobody"
        text = f"{holder.workflow} {holder.pk}"
        return format_html_join(
            " ", "{}", [(link("admin:workflows_run_change", holder.pk, text),), (badge(holder.state),)]
        )

    @display(description="For")
    def shown_held(self, key: VirtualObjectState) -> str:
        """Return how long it has been held."""
        return timesince(key.held_since, clock.now()) if key.held_since else "-"

    @display(description="Waiting")
    def shown_waiting(self, key: VirtualObjectState) -> int:
        """Return how many wait for it."""
        return int(inbox(key.key).count())

    @display(description="Paused")
    def shown_paused(self, key: VirtualObjectState) -> str:
        """Return who has paused it, and why."""
        limit = Limit.objects.filter(pk=f"key:{key.key}", paused=True).first()
        return f"by {limit.changed_by}: {limit.reason}" if limit else "no"

    @display(description="Waiting behind it")
    def shown_queue(self, key: VirtualObjectState) -> str:
        """Return the runs that wait for the key, the next one first."""
        waiting: QuerySet[Run] = inbox(key.key)
        rows = [
            (link("admin:workflows_run_change", run.pk, f"{run.workflow} {run.pk}"),)
            for run in waiting[:SHOWN]
        ]
        more = waiting.count() - len(rows)
        if more > 0:
            rows.append((f"and {more} more",))
        return format_html_join("", "<div>{}</div>", rows) or "-"

    @display(description="State")
    def shown_object_state(self, key: VirtualObjectState) -> str:
        """Return the state."""
        return code_block(key.state)

    def has_change_key_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may act on virtual objects."""
        return may_change(request)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["change_key"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let nobody go on with it."""

        def act(key: str, *, actor: str, reason: str) -> None:
            pause_scope(f"key:{self._key(key)}", actor=actor, reason=reason)

        text = "Whoever holds it stops at the next step; those who wait keep their places."
        return self.ask(request, object_id, "Pause the object", text, act)

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["change_key"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let its runs go on."""

        def act(key: str, *, actor: str, reason: str) -> None:
            resume_scope(f"key:{self._key(key)}", actor=actor, reason=reason)

        return self.ask(request, object_id, "Resume the object", "Its runs go on where they were.", act)

    @action(description="Skip the next", url_path="skip", icon="skip_next", permissions=["change_key"])
    def skip(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Cancel the first that waits."""

        def act(key: str, *, actor: str, reason: str) -> None:
            skip_head(self._key(key), actor=actor, reason=reason)

        text = "The first of the runs that wait is cancelled; the one that holds the object is left alone."
        return self.ask(request, object_id, "Skip the next", text, act, danger=True)

    @action(description="Edit the state", url_path="edit", icon="edit", permissions=["change_key"])
    def edit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Replace the state."""
        row = VirtualObjectState.objects.get(pk=self._key(object_id))
        form = ValueForm(request.POST or None, initial={"value": row.state})

        def act(key: str, *, actor: str, reason: str, value: Any) -> None:
            edit_state(row.key, value, expected_version=row.version, actor=actor, reason=reason)

        text = f"Replaces version {row.version}; refused when somebody changes it meanwhile. The old state is kept with the act."
        return self.ask(request, object_id, "Edit the state", text, act, form, danger=True)

    @staticmethod
    def _key(quoted: str) -> str:
        from django.contrib.admin.utils import unquote

        return unquote(quoted)
