"""The rows that a run is made of. They are the truth; Redis and Celery only say where to look.

Indexes are made for what the engine asks all the time. They name no column that changes from one step to the next:
PostgreSQL then updates a run without touching an index.
"""

from uuid import UUID

from django.db import models
from django.db.models import Q

from workflows.bulk import BulkItem, BulkJob
from workflows.ids import uuid7
from workflows.leases import Leased
from workflows.records import Act, ArchivedLeaves, ArchivedRun, Event, Seal
from workflows.schedules.models import Schedule, Tick
from workflows.states import (
    HELD,
    Control,
    DeadLetterReason,
    DeadLetterState,
    Join,
    RunState,
    StepState,
    WaitingFor,
    WaitState,
)

# Models of this app that have a module of their own.
__all__ = ("Act", "ArchivedLeaves", "ArchivedRun", "BulkItem", "BulkJob", "Event", "Schedule", "Seal", "Tick")

LIVE = Q(finished_at__isnull=True)


class Run(Leased):
    """One execution of a workflow, or of one branch of a run that does several things at once.

    `wake_at` is the instant from which a worker may claim it; NULL while only an outside event can wake it.
    `operation` is what it does, or does next; `attempt` counts the tries at it, before their code runs.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    workflow = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    fingerprint = models.CharField(max_length=64)
    queue = models.CharField(max_length=100)
    priority = models.PositiveSmallIntegerField(default=0)
    position = models.PositiveSmallIntegerField(default=0)
    operation = models.CharField(max_length=120, default="", blank=True)
    attempt = models.PositiveIntegerField(default=0)
    operation_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=20, choices=RunState, default=RunState.READY)
    waiting_for = models.CharField(max_length=20, choices=WaitingFor, default=WaitingFor.NOTHING, blank=True)
    control = models.CharField(max_length=20, choices=Control, default=Control.NONE, blank=True)
    asked = models.BooleanField(default=False)  # and no worker has seen it yet
    request = models.JSONField(null=True, blank=True)  # who asked for it, and why
    compensating = models.BooleanField(default=False)
    input = models.JSONField()
    input_hash = models.CharField(max_length=64)
    output = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    scope = models.CharField(max_length=100, default="", blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    correlation_id = models.CharField(max_length=100, default="", blank=True)
    object_key = models.CharField(max_length=255, default="", blank=True)
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="children", db_index=False
    )
    # The parent's operation that this run carries out; empty for a run of its own, a child workflow too.
    branch = models.CharField(max_length=120, default="", blank=True)
    forked_from = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="forks", db_index=False
    )
    wake_at = models.DateTimeField(null=True, blank=True)
    rung_at = models.DateTimeField(null=True, blank=True)  # by the sweeper, since the last claim
    deadline_at = models.DateTimeField(null=True, blank=True)
    recoveries = models.PositiveIntegerField(default=0)  # workers in a row that died while they held it
    history_seq = models.PositiveIntegerField(default=0)
    history_hash = models.CharField(max_length=64, default="")
    legal_hold = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=models.functions.Now())
    finished_at = models.DateTimeField(null=True, blank=True)

    limited = False  # whether the claim took a limited place; others may be waiting for it

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["workflow", "scope", "idempotency_key"],
                name="workflows_run_idempotency_unique",
                condition=Q(idempotency_key__isnull=False),
            ),
            # A branch exists once, however often a worker dies while it makes them.
            models.UniqueConstraint(
                fields=["parent", "branch"], name="workflows_run_branch_unique", condition=~Q(branch="")
            ),
            models.CheckConstraint(
                name="workflows_run_finished_has_instant",
                condition=Q(finished_at__isnull=True)
                ^ Q(state__in=["SUCCEEDED", "COMPENSATED", "FAILED", "CANCELLED"]),
            ),
        )
        indexes = (
            # What the sweeper looks for: due and unclaimed. Finished runs are not in it.
            models.Index(fields=["wake_at"], name="workflows_run_due", condition=Q(wake_at__isnull=False)),
            models.Index(
                fields=["-priority", "wake_at"],
                name="workflows_run_urgent",
                condition=Q(priority__gt=0, wake_at__isnull=False),
            ),
            # Who is next in a workflow or a queue that is limited, however many of others are due.
            models.Index(
                fields=["workflow", "-priority", "wake_at"],
                name="workflows_run_next",
                condition=Q(wake_at__isnull=False),
            ),
            models.Index(
                fields=["queue", "-priority", "wake_at"],
                name="workflows_run_next_in_queue",
                condition=Q(wake_at__isnull=False),
            ),
            models.Index(
                fields=["deadline_at"],
                name="workflows_run_deadline",
                condition=LIVE & Q(deadline_at__isnull=False),
            ),
            models.Index(
                fields=["object_key", "created_at", "id"],
                name="workflows_run_key",
                condition=LIVE & ~Q(object_key=""),
            ),
            models.Index(
                fields=["parent"],
                name="workflows_run_live_children",
                condition=LIVE & Q(parent__isnull=False),
            ),
            models.Index(fields=["parent"], name="workflows_run_children", condition=Q(parent__isnull=False)),
            models.Index(
                fields=["forked_from"], name="workflows_run_forks", condition=Q(forked_from__isnull=False)
            ),
            models.Index(fields=["id"], name="workflows_run_live", condition=LIVE),
            # Few: not more than there are workers, and what waits while it undoes.
            models.Index(fields=["id"], name="workflows_run_held", condition=Q(state__in=sorted(HELD))),
            models.Index(fields=["id"], name="workflows_run_branching", condition=Q(waiting_for="branches")),
            models.Index(fields=["id"], name="workflows_run_asked", condition=Q(asked=True)),
            models.Index(fields=["state", "id"], name="workflows_run_ended", condition=~LIVE),
            models.Index(fields=["workflow", "finished_at"], name="workflows_run_retention", condition=~LIVE),
            models.Index(fields=["correlation_id"], name="workflows_run_correlation"),
        )

    def __str__(self) -> str:
        return f"{self.workflow} {self.branch or self.id}"

    @property
    def home_id(self) -> UUID:
        """The run whose step this one carries out: its parent's for a branch, otherwise its own."""
        return self.parent_id if self.branch and self.parent_id else self.pk


