"""The engine in the admin: what runs, what is stuck and why, and the one decision that a dead letter asks for.

Everything here is read-only; a replay goes through the engine like everybody else's.
"""

import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from workflows.cells import ReadOnly, badge, code_block, error_text, link
from workflows.engine.replay import replay_dead_letter
from workflows.errors import NotReplayableError
from workflows.models import DeadLetter, Event, Run, Step, VirtualObjectState, Wait
from workflows.sentences import waits_for
from workflows.states import DeadLetterState

# Where the things that runs wait for are shown, by kind of command: "transaction" -> "admin:signer_transaction_change".
# Filled by the apps above, which this one does not know.
REFERENCE_VIEWS: dict[str, str] = {}
# Given what a person typed, each returns references of waits: a transaction hash -> the transaction's id.
REFERENCE_FINDERS: list[Callable[[str], Iterable[str]]] = []


def reference_link(wait: Wait) -> str:
    """Return the thing that a wait waits for, linked to its page."""
    return link(REFERENCE_VIEWS.get(wait.kind, ""), wait.reference, wait.reference) if wait.reference else "-"


class Rows(ReadOnly, TabularInline):  # type: ignore[misc]
    """The rows of a run, below it."""

    extra = 0
    tab = False
    hide_title = True

    @display(description="State")
    def shown_state(self, row: Any) -> str:
        """Return the state, coloured."""
        return badge(row.state)

    @display(description="Error")
    def shown_error(self, row: Any) -> str:
        """Return code and message."""
        return error_text(row.error)


class StepRows(Rows):
    model = Step
    fields = readonly_fields = (
        "operation_id", "shown_state", "attempt", "shown_error", "shown_output", "started_at", "finished_at",
    )  # fmt: skip
    verbose_name_plural = "Steps, in their order"

    @display(description="Output")
    def shown_output(self, step: Step) -> str:
        """Return what the step returned."""
        return code_block(step.output)


class WaitRows(Rows):
    model = Wait
    fields = readonly_fields = (
        "operation_id",
        "attempt",
        "kind",
        "shown_reference",
        "shown_state",
        "shown_error",
        "due_at",
    )
    verbose_name_plural = "What it waited for"

    @display(description="Reference")
    def shown_reference(self, wait: Wait) -> str:
        """Return the reference, linked."""
        return reference_link(wait)


class DeadLetterRows(Rows):
    model = DeadLetter
    fields = readonly_fields = (
        "shown_letter",
        "shown_state",
        "reason",
        "shown_error",
        "created_at",
        "resolved_by",
        "note",
    )
    verbose_name_plural = "Dead letters"

    @display(description="Dead letter")
    def shown_letter(self, letter: DeadLetter) -> str:
        """Return a link to where one can decide."""
        return link("admin:workflows_deadletter_change", letter.pk, letter.operation_id)


class EventRows(Rows):
    model = Event
    fields = readonly_fields = ("seq", "at", "kind", "shown_data", "shown_hash")
    verbose_name_plural = "History, chained by hash"
    ordering = ("seq",)
    per_page = 100

    @display(description="What happened")
    def shown_data(self, event: Event) -> str:
        """Return the event's data as `name: value` lines."""
        pairs = (
            (name, value if isinstance(value, str) else json.dumps(value))
            for name, value in event.data.items()
        )
        return format_html_join("", '<div class="break-all"><b>{}</b> {}</div>', pairs) or "-"

    @display(description="Hash")
    def shown_hash(self, event: Event) -> str:
        """Return the start of the hash, the whole on hovering."""
        return format_html('<code title="{}">{}…</code>', event.hash, event.hash[:12])


