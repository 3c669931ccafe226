"""Limits and pauses of queues, workflows and keys."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from workflows import pause_scope, resume_scope, set_limit
from workflows.admin.acting import Acting, LimitForm, ScopeForm, carry_out, row_at
from workflows.admin.runs import may_change
from workflows.cells import ReadOnly
from workflows.clock import db_now
from workflows.engine.limits import runs_in
from workflows.models import Limit


@admin.register(Limit)
class LimitAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What holds runs back."""

    list_display = ("scope", "shown_limit", "shown_now", "reason", "changed_by", "changed_at")
    list_filter = ("paused",)
    search_fields = ("scope",)
    search_help_text = "a part of queue:<name>, workflow:<name> or key:<key>"
    ordering = ("-paused", "scope")
    list_per_page = 25  # each of its rows counts runs
    actions_list = ("add_limit",)
    actions_detail = ("change_limit", "pause", "resume")
    fields = readonly_fields = ("scope", "shown_limit", "shown_now", "reason", "changed_by", "changed_at")

    @display(description="Limit")
    def shown_limit(self, limit: Limit) -> str:
        """Return the limit in words."""
        words = ["paused"] if limit.paused else []
        if limit.concurrency:
            words.append(f"{limit.concurrency} at once")
        if limit.rate:
            words.append(f"{limit.rate} taken up in {limit.per_seconds} s")
        return ", ".join(words) or "none"

    @display(description="Now")
    def shown_now(self, limit: Limit) -> str:
        """Return how many are being carried out, and how many could be."""
        runs = runs_in(limit.scope)
        held = runs.filter(lease_until__gt=db_now()).count()
        due = runs.filter(lease_until__isnull=True, wake_at__lte=db_now()).count()
        return f"{held} under way, {due} due"

    def has_change_limit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may change limits."""
        return may_change(request)

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is not paused yet."""
        return may_change(request) and row_at(Limit, object_id).filter(paused=False).exists()

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is paused."""
        return may_change(request) and row_at(Limit, object_id).filter(paused=True).exists()

    @action(
        description="Add a limit or a pause", url_path="add-limit", icon="add", permissions=["change_limit"]
    )
    def add_limit(self, request: HttpRequest) -> HttpResponse:
        """Ask what is to be limited, and how."""
        form = ScopeForm(request.POST or None, initial={"per_seconds": 1})
        if request.method == "POST" and form.is_valid():
            scope = f"{form.cleaned_data.pop('kind')}:{form.cleaned_data.pop('name')}"
            if carry_out(request, "Limit", _set, scope, form):
                return redirect("admin:workflows_limit_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "Add a limit or a pause",
            "opts": self.model._meta,
            "row": "",
            "text": "It holds for every claim from now on. Runs that are being carried out stop at their next step when they are paused.",
            "form": form,
            "back": "../",
        }
        return render(request, "workflows/act.html", context)

    @action(description="Change the limit", url_path="limit", icon="tune", permissions=["change_limit"])
    def change_limit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for other numbers."""
        limit = self.row(request, object_id)
        values = {name: getattr(limit, name) for name in ("concurrency", "rate", "per_seconds")}
        form = LimitForm(request.POST or None, initial=values)

        return self.ask(request, object_id, "Change the limit", "Empty: no limit.", set_limit, form)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let nothing of it go on."""
        text = "Runs that are being carried out stop at their next step; all keep their places."
        return self.ask(request, object_id, "Pause", text, pause_scope)

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let its runs go on."""
        return self.ask(request, object_id, "Resume", "Its runs go on where they were.", resume_scope)


def _set(
    scope: str,
    *,
    actor: str,
    reason: str,
    paused: bool,
    concurrency: int | None,
    rate: int | None,
    per_seconds: int,
) -> None:
    if concurrency or rate:
        set_limit(
            scope, concurrency=concurrency, rate=rate, per_seconds=per_seconds, actor=actor, reason=reason
        )
    if paused:
        pause_scope(scope, actor=actor, reason=reason)
