"""Schedules: when each comes next, what came of it last, and changing it without a deploy.

A schedule is checked before it is stored and each mistake is named at its field. Ticks are history: they are read here, never
written. Times are shown by the schedule's own clock and in UTC; they are entered in UTC.
"""

import uuid
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery, UUIDField
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html, format_html_join
from django.utils.timesince import timesince
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display

from workflows import clock
from workflows.admin.acting import Acting, ReasonForm, row_at
from workflows.admin.data import fields_of
from workflows.cells import ReadOnly, badge, error_text, link
from workflows.definition import find_definition
from workflows.models import Act
from workflows.schedules.acts import note_edit, pause_schedule, resume_schedule, run_schedule_now, target
from workflows.schedules.catch_up import MISSED_COUNT_MAX
from workflows.schedules.cells import both_times, preview, run_link
from workflows.schedules.cron import Cron, CronError
from workflows.schedules.forms import ScheduleForm
from workflows.schedules.models import Schedule, Tick


class RunNowForm(ReasonForm):
    """Why, and a mark by which the same request is known when it comes twice."""

    token = forms.CharField(label="", max_length=64, widget=forms.HiddenInput())
    field_order = ("reason", "token")


class TickCells:
    """How a tick's columns look, on its own list and below its schedule."""

    @display(description="Due")
    def shown_due(self, tick: Tick) -> str:
        """Return the instant, by the schedule's clock and in UTC."""
        return both_times(tick.due_at, tick.schedule.timezone)

    @display(description="Outcome", ordering="outcome")
    def shown_outcome(self, tick: Tick) -> str:
        """Return the outcome, coloured."""
        return badge(tick.outcome.upper())

    @display(description="Late by", ordering="late_by_seconds")
    def shown_lateness(self, tick: Tick) -> str:
        """Return how late it was dealt with."""
        seconds = tick.late_by_seconds
        return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))

    @display(description="What came of it")
    def shown_result(self, tick: Tick) -> str:
        """Return the run, the error, or how many were skipped."""
        if tick.missed:
            many = f"{tick.missed}{' or more' if tick.missed >= MISSED_COUNT_MAX else ''}"
            return f"{many} missed and not caught up on"
        return error_text(tick.error) if tick.error else run_link(tick.run_id)


class TickRows(TickCells, ReadOnly, TabularInline):  # type: ignore[misc]
    model = Tick
    fields = readonly_fields = ("shown_due", "shown_outcome", "shown_result", "shown_lateness")
    verbose_name_plural = "Ticks"
    ordering = ("-due_at",)
    per_page = 20
    extra = 0
    tab = False
    hide_title = True