@admin.register(Run)
class RunAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs: state, what each waits for, its steps and history."""

    list_display = ("shown_run", "shown_state", "shown_wait", "shown_error", "shown_age", "created_at")
    list_filter = ("state", "workflow", "waiting_for", ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_per_page = 50
    search_fields = ("id",)
    search_help_text = "run id, correlation id, object key, idempotency key, transaction id or hash"
    ordering = ("-id",)
    inlines = (DeadLetterRows, StepRows, WaitRows, EventRows)
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_wait", "shown_error", "shown_key")}),
        (
            "What it is",
            {"fields": ("workflow", "version", "id", "correlation_id", "object_key", "idempotency_key")},
        ),
        ("When", {"fields": ("created_at", "finished_at", "shown_age", "wake_at")}),
        ("Data", {"fields": ("shown_input", "shown_output"), "classes": ("collapse",)}),
        (
            "Who works on it",
            {
                "fields": ("queue", "lease_owner", "lease_until", "epoch", "recoveries", "fingerprint"),
                "classes": ("collapse",),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Return runs with what the list's sentences need."""
        return super().get_queryset(request).prefetch_related("steps", "waits", "dead_letters")  # type: ignore[no-any-return]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Run], term: str
    ) -> tuple[QuerySet[Run], bool]:
        """Search by what a person has at hand; every way uses an index."""
        term = term.strip().replace("\x00", "")
        if not term:
            return queryset, False
        references = {found for finder in REFERENCE_FINDERS for found in finder(term)}
        match = Q(correlation_id=term) | Q(object_key=term) | Q(idempotency_key=term)
        try:
            identifier = uuid.UUID(term)
            match |= Q(pk=identifier)
            references.add(str(identifier))
        except ValueError:
            pass
        if references:
            waiting = Wait.objects.filter(reference__in=sorted(references))
            match |= Q(pk__in=waiting.values("run_id"))
        return queryset.filter(match), False

    @display(description="Run", ordering="id")
    def shown_run(self, run: Run) -> str:
        """Return the workflow and the id."""
        return format_html("{}<br><code class='text-xs'>{}</code>", run.workflow, run.pk)

    @display(description="State", ordering="state")
    def shown_state(self, run: Run) -> str:
        """Return the state, coloured."""
        return badge(run.state)

    @display(description="Waits for")
    def shown_wait(self, run: Run) -> str:
        """Return what it waits for, as a sentence; where a person must decide, a link to the decision."""
        letter = next(
            (letter for letter in run.dead_letters.all() if letter.state == DeadLetterState.OPEN), None
        )
        return (
            link("admin:workflows_deadletter_change", letter.pk, waits_for(run)) if letter else waits_for(run)
        )

    @display(description="Error")
    def shown_error(self, run: Run) -> str:
        """Return code and message."""
        return error_text(run.error)

    @display(description="Age")
    def shown_age(self, run: Run) -> str:
        """Return how long it has taken, or has been going on."""
        if run.finished_at:
            return f"took {(run.finished_at - run.created_at).total_seconds():.1f} s"
        return f"for {timesince(run.created_at, timezone.now())}"

    @display(description="Object held by")
    def shown_key(self, run: Run) -> str:
        """Return which run holds the virtual object that this run needs."""
        key = VirtualObjectState.objects.filter(key=run.object_key).first() if run.object_key else None
        if key is None or key.holder_id is None:
            return "-"
        return (
            "this run"
            if key.holder_id == run.pk
            else link("admin:workflows_run_change", key.holder_id, str(key.holder_id))
        )

    @display(description="Input")
    def shown_input(self, run: Run) -> str:
        """Return what it was started with."""
        return code_block(run.input)

    @display(description="Output")
    def shown_output(self, run: Run) -> str:
        """Return what it ended with."""
        return code_block(run.output)


class ReasonForm(forms.Form):
    """Why a person intervenes; goes into the history."""

    reason = forms.CharField(
        max_length=1000,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="What was wrong, what has changed.",
    )


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs that cannot go on without a person."""

    list_display = ("shown_letter", "shown_state", "reason", "shown_error", "created_at", "resolved_by")
    list_filter = ("state", "reason", "run__workflow", ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("id", "run__id", "run__correlation_id")
    search_help_text = "dead letter id, run id, correlation id"
    ordering = ("-id",)
    list_select_related = ("run",)
    actions_detail = ("replay",)
    fieldsets = (
        (
            "What happened",
            {"fields": ("shown_state", "shown_run", "operation_id", "reason", "shown_error", "created_at")},
        ),
        ("What was decided", {"fields": ("resolution", "resolved_by", "resolved_at", "note")}),
    )

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

    @display(description="Run")
    def shown_run(self, letter: DeadLetter) -> str:
        """Return a link to the run."""
        return link("admin:workflows_run_change", letter.run_id, f"{letter.run.workflow} {letter.run_id}")

    def has_replay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may replay, and this dead letter is open."""
        may = bool(getattr(request.user, "has_perm", lambda _: False)("workflows.change_deadletter"))
        return may and DeadLetter.objects.filter(pk=object_id, state=DeadLetterState.OPEN).exists()

    @action(description="Replay the step", url_path="replay", icon="replay", permissions=["replay"])
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for the reason, then let the step be tried again."""
        letter = get_object_or_404(DeadLetter.objects.select_related("run"), pk=object_id)
        form = ReasonForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            self.decide(request, letter, form.cleaned_data["reason"])
            return redirect("admin:workflows_run_change", letter.run_id)
        context = {
            **self.admin_site.each_context(request),
            "title": "Replay the step",
            "opts": self.model._meta,
            "letter": letter,
            "error": error_text(letter.error),
            "form": form,
        }
        return render(request, "workflows/replay.html", context)

    def decide(self, request: HttpRequest, letter: DeadLetter, reason: str) -> None:
        """Replay, and say what came of it."""
        if not request.user.is_authenticated:
            raise PermissionDenied
        try:
            replay_dead_letter(letter.pk, actor=request.user.get_username(), reason=reason)
        except NotReplayableError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{letter.operation_id} will be tried again.")


@admin.register(VirtualObjectState)
class VirtualObjectStateAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Virtual objects: which run holds each, and who waits behind it."""

    list_display = ("key", "shown_holder", "shown_queue")
    search_fields = ("key",)
    list_select_related = ("holder",)
    fields = readonly_fields = ("key", "shown_holder", "shown_queue")

    @display(description="Held by")
    def shown_holder(self, key: VirtualObjectState) -> str:
        """Return a link to the run that holds it."""
        holder = key.holder
        if holder is None:
            return "nobody"
        return link(
            "admin:workflows_run_change", holder.pk, f"{holder.workflow} {holder.pk} ({holder.state})"
        )

    @display(description="Waiting behind it")
    def shown_queue(self, key: VirtualObjectState) -> str:
        """Return the runs that wait for the key, oldest first."""
        waiting = Run.objects.filter(object_key=key.key, state="WAITING", waiting_for="key").order_by("id")[
            :20
        ]
        rows = ((link("admin:workflows_run_change", run.pk, str(run.pk)),) for run in waiting)
        return format_html_join("", "<div>{}</div>", rows) or "-"
