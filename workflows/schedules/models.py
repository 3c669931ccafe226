"""The rows of a schedule: what a person decides, and every instant that came of it.

`next_at` is the promise: no instant before it will fire, and none from it on has been dealt with. Whoever moves it writes
the tick in the same transaction, so nothing is lost between the two and nothing is done twice.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models import F, Q

from workflows import clock
from workflows.schedules.catch_up import CatchUp
from workflows.schedules.checks import problems
from workflows.schedules.cron import Cron


class TickOutcome(models.TextChoices):
    STARTED = "started"
    SKIPPED = "skipped"  # missed, and the schedule does not catch up on it
    FAILED = "failed"  # no run could be started; the error says why


class Schedule(models.Model):
    """A workflow started by the clock."""

    # What a person decides. `save` stores nothing else.
    DECIDED = ("name", "workflow", "input", "cron", "timezone", "catch_up", "enabled", "starts_at", "ends_at")

    name = models.CharField(max_length=100, unique=True)
    workflow = models.CharField(max_length=100, help_text="The name of a registered workflow.")
    input = models.JSONField(default=dict, blank=True, help_text="What each run is started with, as JSON.")
    cron = models.CharField(
        max_length=200, help_text="Minute, hour, day of month, month, day of week: 30 2 * * MON-FRI"
    )
    timezone = models.CharField(max_length=64, default="UTC", help_text="Whose clock the cron goes by.")
    catch_up = models.CharField(
        max_length=10,
        choices=CatchUp,
        default=CatchUp.LAST,
        help_text="When nothing could be started for more than a minute: what becomes of the times that were missed.",
    )
    enabled = models.BooleanField(
        default=True, help_text="Off: paused. What would have come in a pause is not caught up on."
    )
    starts_at = models.DateTimeField(null=True, blank=True, help_text="UTC. Nothing comes before it.")
    ends_at = models.DateTimeField(null=True, blank=True, help_text="UTC. Nothing comes from then on.")
    next_at = models.DateTimeField(null=True, blank=True, editable=False)  # NULL: nothing will come
    last_at = models.DateTimeField(null=True, blank=True, editable=False)
    last_error = models.JSONField(
        null=True, blank=True, editable=False
    )  # of the last tick, NULL if it had none
    created_at = models.DateTimeField(db_default=models.functions.Now(), editable=False)
    # Changes with every `save`. The sweeper's update demands the value that it read, so an instant that was planned by
    # an older cron expression never follows a newer one.
    updated_at = models.DateTimeField(db_default=models.functions.Now(), editable=False)

    class Meta:
        app_label = "workflows"
        constraints = (
            models.CheckConstraint(
                name="workflows_schedule_ends_after_start",
                condition=Q(starts_at__isnull=True) | Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at")),
                violation_error_message="The end must come after the start.",
            ),
        )
        indexes = (
            # What the sweeper looks for, every second. Paused and ended schedules are not in it.
            models.Index(
                fields=["next_at"],
                name="workflows_schedule_due",
                condition=Q(enabled=True, next_at__isnull=False),
            ),
        )
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **options: Any) -> None:
        """Store what a person decides and plan the next instant by it. What the sweeper writes stays as it is in the database.

        Raises CronError when cron or zone cannot be read.
        """
        now = clock.now()
        self.updated_at = now
        if self._state.adding:
            self.next_at = self.planned(now)
            super().save(*args, **options)
            return
        with transaction.atomic():
            fields = set(options.pop("update_fields", None) or self.DECIDED) & set(self.DECIDED)
            # From here to the commit the row is ours: PostgreSQL has locked it, SQLite has one writer.
            super().save(*args, **options, update_fields=[*fields, "updated_at"])
            stored = Schedule.objects.get(pk=self.pk)
            self.next_at = stored.planned(now)
            Schedule.objects.filter(pk=self.pk).update(next_at=self.next_at)

    def clean(self) -> None:
        """Raise ValidationError unless it can work; names each field that is wrong."""
        found = problems(self)
        if found:
            raise ValidationError({field: list(messages) for field, messages in found.items()})

    def planned(self, now: datetime) -> datetime | None:
        """Return the instant that comes next, None when paused or over.

        One that is due and has not been dealt with yet stays: an edit must not swallow it.
        """
        if not self.enabled:
            return None
        if self.next_at is not None and self.next_at <= now and self._holds(self.next_at):
            return self.next_at
        return next(self.instants(now), None)

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Yield the instants after this one in order, from `starts_at` on and before `ends_at`. Raises CronError."""
        if self.starts_at is not None and self.starts_at > after:
            after = self.starts_at - timedelta(microseconds=1)
        return takewhile(self._holds, Cron(self.cron, self.timezone).instants(after))

    def _holds(self, instant: datetime) -> bool:
        """Return whether an instant lies between start and end."""
        begun = self.starts_at is None or instant >= self.starts_at
        return begun and (self.ends_at is None or instant < self.ends_at)


class Tick(models.Model):
    """One instant of a schedule that was dealt with; or, when skipped, several in a row, of which this is the first."""

    schedule = models.ForeignKey(Schedule, models.PROTECT, related_name="ticks")
    due_at = models.DateTimeField()
    outcome = models.CharField(max_length=10, choices=TickOutcome)
    # No constraint: a run that has ended may leave for the archive, and the tick goes on saying which one it was.
    run = models.ForeignKey(
        "workflows.Run", models.DO_NOTHING, null=True, blank=True, related_name="+", db_constraint=False
    )
    missed = models.PositiveIntegerField(
        default=0
    )  # how many were skipped; 10 000 stands for that many or more
    error = models.JSONField(null=True, blank=True)
    late_by_seconds = models.FloatField()
    created_at = models.DateTimeField(db_default=models.functions.Now())

    class Meta:
        app_label = "workflows"
        constraints = (
            # Whoever comes second meets this row, whatever has happened to `next_at`.
            models.UniqueConstraint(fields=["schedule", "due_at"], name="workflows_tick_instant_unique"),
        )
        ordering = ("-due_at",)

    def __str__(self) -> str:
        return f"{self.due_at:%Y-%m-%d %H:%M:%S} UTC {self.outcome}"
