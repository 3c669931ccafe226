"""Dead letters: what stopped and why, and every decision that helps; one by one, or all that are alike."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.utils.timesince import timesince
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
from workflows.admin.acting import Acting, InputForm, ReasonForm, ValueForm, row_at
from workflows.admin.data import as_words, describe_type, whole
from workflows.cells import ReadOnly, badge, error_text, link
from workflows.clock import now
from workflows.definition import find_definition
from workflows.errors import WorkflowError
from workflows.models import DeadLetter
from workflows.redaction import HIDDEN
from workflows.shown import UNDO, input_of, step_definition
from workflows.states import DeadLetterReason, DeadLetterState

# What each reason asks of a person, before any decision.
ADVICE = {
    DeadLetterReason.RETRIES_EXHAUSTED: "Every attempt has failed. Mend what the error names, then replay.",
    DeadLetterReason.UNCERTAIN: (
        "The step may happen at most once, and was cut off: nobody knows whether it happened. Find out on the other "
        "side. If it happened, complete by hand; if it did not, replay."
    ),
    DeadLetterReason.CRASH_LOOP: (
        "Workers keep dying on it. Look at their memory and at the step's code before you replay."
    ),
    DeadLetterReason.BAD_OUTPUT: (
        "The step returned what cannot be stored, or not what it declares. Correct and deploy it, then replay."
    ),
    DeadLetterReason.BAD_STATE: (
        "The object's model cannot read its state. Correct the model, or edit the state of the object, then replay."
    ),
    DeadLetterReason.DEFINITION_CHANGED: (
        "No worker's code can carry the run on. Deploy code that has the steps behind it, then replay; or end the run."
    ),
    DeadLetterReason.COMPENSATION_FAILED: (
        "An undo has failed for good, and the undos of earlier steps wait for it. Mend the cause and replay; or undo it "
        "by hand and say so with Complete by hand."
    ),
    DeadLetterReason.RUN_MISSING: (
        "A child or branch that it waits for is not in the database any more. Restore it from its archive and replay, "
        "or complete by hand with what it returned."
    ),
}
UNCERTAIN = "Nobody knows whether this step has already had its effect. Find out first."


@admin.register(DeadLetter)
class DeadLetterAdmin(Acting, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """Runs that cannot go on without a person."""

    list_display = (
        "shown_letter", "shown_state", "reason", "shown_error", "shown_alike", "shown_since", "resolved_by",
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
                    "shown_error",
                    "shown_advice",
                    "shown_run",
                    "operation_id",
                    "reason",
                    "shown_alike",
                    "shown_since",
                    "shown_input",
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
        page = reverse("admin:workflows_deadletter_changelist")
        return format_html(
            '<a class="text-primary-600 underline" href="{}?q={}&state__exact=OPEN">{} open</a>',
            page,
            letter.fingerprint,
            count,
        )

    @display(description="What to do")
    def shown_advice(self, letter: DeadLetter) -> str:
        """Return what its reason asks of a person."""
        if letter.state != DeadLetterState.OPEN:
            return "nothing: it is decided"
        return ADVICE.get(DeadLetterReason(letter.reason), "-")

    @display(description="Since", ordering="created_at")
    def shown_since(self, letter: DeadLetter) -> str:
        """Return when it stopped, and how long ago that is."""
        when = f"{letter.created_at:%Y-%m-%d %H:%M:%S} UTC"
        return format_html(
            "{}<br><span class='text-xs'>{} ago</span>", when, timesince(letter.created_at, now())
        )

    @display(description="Input")
    def shown_input(self, letter: DeadLetter) -> str:
        """Return what the run was started with, without what is sensitive."""
        return as_words(input_of(letter.run))

    @display(description="Run")
    def shown_run(self, letter: DeadLetter) -> str:
        """Return a link to the run."""
        return link("admin:workflows_run_change", letter.run_id, f"{letter.run.workflow} {letter.run_id}")

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may decide, and this dead letter is open."""
        may = bool(getattr(request.user, "has_perm", lambda _: False)("workflows.change_deadletter"))
        if object_id is None:  # the actions of the list
            return may
        return may and row_at(DeadLetter, object_id).filter(state=DeadLetterState.OPEN).exists()

    def ask(self, request: HttpRequest, object_id: str, *args: Any, **options: Any) -> HttpResponse:
        """Ask with what the decision is about in sight, and red where nobody knows what has happened."""
        letter = self.row(request, object_id)
        facts = [
            ("Run", f"{letter.run.workflow} {letter.run_id}"),
            ("Step", letter.operation_id),
            ("Error", error_text(letter.error)),
        ]
        if letter.reason == DeadLetterReason.UNCERTAIN:
            facts.append(("Mind", UNCERTAIN))
        return super().ask(request, object_id, *args, facts=facts, **options)

    def _is(self, reason: DeadLetterReason, object_id: str) -> bool:
        return DeadLetter.objects.filter(pk=object_id, reason=reason).exists()

    @action(description="Replay the step", url_path="replay", icon="replay", permissions=["decide"])
    def replay(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let the step be tried again."""
        text = "The step is tried again with its attempts counted anew. Steps that have succeeded are not repeated."
        uncertain = self._is(DeadLetterReason.UNCERTAIN, object_id)
        if uncertain:
            text += " If it has happened already, it happens twice."
        return self.ask(request, object_id, "Replay the step", text, replay_dead_letter, danger=uncertain)

    @action(description="Replay with another input", url_path="edit", icon="edit", permissions=["decide"])
    def replay_with_input(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Correct the input, then let the step be tried again."""
        run = self.row(request, object_id).run
        form = InputForm(request.POST or None, initial={"input": input_of(run)})

        def act(letter_id: Any, *, actor: str, reason: str, input: Any) -> None:
            stored = run.input.get("item") if run.branch else run.input
            replay_dead_letter(letter_id, actor=actor, reason=reason, input=whole(input, stored))

        text = (
            "What lies behind the run was done with the old input; from here on the new one counts. "
            f"{HIDDEN} stands for what is hidden, and stays as it is where you leave it."
        )
        return self.ask(request, object_id, "Replay with another input", text, act, form)

    @action(description="Complete by hand", url_path="complete", icon="check", permissions=["decide"])
    def complete(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Take the step as done."""
        letter = self.row(request, object_id)
        name = letter.operation_id.partition("#")[0]
        form = ValueForm(request.POST or None)
        step = step_definition(name, find_definition(letter.workflow))
        if step is not None and (looks := describe_type(step.output)):
            form.fields["value"].help_text = f"JSON. {name} returns {looks}"
        text = "The step counts as done, with the output that you give, and the run goes on behind it."
        if name.endswith(UNDO):
            text = "The undo counts as done, and the undos of earlier steps go on."
        return self.ask(request, object_id, "Complete by hand", text, complete_dead_letter, form)

    @action(description="Skip the step", url_path="skip", icon="skip_next", permissions=["decide"])
    def skip(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Leave the step out."""
        letter = self.row(request, object_id)
        text = "The step is left out, its output is None, and the run goes on behind it."
        undo = letter.operation_id.partition("#")[0].endswith(UNDO)
        if undo:
            text = "The undo is left out: what it was to take back STAYS. The undos of earlier steps go on."
        return self.ask(request, object_id, "Skip the step", text, skip_dead_letter, danger=undo)

    @action(description="Undo everything", url_path="compensate", icon="undo", permissions=["decide"])
    def compensate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Give up, and undo."""
        text = "The run gives up, and everything that it has done is undone, the last first."
        return self.ask(request, object_id, "Undo everything", text, compensate_dead_letter, danger=True)

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
        text = "The step of each is tried again, with its attempts counted anew."
        return self._all(request, queryset, "replay", "Replay all of these", text)

    @action(description="Undo the runs of all of these", permissions=["decide"])
    def compensate_all(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Begin a bulk job."""
        text = "Each run gives up, and everything that it has done is undone, the last first."
        return self._all(request, queryset, "compensate", "Undo the runs of all of these", text)

    @action(description="Discard all of these", permissions=["decide"])
    def discard_all(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> HttpResponse | None:
        """Begin a bulk job."""
        text = "Each run ends FAILED, and NOTHING is undone."
        return self._all(request, queryset, "discard", "Discard all of these", text)

    def _all(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter], act: str, title: str, text: str
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
            "text": text,
            "danger": act != "replay",
            "form": form,
            "count": chosen.count(),
            "selected": request.POST.getlist("_selected_action"),
            "action": request.POST.get("action", ""),
            "across": request.POST.get("select_across", "0"),
            "back": request.get_full_path(),
        }
        return render(request, "workflows/bulk.html", context)