class Step(models.Model):
    """The outcome, so far, of one operation of a run: a step, an item of one, or the undo of one.

    `operation_id` is stable over attempts. The row appears with the first outcome; what runs now stands in the run.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="steps", db_index=False)
    operation_id = models.CharField(max_length=120)
    name = models.CharField(max_length=100)
    seq = models.PositiveBigIntegerField()  # its place in the definition, then in the list
    index = models.PositiveIntegerField(default=0)  # its place in the list, of a step with `each`
    state = models.CharField(max_length=20, choices=StepState, default=StepState.PENDING)
    attempt = models.PositiveIntegerField(default=0)
    attempts_forgiven = models.PositiveIntegerField(default=0)  # those before the last replay don't count
    # It did not succeed, and may have happened all the same, wholly or in part: undo it, too.
    uncertain = models.BooleanField(default=False)
    # Copied by a fork from a run that counts on it: its undo is not this run's to do.
    borrowed = models.BooleanField(default=False)
    output = models.JSONField(null=True, blank=True)
    large = models.BooleanField(default=False)  # its output is a Payload
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


class Payload(models.Model):
    """An output too large for the row of its step."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="+", db_index=False)
    operation_id = models.CharField(max_length=120)
    data = models.JSONField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["run", "operation_id"], name="workflows_payload_unique"),
        )

    def __str__(self) -> str:
        return self.operation_id


class Wait(models.Model):
    """One command that a run waits for."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="waits", db_index=False)
    operation_id = models.CharField(max_length=120)
    attempt = models.PositiveIntegerField()
    index = models.PositiveIntegerField()
    join = models.CharField(max_length=10, choices=Join, default=Join.ALONE)
    kind = models.CharField(max_length=50)
    reference = models.CharField(max_length=255, default="", blank=True)
    state = models.CharField(max_length=20, choices=WaitState, default=WaitState.PENDING)
    # When a sleep is over; when anything else has taken too long.
    due_at = models.DateTimeField(null=True, blank=True)
    result = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=models.functions.Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["run", "operation_id", "attempt", "index"], name="workflows_wait_occurrence_unique"
            ),
        )
        indexes = (
            models.Index(
                fields=["kind", "reference"], name="workflows_wait_pending", condition=Q(state="PENDING")
            ),
            models.Index(fields=["reference"], name="workflows_wait_reference"),
        )
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.kind} {self.reference} {self.state}"


class Signal(models.Model):
    """A message to a run. Stored when it comes before the run waits for it."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="signals", db_index=False)
    name = models.CharField(max_length=100)
    dedup_id = models.CharField(max_length=255, null=True, blank=True)
    payload = models.JSONField(null=True, blank=True)
    sender = models.CharField(max_length=100, default="", blank=True)
    created_at = models.DateTimeField(db_default=models.functions.Now())
    consumed_by = models.CharField(max_length=120, default="", blank=True)  # the operation that waited for it

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["run", "name", "dedup_id"], name="workflows_signal_unique"),
        )
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.name} for {self.run_id}"


