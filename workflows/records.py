"""The record of what happened: events, acts, the seals over them, and what is left of archived runs.

All of them are append-only; the database itself refuses to change or delete them (migration 0002).
"""

from django.db import models
from django.db.models import Q


class Event(models.Model):
    """One transition of a run. Chained by hash; never altered, and deleted only with a run that is archived."""

    run = models.ForeignKey("workflows.Run", models.PROTECT, related_name="events", db_index=False)
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


class Act(models.Model):
    """What a person did to runs, queues or objects, and why. Never altered and never deleted."""

    # Counted by the database, as events are: a seal covers all between two numbers.
    id = models.BigAutoField(primary_key=True)
    actor = models.CharField(max_length=100)
    action = models.CharField(max_length=40)
    target = models.CharField(max_length=300)
    reason = models.TextField()
    details = models.JSONField(default=dict, blank=True)
    at = models.DateTimeField(db_default=models.functions.Now())

    class Meta:
        indexes = (models.Index(fields=["target", "-id"], name="workflows_act_target"),)
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.action} {self.target} by {self.actor}"


class Seal(models.Model):
    """One Merkle root over the events and acts between two numbers, chained by hash to the seal before.

    Its leaves are the hashes of the events `first_event` to `last_event`, then those of the acts, each in the order of
    their numbers. Numbers that were never used lie between them, too: hence the counts.
    """

    number = models.PositiveBigIntegerField(primary_key=True)
    first_event = models.PositiveBigIntegerField()
    last_event = models.PositiveBigIntegerField()
    event_count = models.PositiveIntegerField()
    first_act = models.PositiveBigIntegerField()
    last_act = models.PositiveBigIntegerField()
    act_count = models.PositiveIntegerField()
    root = models.CharField(max_length=64)
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)
    sealed_at = models.DateTimeField()
    # Where the root was written down for others to see. Set once, later; the only column that may change.
    anchor = models.JSONField(null=True, blank=True)

    class Meta:
        constraints = (
            # What two seals cover never overlaps, whatever goes wrong in the code.
            models.UniqueConstraint(fields=["first_event", "first_act"], name="workflows_seal_start_unique"),
        )
        indexes = (
            models.Index(fields=["last_event"], name="workflows_seal_last_event"),
            models.Index(
                fields=["number"], name="workflows_seal_unanchored", condition=Q(anchor__isnull=True)
            ),
        )
        ordering = ("number",)

    def __str__(self) -> str:
        return f"seal {self.number}"


class ArchivedRun(models.Model):
    """A run that was moved into an archive file. Its events may be deleted once this row exists, not before."""

    run_id = models.UUIDField(db_index=True)  # no foreign key: the run is gone
    workflow = models.CharField(max_length=100)
    state = models.CharField(max_length=20)
    scope = models.CharField(max_length=100, default="", blank=True)
    idempotency_key = models.CharField(max_length=255, null=True, blank=True)
    input_hash = models.CharField(max_length=64)
    history_seq = models.PositiveIntegerField()
    history_hash = models.CharField(max_length=64)
    finished_at = models.DateTimeField()
    file = models.CharField(max_length=120)
    sha256 = models.CharField(max_length=64)  # of the file's lines, as its last line says it
    archived_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["run_id", "sha256"], name="workflows_archivedrun_file_unique"),
        )
        indexes = (
            # A key that was used for an archived run is used up.
            models.Index(
                fields=["workflow", "scope", "idempotency_key"],
                name="workflows_archivedrun_key",
                condition=Q(idempotency_key__isnull=False),
            ),
            models.Index(fields=["file"], name="workflows_archivedrun_file"),
        )

    def __str__(self) -> str:
        return f"{self.workflow} {self.run_id} in {self.file}"


class ArchivedLeaves(models.Model):
    """The leaves that an archive took out of a seal: its root can still be computed without the file."""

    seal = models.ForeignKey(Seal, models.PROTECT, related_name="archived_leaves")
    sha256 = models.CharField(max_length=64)  # of the archive
    data = models.BinaryField()  # for each event its id, 8 bytes, and its hash, 32 bytes

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["seal", "sha256"], name="workflows_archivedleaves_unique"),
        )

    def __str__(self) -> str:
        return f"{len(self.data) // 40} leaves of {self.seal_id}"
