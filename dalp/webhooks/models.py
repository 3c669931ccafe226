"""Who is told, and the outbox: a row for each event and receiver, written by the database in the commit of the event.

Upheld here and by the triggers (migration 0002): what a receiver subscribed to is in its outbox when the transaction's
new state is committed, and not before. The number of a delivery orders the events of one transaction: a state is
changed under the lock of the transaction's row, so the later one gets its number after the earlier one is committed.
"""

import uuid
from urllib.parse import urlsplit

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from signer.models import Transaction
from workflows import Leased, uuid7


class Webhook(Leased):
    """A receiver. One worker at a time sends to it. Its URL may hold a key, so people see the host alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    url = models.TextField(editable=False)
    events = models.JSONField()  # the types that it is told
    description = models.CharField(max_length=200, default="", blank=True)
    enabled = models.BooleanField(
        default=True
    )  # else nothing is put into its outbox, and nothing sent from it
    disabled_because = models.TextField(default="", blank=True)
    secret_sealed = models.TextField(editable=False)
    # The one before signs too for a while, so that a receiver has the time to learn the new one.
    previous_secret_sealed = models.TextField(default="", blank=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True)
    # Of the receiver as a whole: how often in a row it wasn't there, and until when it is left alone for it.
    failures = models.PositiveIntegerField(default=0)
    paused_until = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)
    last_error_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150, default="", blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"webhook to {self.host}"

    @property
    def host(self) -> str:
        """The host, and the port where the URL names one."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


class DeliveryState(models.TextChoices):
    PENDING = "PENDING"  # to be sent, at once or again
    DELIVERED = "DELIVERED"  # the receiver said that it has it
    DEAD = "DEAD", "given up"  # not taken for a day, or the receiver is gone; a person may replay it


class Delivery(models.Model):
    """An event for one receiver: the same id and the same bytes whenever it is sent."""

    id = models.BigAutoField(primary_key=True)
    message_id = models.UUIDField(default=uuid.uuid4, editable=False)  # the header webhook-id
    # No constraints in the database: each insertion would lock the webhook's row in the signer's own transaction, and
    # whoever deletes a webhook would make the signer fail. What a deletion overlooks is swept up (forgetting.py).
    webhook = models.ForeignKey(
        Webhook, on_delete=models.CASCADE, related_name="deliveries", db_constraint=False, db_index=False
    )
    transaction = models.ForeignKey(
        Transaction,
        on_delete=models.DO_NOTHING,  # transactions are never deleted
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )
    type = models.CharField(max_length=60)
    body = models.TextField()
    state = models.CharField(max_length=10, choices=DeliveryState, default=DeliveryState.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(db_default=Now())
    failing_since = models.DateTimeField(null=True, blank=True)  # it is given up a day later
    last_status = models.PositiveSmallIntegerField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "deliveries"
        constraints = (
            models.UniqueConstraint(fields=["message_id"], name="webhooks_delivery_message_unique"),
            models.CheckConstraint(
                name="webhooks_delivery_settled_has_instant",
                condition=Q(state=DeliveryState.PENDING, settled_at__isnull=True)
                | (~Q(state=DeliveryState.PENDING) & Q(settled_at__isnull=False)),
            ),
        )
        indexes = (
            # What is to be sent next; what was sent is not in it.
            models.Index(
                fields=["webhook", "next_at", "id"],
                name="webhooks_delivery_due",
                condition=Q(state=DeliveryState.PENDING),
            ),
            # Whether an earlier event of the same transaction is still to be sent.
            models.Index(
                fields=["webhook", "transaction", "id"],
                name="webhooks_delivery_order",
                condition=Q(state=DeliveryState.PENDING),
            ),
            models.Index(
                fields=["webhook"], name="webhooks_delivery_dead", condition=Q(state=DeliveryState.DEAD)
            ),
            models.Index(
                fields=["settled_at"],
                name="webhooks_delivery_settled",
                condition=Q(settled_at__isnull=False),
            ),
            models.Index(fields=["webhook", "-id"], name="webhooks_delivery_listed"),
            models.Index(fields=["transaction", "id"], name="webhooks_delivery_transaction"),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.message_id}"