class Approval(models.Model):
    """A question to people: may this run go on?"""

    class State(models.TextChoices):
        PENDING = "PENDING"
        APPROVED = "APPROVED"
        REJECTED = "REJECTED"
        WITHDRAWN = "WITHDRAWN"  # timed out, or the run was cancelled

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="approvals")
    operation_id = models.CharField(max_length=120)
    group = models.CharField(max_length=100)
    needed = models.PositiveSmallIntegerField(default=1)
    show = models.JSONField(null=True, blank=True)
    state = models.CharField(max_length=20, choices=State, default=State.PENDING)
    due_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=models.functions.Now())
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (models.Index(fields=["state", "-created_at"], name="workflows_approval_newest"),)

    def __str__(self) -> str:
        return f"{self.operation_id} by {self.group}: {self.state}"


class Vote(models.Model):
    """One person's word on an approval."""

    approval = models.ForeignKey(Approval, models.CASCADE, related_name="votes")
    actor = models.CharField(max_length=100)
    approved = models.BooleanField()
    reason = models.TextField(default="", blank=True)
    created_at = models.DateTimeField(db_default=models.functions.Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["approval", "actor"], name="workflows_vote_once_per_person"),
        )
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.actor}: {'yes' if self.approved else 'no'}"


class DeadLetter(models.Model):
    """A run that cannot go on without a person. Attached to the live run, not a copy of it."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    run = models.ForeignKey(Run, models.CASCADE, related_name="dead_letters")
    workflow = models.CharField(max_length=100)
    operation_id = models.CharField(max_length=120)
    reason = models.CharField(max_length=40, choices=DeadLetterReason)
    error = models.JSONField()
    # The same for errors that differ only in numbers and names: what people see as one trouble.
    fingerprint = models.CharField(max_length=64, default="")
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
            models.Index(fields=["fingerprint", "-id"], name="workflows_dead_letter_alike"),
            models.Index(
                fields=["created_at"],
                name="workflows_dead_letter_alert",
                condition=Q(alerted_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.reason} {self.operation_id}"


class VirtualObjectState(models.Model):
    """A virtual object: its state, and the run that may write it. Its inbox are the waiting runs of its key."""

    key = models.CharField(max_length=255, primary_key=True)
    holder = models.ForeignKey(Run, models.PROTECT, null=True, blank=True, related_name="+")
    held_since = models.DateTimeField(null=True, blank=True)
    state = models.JSONField(null=True, blank=True)
    version = models.PositiveBigIntegerField(default=0)  # how often the state was written
    alerted_at = models.DateTimeField(
        null=True, blank=True
    )  # that its holder waits for a person, and others for it

    def __str__(self) -> str:
        return self.key


class Limit(models.Model):
    """What holds runs back: a pause, or how many at once and how often. `scope` is `queue:…`, `workflow:…` or `key:…`."""

    scope = models.CharField(max_length=300, primary_key=True)
    paused = models.BooleanField(default=False)
    concurrency = models.PositiveIntegerField(null=True, blank=True)
    rate = models.PositiveIntegerField(null=True, blank=True)
    per_seconds = models.PositiveIntegerField(default=1)
    reason = models.TextField(default="", blank=True)
    changed_by = models.CharField(max_length=100, default="", blank=True)
    changed_at = models.DateTimeField(db_default=models.functions.Now())

    def __str__(self) -> str:
        return self.scope


class Turn(models.Model):
    """A claim that counts against a rate limit, for as long as its window lasts."""

    scope = models.CharField(max_length=300)
    at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=["scope", "at"], name="workflows_turn_scope"),)

    def __str__(self) -> str:
        return f"{self.scope} {self.at}"


class DefinitionRecord(models.Model):
    """The shape of a definition that runs were started with, to compare a newer one against."""

    fingerprint = models.CharField(max_length=64, primary_key=True)
    workflow = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    shape = models.JSONField()
    first_seen_at = models.DateTimeField(db_default=models.functions.Now())

    def __str__(self) -> str:
        return f"{self.workflow} {self.fingerprint[:12]}"
