"""What is to be sent next, and to whom; and what lies in each outbox, for people."""

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce, Now
from django.db.models.lookups import GreaterThan

from dalp.webhooks.models import Delivery, DeliveryState, Webhook


def due() -> "QuerySet[Delivery]":
    """Return the deliveries whose time has come, and before which nothing of the same transaction is to be sent.

    Without the second condition a receiver that refused one event for a while would learn of the later one first.
    """
    return Delivery.objects.filter(state=DeliveryState.PENDING, next_at__lte=Now()).exclude(IS_BEHIND)


# That an earlier event of the delivery's transaction is still to be sent there. Asked of one row after the other, by an
# index: of `NOT EXISTS` PostgreSQL makes a join of the whole outbox with itself, before it has found the first.
IS_BEHIND: "GreaterThan[Any]" = GreaterThan(
    F("pk"),
    Coalesce(
        Subquery(
            Delivery.objects.filter(
                webhook=OuterRef("webhook"), transaction=OuterRef("transaction"), state=DeliveryState.PENDING
            )
            .order_by("pk")
            .values("pk")[:1]
        ),
        F("pk"),
    ),  # an event for a trial is of no transaction
)


def next_of(webhook: Any) -> "QuerySet[Delivery]":
    """Return what is to be sent to a webhook: in the order of an index, which is read no further than is needed."""
    return due().filter(webhook=webhook).order_by("next_at", "pk")


def waiting_webhooks(but: Collection[UUID]) -> "QuerySet[Webhook]":
    """Return the webhooks that something is due for, and that nobody sends to; but: to leave out.

    In no order: where there are more than one courier takes, each has its turn.
    """
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=Now())
    # Not Exists: PostgreSQL would make one join of all outboxes out of it, instead of a look into each.
    first = Subquery(next_of(OuterRef("pk")).values("pk")[:1])
    rows = Webhook.objects.filter(free, receptive()).exclude(pk__in=but)
    return rows.alias(first=first).filter(first__isnull=False).order_by("?")


def receptive() -> Q:
    """Return the condition that a webhook may be sent to now."""
    return Q(enabled=True) & (Q(paused_until__isnull=True) | Q(paused_until__lte=Now()))


def with_counts(webhooks: "QuerySet[Webhook]") -> "QuerySet[Webhook]":
    """Annotate webhooks with how much is `pending` and `dead`, and `pending_since` when.

    Each by an index of its own: what was delivered is most of the table, and is not looked at.
    """
    pending = _of(DeliveryState.PENDING)
    return webhooks.annotate(
        pending=_counted(pending),
        pending_since=Subquery(pending.order_by("created_at").values("created_at")[:1]),
        dead=_counted(_of(DeliveryState.DEAD)),
    )


def _of(state: DeliveryState) -> "QuerySet[Delivery]":
    return Delivery.objects.filter(webhook=OuterRef("pk"), state=state)


def _counted(rows: "QuerySet[Delivery]") -> Coalesce:
    count = rows.order_by().values("webhook").annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(count), 0)
