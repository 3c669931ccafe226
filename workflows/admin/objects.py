"""Virtual objects: who holds each, who waits behind, and its state."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from workflows import clock, edit_state, pause_scope, resume_scope, skip_head
from workflows.admin.acting import Acting, ValueForm
from workflows.admin.data import as_words, whole
from workflows.admin.runs import may_change
from workflows.cells import ReadOnly, badge, link
from workflows.engine.keys import inbox
from workflows.models import DeadLetter, Limit, Run, VirtualObjectState
from workflows.objects import find_object
from workflows.shown import state_of_object
from workflows.states import DeadLetterState, RunState, WaitingFor

SHOWN = 20


@admin.register(VirtualObjectState)
class VirtualObjectAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Keys: one run at a time holds each, the others queue up behind it."""

    list_display = ("key", "shown_holder", "shown_held", "shown_waiting")
    list_filter = ("holder__state",)
    search_fields = ("key",)
    search_help_text = "a part of the key"
    ordering = ("key",)
    list_select_related = ("holder",)
    actions_detail = ("pause", "resume", "skip", "edit")
    fields = readonly_fields = (
        "key", "shown_now", "shown_holder", "shown_held", "shown_paused", "shown_queue", "shown_version",
        "shown_object_state",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[VirtualObjectState]:
        """Return objects, each with how many runs wait for it."""
        waiting = Run.objects.filter(
            object_key=OuterRef("pk"), finished_at__isnull=True, waiting_for=WaitingFor.KEY
        ).exclude(state=RunState.DEAD_LETTER)
        count = waiting.order_by().values("object_key").annotate(n=Count("pk")).values("n")
        rows = super().get_queryset(request)
        return rows.annotate(waiting=Subquery(count))  # type: ignore[no-any-return]

    @display(description="Now")
    def shown_now(self, key: VirtualObjectState) -> str:
        """Return whether it goes on, and if not, where a person can decide."""
        letter = DeadLetter.objects.filter(run=key.holder_id, state=DeadLetterState.OPEN).first()
        if letter is not None:
            decide = link("admin:workflows_deadletter_change", letter.pk, "its dead letter")
            return format_html("Stopped: the run that holds it waits for a person. Decide about {}.", decide)
        if self._pause(key):
            return "Paused: nobody goes on with it until somebody resumes it."
        return "In use." if key.holder_id else "Free."

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
        return int(getattr(key, "waiting", 0) or 0)

    @display(description="Paused")
    def shown_paused(self, key: VirtualObjectState) -> str:
        """Return who has paused it, and why."""
        limit = self._pause(key)
        return f"by {limit.changed_by}: {limit.reason}" if limit else "no"

    @staticmethod
    def _pause(key: VirtualObjectState) -> Limit | None:
        return Limit.objects.filter(pk=f"key:{key.key}", paused=True).first()

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

    @display(description="Version")
    def shown_version(self, key: VirtualObjectState) -> str:
        """Return how often the state was written."""
        return f"{key.version}" if key.version else "0: it has never been written"

    @display(description="State")
    def shown_object_state(self, key: VirtualObjectState) -> str:
        """Return the state, without what is sensitive."""
        return as_words(state_of_object(key.key, key.state))

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it can be paused."""
        return may_change(request) and not self._is_paused(object_id)

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is paused."""
        return may_change(request) and self._is_paused(object_id)

    def has_skip_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether somebody waits for it."""
        return may_change(request) and inbox(unquote(str(object_id))).exists()

    def has_edit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it has a state: a key that a workflow names has none."""
        return may_change(request) and find_object(unquote(str(object_id)).partition(":")[0]) is not None

    @staticmethod
    def _is_paused(object_id: Any) -> bool:
        return Limit.objects.filter(pk=f"key:{unquote(str(object_id))}", paused=True).exists()

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let nobody go on with it."""

        def act(key: str, *, actor: str, reason: str) -> None:
            pause_scope(f"key:{key}", actor=actor, reason=reason)

        text = "Whoever holds it stops at the next step; those who wait keep their places."
        return self.ask(request, object_id, "Pause the object", text, act)

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let its runs go on."""

        def act(key: str, *, actor: str, reason: str) -> None:
            resume_scope(f"key:{key}", actor=actor, reason=reason)

        return self.ask(request, object_id, "Resume the object", "Its runs go on where they were.", act)

    @action(description="Skip the next", url_path="skip", icon="skip_next", permissions=["skip"])
    def skip(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Cancel the first that waits."""
        head = inbox(unquote(object_id)).first()
        facts = [("Object", unquote(object_id)), ("Is cancelled", str(head) if head else "nobody waits")]
        text = "The first of the runs that wait is cancelled; the one that holds the object is left alone."
        return self.ask(request, object_id, "Skip the next", text, skip_head, danger=True, facts=facts)

    @action(description="Edit the state", url_path="edit", icon="edit", permissions=["edit"])
    def edit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Replace the state."""
        row = self.row(request, object_id)
        form = ValueForm(request.POST or None, initial={"value": state_of_object(row.key, row.state)})

        def act(key: str, *, actor: str, reason: str, value: Any) -> None:
            state = whole(value, row.state)
            edit_state(key, state, expected_version=row.version, actor=actor, reason=reason)

        text = f"Replaces version {row.version}; refused when somebody changes it meanwhile. The old state is kept with the act."
        return self.ask(request, object_id, "Edit the state", text, act, form, danger=True)
