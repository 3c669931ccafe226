"""Having something sent that would not be sent by itself: again what was given up or taken, or an event for a trial."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from dalp.webhooks.events import TEST, test_body
from dalp.webhooks.models import Delivery, DeliveryState, Webhook
from signer import acts
from workflows import clock

# What a replay forgets: it has a day again.
AFRESH: dict[str, Any] = {
    "state": DeliveryState.PENDING,
    "attempts": 0,
    "failing_since": None,
    "settled_at": None,
}


def replay(delivery: Delivery, *, actor: str, reason: str) -> None:
    """Have a delivery sent now, under its id and with its bytes, whatever became of it before."""
    with transaction.atomic():
        _send_again(Delivery.objects.filter(pk=delivery.pk))
        details = {"subject": str(delivery), "webhook": str(delivery.webhook_id)}
        acts.note(actor, "replay_delivery", reason, transaction=delivery.transaction, details=details)


def replay_dead(webhook: Webhook, *, actor: str, reason: str) -> int:
    """Have everything sent that this webhook was not delivered; return how many."""
    with transaction.atomic():
        count = _send_again(Delivery.objects.filter(webhook=webhook, state=DeliveryState.DEAD))
        details = {"subject": str(webhook), "webhook": str(webhook.pk), "deliveries": count}
        acts.note(actor, "replay_dead_deliveries", reason, details=details)
    return count


def _send_again(rows: "QuerySet[Delivery]") -> int:
    return rows.update(next_at=Now(), **AFRESH)


def send_test(webhook: Webhook, *, actor: str, reason: str) -> Delivery:
    """Put an event for a trial into the outbox; return its delivery."""
    with transaction.atomic():
        delivery = Delivery.objects.create(
            webhook=webhook, type=TEST, body=test_body(webhook.pk, clock.now())
        )
        details = {"subject": str(webhook), "webhook": str(webhook.pk)}
        acts.note(actor, "test_webhook", reason, details=details)
    return delivery
