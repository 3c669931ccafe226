"""The rows that a run is made of. They are the truth; Redis and Celery only say where to look."""

from django.db import models
from django.db.models import Q

from workflows.ids import uuid7
from workflows.leases import Leased
from workflows.states import (
    CLAIMABLE,
    DeadLetterReason,
    DeadLetterState,
    RunState,
    StepState,
    WaitingFor,
    WaitState,
)


class Run(Leased):
    """One execution of a workflow.

    `wake_at` is the instant from which a worker may claim it; NULL while only an outside event can wake it.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    workflow = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    fingerprint = models.CharField(max_length=64)
    queue = models.CharField(max_length=100)
    position = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=20, choices=RunState, default=RunState.READY)
    waiting_for = models.CharField(max_length=20, choices=WaitingFor, default=WaitingFor.NOTHING, blank=True)
    compensating = models.BooleanField(default=False)
    input = models.JSONField()
    input_hash = models.CharField(max_length=64)
    output = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    scope = models.CharField(max_length=100, default="", blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    correlation_id = models.CharField(max_length=100, default="", blank=True)
    object_key = models.CharField(max_length=255, default="", blank=True)
    wake_at = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(null=True, blank=True)  # by the sweeper, since the last claim
    recoveries = models.PositiveIntegerField(default=0)
    history_seq = models.PositiveIntegerField(default=0)
    history_hash = models.CharField(max_length=64, default="")
    created_at = models.DateTimeField(db_default=models.functions.Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["workflow", "scope", "idempotency_key"], name="workflows_run_idempotency_unique"
            ),
            models.CheckConstraint(
                name="workflows_run_finished_has_instant",
                condition=Q(finished_at__isnull=True)
                ^ Q(state__in=["SUCCEEDED", "COMPENSATED", "FAILED", "CANCELLED"]),
            ),
        )
        indexes = (
            # What the sweeper looks for: due and unclaimed. Finished runs are not in it.
            models.Index(
                fields=["wake_at"],
                name="workflows_run_due",
                condition=Q(state__in=sorted(CLAIMABLE), wake_at__isnull=False),
            ),
            models.Index(
                fields=["object_key", "created_at"], name="workflows_run_key", condition=~Q(object_key="")
            ),
            models.Index(fields=["correlation_id"], name="workflows_run_correlation"),
            models.Index(fields=["state", "-created_at"], name="workflows_run_state_newest"),
        )

    def __str__(self) -> str:
        return f"{self.workflow} {self.id}"


class Step(models.Model):
    """One operation of a run: a step, or the undo of one. `operation_id` is stable over attempts."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="steps")
    operation_id = models.CharField(max_length=120)
    name = models.CharField(max_length=100)
    seq = models.PositiveIntegerField()
    state = models.CharField(max_length=20, choices=StepState, default=StepState.PENDING)
    attempt = models.PositiveIntegerField(default=0)
    attempts_forgiven = models.PositiveIntegerField(default=0)  # those before the last replay don't count
    half_done = models.BooleanField(
        default=False
    )  # failed, but some of its commands had succeeded: undo it, too
    output = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            # The outcome of an operation is recorded once; a second writer meets this row.
            models.UniqueConstraint(fields=["run", "operation_id"], name="workflows_step_operation_unique"),
        )
        ordering = ("seq",)

    def __str__(self) -> str:
        return f"{self.operation_id} {self.state}"


class Wait(models.Model):
    """One command that a run waits for."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="waits")
    operation_id = models.CharField(max_length=120)
    attempt = models.PositiveIntegerField()
    index = models.PositiveIntegerField()
    alone = models.BooleanField(default=True)  # the step returned it bare, not in a list
    kind = models.CharField(max_length=50)
    reference = models.CharField(max_length=100, default="", blank=True)
    state = models.CharField(max_length=20, choices=WaitState, default=WaitState.PENDING)
    due_at = models.DateTimeField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["run", "operation_id", "attempt", "index"], name="workflows_wait_occurrence_unique"
            ),
        )
        indexes = (models.Index(fields=["kind", "reference"], name="workflows_wait_reference"),)
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.kind} {self.reference} {self.state}"


class Event(models.Model):
    """One transition of a run. Append-only, chained by hash; the database refuses UPDATE and DELETE."""

    run = models.ForeignKey(Run, models.PROTECT, related_name="events")
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=50)
    at = models.DateTimeField()
    data = models.JSONField()
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["run", "seq"], name="workflows_event_seq_unique"),)
        ordering = ("run", "seq")

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


class DeadLetter(models.Model):
    """A run that cannot go on without a person. Attached to the live run, not a copy of it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="dead_letters")
    operation_id = models.CharField(max_length=120)
    reason = models.CharField(max_length=40, choices=DeadLetterReason)
    error = models.JSONField()
    state = models.CharField(max_length=20, choices=DeadLetterState, default=DeadLetterState.OPEN)
    created_at = models.DateTimeField(db_default=models.functions.Now())
    alerted_at = models.DateTimeField(null=True, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolved_by = models.CharField(max_length=100, default="", blank=True)
    resolution = models.CharField(max_length=20, default="", blank=True)
    note = models.TextField(default="", blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["run"], condition=Q(state="OPEN"), name="workflows_dead_letter_open_unique"
            ),
        )
        indexes = (
            models.Index(fields=["state", "-created_at"], name="workflows_dead_letter_newest"),
            models.Index(
                fields=["created_at"],
                name="workflows_dead_letter_alert",
                condition=Q(alerted_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.reason} {self.operation_id}"


class ObjectKey(models.Model):
    """A virtual object's key and the run that holds it. The queue behind it are the waiting runs of that key."""

    key = models.CharField(max_length=255, primary_key=True)
    holder = models.ForeignKey(Run, models.PROTECT, null=True, related_name="+")

    def __str__(self) -> str:
        return self.key
