"""Dead letters: what stopped and why, and every decision that helps; one by one, or all that are alike."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display

from workflows import (
    compensate_dead_letter,
    complete_dead_letter,
    discard_dead_letter,
    kill_dead_letter,
    replay_dead_letter,
    skip_dead_letter,
    start_bulk,
)
from workflows.admin.acting import Acting, InputForm, ReasonForm, ValueForm
from workflows.cells import ReadOnly, badge, error_text, link
from workflows.errors import WorkflowError
from workflows.models import DeadLetter
from workflows.states import DeadLetterReason, DeadLetterState

UNCERTAIN = " Nobody knows whether this step has already had its effect. Find out first."


@admin.register(DeadLetter)
class DeadLetterAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs that cannot go on without a person."""

    list_display = (
        "shown_letter", "shown_state", "reason", "shown_error", "shown_alike", "created_at", "resolved_by",
    )  # fmt: skip
    list_filter = ("state", "reason", "workflow", ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("id", "run__id", "run__correlation_id", "fingerprint")
    search_help_text = "dead letter id, run id, correlation id; or the fingerprint, for all that are alike"
    ordering = ("-id",)
    list_select_related = ("run",)
    actions = ("replay_all", "compensate_all", "discard_all")
    actions_detail = (
        "replay",
        "complete",
        "skip",
        {
            "title": "More",
            "icon": "more_horiz",
            "items": ["replay_with_input", "compensate", "discard", "kill"],
        },
    )
    fieldsets = (
        (
            "What happened",
            {
                "fields": (
                    "shown_state",
                    "shown_run",
                    "operation_id",
                    "reason",
                    "shown_error",
                    "shown_alike",
                    "created_at",
                )
            },
        ),
        ("What was decided", {"fields": ("resolution", "resolved_by", "resolved_at", "note")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        """Return dead letters, each with how many open ones are like it."""
        alike = DeadLetter.objects.filter(fingerprint=OuterRef("fingerprint"), state=DeadLetterState.OPEN)
        count = alike.order_by().values("fingerprint").annotate(n=Count("pk")).values("n")
        return super().get_queryset(request).annotate(alike=Subquery(count))  # type: ignore[no-any-return]

    @display(description="Step")
    def shown_letter(self, letter: DeadLetter) -> str:
        """Return workflow and step."""
        return f"{letter.run.workflow}, {letter.operation_id}"

    @display(description="State", ordering="state")
    def shown_state(self, letter: DeadLetter) -> str:
        """Return the state, coloured."""
        return badge(letter.state)

    @display(description="Error")
    def shown_error(self, letter: DeadLetter) -> str:
        """Return code and message."""
        return error_text(letter.error)

    @display(description="Alike")
    def shown_alike(self, letter: DeadLetter) -> str:
        """Return how many open ones have the same trouble, with a link to them."""
        count = getattr(letter, "alike", None) or 0
        if not letter.fingerprint or count < 2:
            return "-"
        from django.utils.html import format_html

        page = reverse("admin:workflows_deadletter_changelist")
        return format_html(
            '<a class="text-primary-600 underline" href="{}?q={}&state__exact=OPEN">{} open</a>',
            page,
            letter.fingerprint,
            count,
        )

    @display(description="Run")
    def shown_run(self, letter: DeadLetter) -> str:
        """Return a link to the run."""
        return link("admin:workflows_run_change", letter.run_id, f"{letter.run.workflow} {letter.run_id}")

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may decide, and this dead letter is open."""
        may = bool(getattr(request.user, "has_perm", lambda _: False)("workflows.change_deadletter"))
        if object_id is None:  # the actions of the list
            return may
        return may and DeadLetter.objects.filter(pk=object_id, state=DeadLetterState.OPEN).exists()

    def _warning(self, object_id: str) -> str:
        uncertain = DeadLetter.objects.filter(pk=object_id, reason=DeadLetterReason.UNCERTAIN).exists()
        return UNCERTAIN if uncertain else ""

    @action(description="Replay the step", url_path="replay", icon="replay", permissions=["decide"])
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let the step be tried again."""
        text = "The step is tried again with its attempts counted anew. Steps that have succeeded are not repeated."
        warning = self._warning(object_id)
        return self.ask(
            request, object_id, "Replay the step", text + warning, replay_dead_letter, danger=bool(warning)
        )

    @action(description="Replay with another input", url_path="edit", icon="edit", permissions=["decide"])
    def replay_with_input(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Correct the input, then let the step be tried again."""
        run = DeadLetter.objects.select_related("run").get(pk=object_id).run
        initial = run.input.get("item") if run.branch else run.input
        form = InputForm(request.POST or None, initial={"input": initial})
        text = "What lies behind the run was done with the old input; from here on the new one counts."
        return self.ask(request, object_id, "Replay with another input", text, replay_dead_letter, form)

    @action(description="Complete by hand", url_path="complete", icon="check", permissions=["decide"])
    def complete(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take the step as done."""
        text = "The step counts as done, with the output that you give, and the run goes on behind it."
        form = ValueForm(request.POST or None)
        return self.ask(request, object_id, "Complete by hand", text, complete_dead_letter, form)

    @action(description="Skip the step", url_path="skip", icon="skip_next", permissions=["decide"])
    def skip(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Leave the step out."""
        text = "The step is left out, its output is None, and the run goes on behind it."
        return self.ask(request, object_id, "Skip the step", text, skip_dead_letter)

    @action(description="Undo everything", url_path="compensate", icon="undo", permissions=["decide"])
    def compensate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give up, and undo."""
        text = "The run gives up, and everything that it has done is undone, the last first."
        return self.ask(request, object_id, "Undo everything", text, compensate_dead_letter)

    @action(description="Discard", url_path="discard", icon="delete", permissions=["decide"])
    def discard(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End the run as failed."""
        text = "The run ends FAILED, and NOTHING is undone."
        return self.ask(request, object_id, "Discard", text, discard_dead_letter, danger=True)

    @action(description="Kill the run", url_path="kill", icon="dangerous", permissions=["decide"])
    def kill(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End the run as cancelled."""
        text = "The run ends CANCELLED, and NOTHING is undone."
        return self.ask(request, object_id, "Kill the run", text, kill_dead_letter, danger=True)

    @action(description="Replay all of these", permissions=["decide"])
    def replay_all(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Begin a bulk job."""
        return self._all(request, queryset, "replay", "Replay all of these")

    @action(description="Undo the runs of all of these", permissions=["decide"])
    def compensate_all(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Begin a bulk job."""
        return self._all(request, queryset, "compensate", "Undo the runs of all of these")

    @action(description="Discard all of these", permissions=["decide"])
    def discard_all(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Begin a bulk job."""
        return self._all(request, queryset, "discard", "Discard all of these")

    def _all(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter], act: str, title: str
    ) -> HttpResponse | None:
        """Ask why; then freeze the list and have it worked off."""
        chosen = DeadLetter.objects.filter(pk__in=queryset.values("pk"), state=DeadLetterState.OPEN)
        form = ReasonForm(request.POST if "reason" in request.POST else None)
        if form.is_valid():
            try:
                job = start_bulk(
                    act,
                    chosen,
                    actor=request.user.get_username(),
                    reason=form.cleaned_data["reason"],
                )
            except WorkflowError as error:
                messages.error(request, error.message)
                return None
            messages.success(request, f"{title}: begun, {job.total} in the list.")
            return redirect("admin:workflows_bulkjob_change", job.pk)
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.model._meta,
            "form": form,
            "count": chosen.count(),
            "selected": request.POST.getlist("_selected_action"),
            "action": request.POST.get("action", ""),
            "across": request.POST.get("select_across", "0"),
            "back": request.get_full_path(),
        }
        return render(request, "workflows/bulk.html", context)