@admin.register(Tick)
class TickAdmin(TickCells, ReadOnly, ModelAdmin):  # type: ignore[misc]
    """What came of each instant, over all schedules."""

    list_display = ("shown_due", "shown_schedule", "shown_outcome", "shown_result", "shown_lateness")
    list_filter = ("outcome", "schedule", ("due_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_select_related = ("schedule",)
    list_per_page = 50
    ordering = ("-due_at", "-id")
    fields = readonly_fields = (
        "shown_schedule",
        "shown_due",
        "shown_outcome",
        "shown_result",
        "shown_lateness",
        "created_at",
    )

    @display(description="Schedule", ordering="schedule__name")
    def shown_schedule(self, tick: Tick) -> str:
        """Return a link to the schedule."""
        return link("admin:workflows_schedule_change", tick.schedule_id, tick.schedule.name)


@admin.register(Schedule)
class ScheduleAdmin(Acting, ModelAdmin):  # type: ignore[misc]
    """What starts when, and what came of it."""

    form = ScheduleForm
    list_display = ("name", "workflow", "shown_cron", "shown_next", "shown_last")
    list_filter = ("enabled", "workflow", "timezone")
    search_fields = ("name", "workflow")
    search_help_text = "name, workflow"
    ordering = ("-enabled", "name")
    list_per_page = 50
    inlines = (TickRows,)
    actions_detail = ("run_now", "pause", "resume")
    actions_row = ("run_now",)
    readonly_fields = (
        "shown_preview", "shown_last", "shown_run", "shown_error", "shown_input_fields", "shown_acts",
    )  # fmt: skip
    now = ("Now", {"fields": ("shown_preview", "shown_last", "shown_run", "shown_error", "shown_acts")})
    what = ("What is started", {"fields": ("name", "workflow", "input", "shown_input_fields")})
    when = ("When", {"fields": ("cron", "timezone", "catch_up", "starts_at", "ends_at")})
    why = ("Why", {"fields": ("reason",)})

    def get_fieldsets(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        """Return what to enter; for a schedule that exists, what it does as well."""
        if obj is None:
            return (("What is started", {"fields": ("name", "workflow", "input")}), self.when, self.why)
        return (
            self.now,
            self.what,
            self.when,
            *([self.why] if self.has_change_permission(request, obj) else []),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Schedule | None = None) -> Any:
        """Return what is not entered. The name stays: ticks, runs and acts know the schedule by it."""
        if obj is None:
            return self.readonly_fields
        return ("name", *self.readonly_fields)

    def get_inlines(self, request: HttpRequest, obj: Schedule | None) -> Any:
        """Return the ticks, which a new schedule has none of."""
        return self.inlines if obj is not None else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return schedules with what their last tick came to."""
        newest = Tick.objects.filter(schedule=OuterRef("pk")).order_by("-due_at")
        with_run = newest.filter(run__isnull=False)
        outcome = Subquery(newest.values("outcome")[:1])
        run = Subquery(with_run.values("run_id")[:1], UUIDField())
        rows: QuerySet[Any] = super().get_queryset(request).annotate(last_outcome=outcome, last_run=run)
        return rows

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        """Store the schedule, and who changed what, and why."""
        super().save_model(request, obj, form, change)
        names = [name for name in form.changed_data if name not in ("reason", "input")]
        changed = {name: str(getattr(obj, name)) for name in names}
        if "input" in form.changed_data:
            changed["input"] = "changed"  # what is sensitive in it belongs into no record
        reason = form.cleaned_data["reason"]
        note_edit(obj, actor=request.user.get_username(), reason=reason, changed=changed)

    def get_actions(self, request: HttpRequest) -> Any:
        """Return the actions without deletion, which goes one at a time."""
        return {
            name: choice for name, choice in super().get_actions(request).items() if name != "delete_selected"
        }

    def has_delete_permission(self, request: HttpRequest, obj: Schedule | None = None) -> bool:
        """Return False once there are ticks: they are history. Pause it instead."""
        return super().has_delete_permission(request, obj) and not (obj and obj.ticks.exists())

    def has_run_now_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether this person may start runs by hand: whoever may change what is started."""
        return bool(self.has_change_permission(request))

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it can be paused."""
        running = row_at(Schedule, object_id).filter(enabled=True)
        return bool(self.has_change_permission(request)) and running.exists()

    def has_resume_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Return whether it is paused."""
        paused = row_at(Schedule, object_id).filter(enabled=False)
        return bool(self.has_change_permission(request)) and paused.exists()

    @display(description="When", ordering="cron")
    def shown_cron(self, schedule: Schedule) -> str:
        """Return the cron expression, in words and as it is."""
        try:
            words = Cron(schedule.cron, schedule.timezone).explain()
        except CronError as error:
            words = str(error)
        expression = f"{schedule.cron}  {schedule.timezone}"
        return format_html('{}<br><code class="text-xs">{}</code>', words, expression)

    @display(description="Next", ordering="next_at")
    def shown_next(self, schedule: Schedule) -> str:
        """Return when it comes next, or why it does not."""
        if not schedule.enabled:
            return badge("PAUSED")
        return (
            both_times(schedule.next_at, schedule.timezone) if schedule.next_at else "never: nothing is left"
        )

    @display(description="Last")
    def shown_last(self, schedule: Any) -> str:
        """Return the outcome of the last tick, and how long ago it was."""
        if schedule.last_at is None:
            return "nothing yet"
        ago = f"{timesince(schedule.last_at, clock.now())} ago"
        outcome = (schedule.last_outcome or "").upper()
        return format_html('{}<br><span class="text-xs">{}</span>', badge(outcome), ago)

    @display(description="Last run")
    def shown_run(self, schedule: Any) -> str:
        """Return a link to the newest run that a tick started."""
        return run_link(schedule.last_run)

    @display(description="Last error")
    def shown_error(self, schedule: Schedule) -> str:
        """Return why the last tick started nothing."""
        return error_text(schedule.last_error)

    @display(description="Comes next")
    def shown_preview(self, schedule: Schedule) -> str:
        """Return the next instants, by the schedule's clock and in UTC."""
        now = clock.now()
        try:
            rows = list(preview(schedule, now))
        except CronError as error:
            return str(error)
        cells = '<tr><td class="pr-8">{}</td><td class="pr-8">{}</td><td>{}</td></tr>'
        table = format_html("<table>{}</table>", format_html_join("", cells, rows)) if rows else ""
        if not schedule.enabled:
            return format_html("Paused. Resumed now, it would come at{}", table or " no time at all")
        return table or "never: nothing is left"

    @display(description="Fields of the input")
    def shown_input_fields(self, schedule: Schedule) -> str:
        """Return what the workflow takes."""
        definition = find_definition(schedule.workflow)
        if definition is None:
            return "-"
        fields = fields_of(definition.input_model.model_json_schema())
        return format_html_join("", "<div><code>{}</code>: {}, {}</div>", fields) or "-"

    @display(description="What people did")
    def shown_acts(self, schedule: Schedule) -> str:
        """Return who did what to it, and why; the newest first."""
        acts = Act.objects.filter(target=target(schedule)).order_by("-id")[:10]
        rows = ((act.at.strftime("%Y-%m-%d %H:%M"), act.actor, act.action, act.reason) for act in acts)
        return format_html_join("", "<div>{} <b>{}</b> {}: {}</div>", rows) or "-"

    @action(description="Run now", url_path="run-now", icon="play_arrow", permissions=["run_now"])
    def run_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Start a run by hand. Sent twice, it starts one."""
        form = RunNowForm(request.POST or None, initial={"token": uuid.uuid4().hex})

        def act(schedule_id: Any, **given: Any) -> None:
            run = run_schedule_now(schedule_id, **given)
            messages.success(request, format_html("Started run {}.", run_link(run.pk)))

        text = "Starts one run at once, with the input of the schedule. The times of the schedule stay as they are."
        return self.ask(request, object_id, "Run now", text, act, form)

    @action(description="Pause", url_path="pause", icon="pause", permissions=["pause"])
    def pause(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let nothing come of it until it is resumed."""
        text = "Nothing comes of it until it is resumed. What would have come meanwhile is not caught up on."
        return self.ask(request, object_id, "Pause the schedule", text, pause_schedule)

    @action(description="Resume", url_path="resume", icon="play_arrow", permissions=["resume"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Let it come again."""
        text = "It comes again from now on. What would have come in the pause is not caught up on."
        return self.ask(request, object_id, "Resume the schedule", text, resume_schedule)
