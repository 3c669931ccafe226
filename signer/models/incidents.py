"""What a person must know of, and what people did."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from signer.models.chains import Chain
from signer.models.transactions import Lane, Transaction
from signer.states import IncidentKind
from workflows import uuid7


class Incident(models.Model):
    """Something that does not pass by itself, told once. Closed by what mends it, or by a person."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=30, choices=IncidentKind)
    subject = models.CharField(
        max_length=200
    )  # what it is about: at most one open incident for each kind and subject
    chain = models.ForeignKey(
        Chain, on_delete=models.CASCADE, null=True, blank=True, related_name="incidents"
    )
    lane = models.ForeignKey(Lane, on_delete=models.PROTECT, null=True, blank=True, related_name="incidents")
    text = models.TextField()
    details = models.JSONField(default=dict, blank=True)
    opened_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_because = models.TextField(default="", blank=True)
    closed_by = models.CharField(max_length=150, default="", blank=True)

    class Meta:
        ordering = ("-opened_at",)
        constraints = (
            # Decides which of two workers that notice the same thing tells people of it.
            models.UniqueConstraint(
                fields=["kind", "subject"],
                name="signer_incident_open_unique",
                condition=Q(closed_at__isnull=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject}"


class Act(models.Model):
    """What a person did to a lane or a transaction. Append-only."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    actor = models.CharField(max_length=150)
    verb = models.CharField(max_length=30)
    reason = models.TextField()
    lane = models.ForeignKey(Lane, on_delete=models.PROTECT, null=True, blank=True, related_name="acts")
    transaction = models.ForeignKey(
        Transaction, on_delete=models.PROTECT, null=True, blank=True, related_name="acts"
    )
    details = models.JSONField(default=dict, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-at",)

    def __str__(self) -> str:
        return f"{self.verb} by {self.actor}"
