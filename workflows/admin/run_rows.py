"""What is shown below a run: its dead letters, steps, branches, waits, signals and history."""

import json
from typing import Any

from django.db.models import Case, QuerySet, When
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from unfold.admin import TabularInline
from unfold.decorators import display

from workflows.admin.data import as_words
from workflows.admin.waiting import reference_link, sentence, with_waiting
from workflows.cells import ReadOnly, badge, error_text, link
from workflows.definition import find_definition
from workflows.models import DeadLetter, Event, Run, Signal, Step, Wait
from workflows.shown import output_of_step
from workflows.states import RunState


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
        """Return what the step returned, without what is sensitive."""
        if step.large:
            return "too large to show here: read it over the API"
        return as_words(output_of_step(step, find_definition(step.run.workflow)))


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


class SignalRows(Rows):
    model = Signal
    fields = readonly_fields = ("name", "sender", "created_at", "consumed_by")
    verbose_name_plural = "Signals"


class BranchRows(Rows):
    """What it does at the same time, and the runs that it waits for."""

    model = Run
    fk_name = "parent"
    fields = readonly_fields = ("shown_run", "shown_state", "shown_wait", "shown_error")
    verbose_name_plural = "Branches and children"
    per_page = 20

    def get_queryset(self, request: HttpRequest) -> QuerySet[Run]:
        """Return those that need looking at first."""
        rows = with_waiting(super().get_queryset(request))
        urgency = Case(
            When(state=RunState.DEAD_LETTER, then=0),
            When(finished_at__isnull=True, then=1),
            When(state=RunState.SUCCEEDED, then=3),
            default=2,
        )
        return rows.order_by(urgency, "id")

    @display(description="Run")
    def shown_run(self, run: Run) -> str:
        """Return a link to it."""
        return link("admin:workflows_run_change", run.pk, run.branch or f"{run.workflow} {run.pk}")

    @display(description="Waits for")
    def shown_wait(self, run: Run) -> str:
        """Return what it waits for, as a sentence."""
        return sentence(run)


class EventRows(Rows):
    model = Event
    fields = readonly_fields = ("seq", "at", "kind", "shown_data", "shown_hash")
    verbose_name_plural = "History, chained by hash"
    ordering = ("seq",)
    per_page = 100

    @display(description="What happened")
    def shown_data(self, event: Event) -> str:
        """Return the event's data as `name: value` lines."""
        pairs = ((name, _words(value)) for name, value in event.data.items() if value not in (None, "", []))
        return format_html_join("", '<div class="break-all"><b>{}</b> {}</div>', pairs) or "-"

    @display(description="Hash")
    def shown_hash(self, event: Event) -> str:
        """Return the start of the hash, the whole on hovering."""
        return format_html('<code title="{}">{}…</code>', event.hash, event.hash[:12])


def _words(value: Any) -> str:
    """Return a value of an event; commands as `kind reference`."""
    if isinstance(value, list) and all(isinstance(each, list) for each in value):
        return ", ".join(" ".join(str(part) for part in each) for each in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
