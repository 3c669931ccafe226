"""What is not kept: old deliveries, those of webhooks that are gone, and secrets that no longer sign."""

from datetime import timedelta

import structlog
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from dalp.webhooks.models import Delivery, DeliveryState, Webhook
from dalp.webhooks.sealing import SecretUnreadableError, sealed_anew

log = structlog.get_logger()

DELIVERED_DAYS = 14
DEAD_DAYS = 90  # a person may still replay them
BATCH = 1000
BATCHES_MAX = 100


def forget() -> int:
    """Delete what is past its time, and see to the secrets; return how many deliveries were deleted. Run each hour."""
    replace_old_seals()
    Webhook.objects.filter(previous_until__lt=Now()).update(previous_until=None, previous_secret_sealed="")
    return sum(map(_delete, (DeliveryState.DELIVERED, DeliveryState.DEAD))) + delete_orphans()


def _delete(state: DeliveryState) -> int:
    days = DELIVERED_DAYS if state == DeliveryState.DELIVERED else DEAD_DAYS
    old = Delivery.objects.filter(state=state, settled_at__lt=Now() - timedelta(days=days))
    deleted = 0
    for _ in range(BATCHES_MAX):  # each its own commit: nobody waits for long
        ids = list(old.order_by("settled_at").values_list("pk", flat=True)[:BATCH])
        deleted += Delivery.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < BATCH:
            break
    return deleted


def delete_orphans() -> int:
    """Delete what the signer put into an outbox while its webhook was being deleted."""
    known = Webhook.objects.filter(pk=OuterRef("webhook_id"))
    ids = list(Delivery.objects.filter(~Exists(known)).values_list("pk", flat=True)[:BATCH])
    return Delivery.objects.filter(pk__in=ids).delete()[0]


def replace_old_seals() -> None:
    """Seal under today's SECRET_KEY what is sealed under an older one."""
    for webhook in Webhook.objects.all():
        try:
            anew = sealed_anew(webhook.secret_sealed)
        except SecretUnreadableError:
            log.error("webhook_secret_unreadable", webhook=str(webhook.pk))  # noqa: TRY400 - no trace of a secret
            continue
        if anew is not None:
            # Not over a secret that was set meanwhile.
            same = Webhook.objects.filter(pk=webhook.pk, secret_sealed=webhook.secret_sealed)
            same.update(secret_sealed=anew)
