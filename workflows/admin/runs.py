"""Runs: what each does, what it waits for and why, and what a person may do to it."""

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display

from workflows import (
    cancel_run,
    compensate_run,
    fork_run,
    kill_run,
    pause_run,
    resume_run,
    send_signal,
    set_legal_hold,
)
from workflows.admin.acting import Acting, ForkForm, ReasonForm, SignalForm, row_at
from workflows.admin.data import as_words
from workflows.admin.run_rows import BranchRows, DeadLetterRows, EventRows, SignalRows, StepRows, WaitRows
from workflows.admin.waiting import (
    COMPLETION,
    REFERENCE_VIEWS,
    sentence,
    signal_name,
    with_waiting,
)
from workflows.cells import ReadOnly, badge, error_text, link
from workflows.definition import find_definition
from workflows.models import Act, Approval, Run, VirtualObjectState, Wait
from workflows.shown import input_of, output_of
from workflows.states import TERMINAL, RunState, WaitState

__all__ = ("REFERENCE_FINDERS", "REFERENCE_VIEWS", "RunAdmin", "may_change")

# Given what a person typed, each returns references of waits: a transaction hash -> the transaction's id.
REFERENCE_FINDERS: list[Callable[[str], Iterable[str]]] = []


def may_change(request: HttpRequest) -> bool:
    """Tell whether this person may act on runs."""
    return bool(getattr(request.user, "has_perm", lambda _: False)("workflows.change_run"))


