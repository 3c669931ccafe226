"""One decision about many dead letters: what was asked for, and what became of each of them."""

from django.db import models

from workflows.ids import uuid7
from workflows.leases import Leased


class BulkJob(Leased):
    """One decision about a list of dead letters that was frozen when somebody took it."""

    class State(models.TextChoices):
        RUNNING = "RUNNING"
        DONE = "DONE"  # every item has its outcome
        STOPPED = "STOPPED"  # by a person; the items that are left stay PENDING

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    action = models.CharField(max_length=20)
    parameters = models.JSONField(default=dict, blank=True)
    actor = models.CharField(max_length=100)
    reason = models.TextField()
    state = models.CharField(max_length=20, choices=State, default=State.RUNNING)
    per_second = models.PositiveIntegerField()
    total = models.PositiveIntegerField(default=0)
    # When the next item may be dealt with: what keeps the pace over passes, workers and crashes.
    next_at = models.DateTimeField()
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = (
            models.Index(
                fields=["created_at"], name="workflows_bulkjob_running", condition=models.Q(state="RUNNING")
            ),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.total} dead letters"


class BulkItem(models.Model):
    """One dead letter of a job, and what became of it."""

    class State(models.TextChoices):
        PENDING = "PENDING"
        DONE = "DONE"
        FAILED = "FAILED"  # refused; the detail says why, and the dead letter is as it was
        SKIPPED = "SKIPPED"  # somebody else had resolved it; the detail says who

    job = models.ForeignKey(BulkJob, models.CASCADE, related_name="items", db_index=False)
    # No constraint: the record of what was done outlives a run that is archived.
    dead_letter = models.ForeignKey(
        "workflows.DeadLetter", models.DO_NOTHING, related_name="+", db_index=False, db_constraint=False
    )
    state = models.CharField(max_length=20, choices=State, default=State.PENDING)
    detail = models.TextField(default="", blank=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["job", "dead_letter"], name="workflows_bulkitem_unique"),
        )
        # Both what is to be done next, and how many there are of each kind.
        indexes = (models.Index(fields=["job", "state", "id"], name="workflows_bulkitem_next"),)
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.dead_letter_id} {self.state}"