@admin.register(Run)
class RunAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs: state, what each waits for, its steps and history."""

    list_display = ("shown_run", "shown_state", "shown_wait", "shown_error", "shown_age", "created_at")
    list_filter = ("state", "workflow", "queue", "waiting_for", ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("id",)
    search_help_text = "run id, correlation id, object key, idempotency key, transaction id or hash"
    ordering = ("-id",)
    inlines = (DeadLetterRows, StepRows, BranchRows, WaitRows, SignalRows, EventRows)
    actions_detail = (
        "pause",
        "resume",
        "cancel",
        {
            "title": "More",
            "icon": "more_horiz",
            "items": ["compensate", "fork", "signal", "hold", "release", "kill"],
        },
    )
    fieldsets = (
        ("Now", {"fields": ("shown_state", "shown_wait", "shown_doing", "shown_error", "shown_key")}),
        (
            "What it is",
            {"fields": ("workflow", "version", "id", "correlation_id", "object_key", "idempotency_key")},
        ),
        ("Where it belongs", {"fields": ("shown_parent", "shown_fork", "shown_approvals", "shown_acts")}),
        (
            "When",
            {"fields": ("created_at", "finished_at", "shown_age", "wake_at", "deadline_at", "shown_hold")},
        ),
        ("Data", {"fields": ("shown_input", "shown_output"), "classes": ("collapse",)}),
        (
            "Who works on it",
            {
                "fields": (
                    "queue",
                    "priority",
                    "lease_owner",
                    "lease_until",
                    "epoch",
                    "recoveries",
                    "fingerprint",
                ),
                "classes": ("collapse",),
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Return runs with what the list's sentences need."""
        runs = with_waiting(super().get_queryset(request))
        shows_all = request.resolver_match and request.resolver_match.url_name != "workflows_run_changelist"
        return runs if shows_all else runs.filter(branch="")

    def get_inlines(self, request: HttpRequest, obj: Run | None) -> Any:
        """Return what there are rows of: an empty table says nothing and pushes the others down."""
        return [
            rows
            for rows in self.inlines
            if obj is None or rows.model._default_manager.filter(**{rows.fk_name or "run": obj}).exists()
        ]

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
        return sentence(run)

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

    @display(description="Does")
    def shown_doing(self, run: Run) -> str:
        """Return the operation at hand."""
        if run.finished_at or not run.operation:
            return "-"
        when = f", since {run.operation_at:%Y-%m-%d %H:%M:%S} UTC" if run.operation_at else ""
        return f"{run.operation}, attempt {max(run.attempt, 1)}{when}"

    @display(description="Part of")
    def shown_parent(self, run: Run) -> str:
        """Return the run that waits for this one."""
        return link("admin:workflows_run_change", run.parent_id, str(run.parent)) if run.parent else "-"

    @display(description="Forked from")
    def shown_fork(self, run: Run) -> str:
        """Return the run whose outputs this one began with, and the runs that began with this one's."""
        origin = run.forked_from
        forks = [
            link("admin:workflows_run_change", fork.pk, f"forked into {fork.pk}")
            for fork in run.forks.all()[:5]
        ]
        first = [link("admin:workflows_run_change", origin.pk, str(origin))] if origin else []
        return format_html_join("", "<div>{}</div>", ((each,) for each in first + forks)) or "-"

    @display(description="Approvals")
    def shown_approvals(self, run: Run) -> str:
        """Return the questions to people."""
        found = Approval.objects.filter(run=run)[:10]
        rows = ((link("admin:workflows_approval_change", each.pk, str(each)),) for each in found)
        return format_html_join("", "<div>{}</div>", rows) or "-"

    @display(description="What people did")
    def shown_acts(self, run: Run) -> str:
        """Return who did what to it, and why; the newest first."""
        acts = Act.objects.filter(target=f"run:{run.pk}").order_by("-id")[:10]
        rows = ((act.at.strftime("%Y-%m-%d %H:%M"), act.actor, act.action, act.reason) for act in acts)
        return format_html_join("", "<div>{} <b>{}</b> {}: {}</div>", rows) or "-"

    @display(description="Input")
    def shown_input(self, run: Run) -> str:
        """Return what it was started with, without what is sensitive."""
        return as_words(input_of(run))

    @display(description="Output")
    def shown_output(self, run: Run) -> str:
        """Return what it ended with, without what is sensitive."""
        return as_words(output_of(run))

    @display(description="Legal hold")
    def shown_hold(self, run: Run) -> str:
        """Return whether it is kept from being archived."""
        return "yes: it is not archived" if run.legal_hold else "no"

    def _may(self, request: HttpRequest, object_id: Any, **state: Any) -> bool:
        return may_change(request) and row_at(Run, object_id).filter(**state).exists()

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it can be paused."""
        stopped = [*TERMINAL, RunState.PAUSED, RunState.DEAD_LETTER]
        return self._may(request, object_id) and not self._may(request, object_id, state__in=stopped)

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is paused."""
        return self._may(request, object_id, state=RunState.PAUSED)

    def has_stop_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether there is anything to stop."""
        return self._may(request, object_id, finished_at__isnull=True)

    def has_turn_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it goes forward, so that it can be turned round."""
        return self._may(request, object_id, finished_at__isnull=True, compensating=False)

    def has_fork_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it has ended or waits for a person."""
        return self._may(request, object_id, branch="", state__in=[*TERMINAL, RunState.DEAD_LETTER])

    def has_hold_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is not on legal hold yet."""
        return self._may(request, object_id, legal_hold=False)

    def has_release_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is on legal hold."""
        return self._may(request, object_id, legal_hold=True)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Keep it from going on."""
        text = "A step that is being carried out is finished first. Timers keep their instants."
        return self.ask(request, object_id, "Pause the run", text, pause_run)

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let it go on."""
        text = "It goes on where it was; timers that have come due meanwhile are due at once."
        return self.ask(request, object_id, "Resume the run", text, resume_run)

    @action(description="Cancel", url_path="cancel", icon="undo", permissions=["turn"])
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Stop it and undo what it has done."""
        text = (
            "The step at hand is finished or called off; then everything that was done is undone, the last first. "
            "The run ends CANCELLED."
        )
        return self.ask(request, object_id, "Cancel the run", text, cancel_run, danger=True)

    @action(description="Undo everything", url_path="compensate", icon="undo", permissions=["turn"])
    def compensate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """As cancel; it counts as failed."""
        text = (
            "The step at hand is finished or called off; then everything that was done is undone, the last first. "
            "The run ends COMPENSATED: it counts as failed, not as cancelled."
        )
        return self.ask(request, object_id, "Undo what the run has done", text, compensate_run, danger=True)

    @action(description="Kill", url_path="kill", icon="dangerous", permissions=["stop"])
    def kill(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """End it at once."""
        text = (
            "It ends at once, with its branches and children, and NOTHING is undone. What was sent stays sent. "
            "To have it undone, cancel it instead."
        )
        return self.ask(request, object_id, "Kill the run", text, kill_run, danger=True)

    @action(description="Fork", url_path="fork", icon="call_split", permissions=["fork"])
    def fork(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Begin a new run at one of its steps."""
        run = self.row(request, object_id)
        definition = find_definition(run.workflow)
        form = ForkForm(
            request.POST or None, steps=[step.name for step in definition.steps] if definition else []
        )
        text = (
            "A new run begins at the step that you choose, with the outputs of those before it. "
            "What the new run carries out again happens again. "
            "A run that waits for a person is ended for it, undoing nothing."
        )
        return self.ask(request, object_id, "Fork the run", text, fork_run, form, danger=True)

    @action(description="Send a signal", url_path="signal", icon="send", permissions=["stop"])
    def signal(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Tell it something that it waits for."""
        waits = Wait.objects.filter(run_id=object_id, kind="signal", state=WaitState.PENDING)
        names = [name for wait in waits if not (name := signal_name(wait)).startswith(COMPLETION)]
        form = SignalForm(request.POST or None, initial={"name": names[0] if names else ""})
        awaited = (
            f"It waits for {', '.join(map(repr, names))} now. " if names else "It waits for no signal now. "
        )
        text = awaited + "A signal of another name is kept until a step waits for it."
        return self.ask(request, object_id, "Send a signal", text, _send_signal, form)

    @action(description="Put on legal hold", url_path="hold", icon="lock", permissions=["hold"])
    def hold(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Keep it from being archived."""
        text = "It stays in the database, whatever its workflow's retention says."
        return self.ask(request, object_id, "Put the run on legal hold", text, _hold)

    @action(description="End the legal hold", url_path="release", icon="lock_open", permissions=["release"])
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let it be archived in its time."""
        text = "It is archived when its workflow's retention says so."
        return self.ask(
            request, object_id, "End the legal hold", text, _release, ReasonForm(request.POST or None)
        )


def _send_signal(run_id: Any, *, actor: str, reason: str, name: str, payload: Any) -> None:
    send_signal(run_id, name, payload, sender=actor)


def _hold(run_id: Any, *, actor: str, reason: str) -> None:
    set_legal_hold(run_id, True, actor=actor, reason=reason)


def _release(run_id: Any, *, actor: str, reason: str) -> None:
    set_legal_hold(run_id, False, actor=actor, reason=reason)
