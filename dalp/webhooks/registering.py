"""What people and programs do with webhooks: register, stop, start, give another secret, remove. Each is on record."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F

from dalp.webhooks import addresses
from dalp.webhooks.events import DEFAULT_TYPES
from dalp.webhooks.models import Delivery, Webhook
from dalp.webhooks.recording import subject_of
from dalp.webhooks.sealing import new_secret, seal
from signer import acts
from signer.incidents import close_incident
from signer.states import IncidentKind
from workflows.clock import in_seconds

# How long the secret before signs, too.
OVERLAP = timedelta(hours=24)


def register(
    url: str, *, actor: str, events: Sequence[str] = DEFAULT_TYPES, description: str = ""
) -> tuple[Webhook, str]:
    """Store a webhook; return it with its secret, which is shown to nobody again.

    The caller has had the address checked, outside of any transaction: that asks a name server. Raises
    AddressRefusedError for what the URL's text alone says.
    """
    addresses.parse(url)
    secret = new_secret()
    with transaction.atomic():
        webhook = Webhook.objects.create(
            url=url,
            events=list(dict.fromkeys(events)),
            description=description,
            secret_sealed=seal(secret),
            created_by=actor,
        )
        _note(webhook, actor, "add_webhook", description or "registered")
    return webhook, secret


def remove(webhook: Webhook, *, actor: str, reason: str) -> None:
    """Delete a webhook with all that was, and was to be, sent to it."""
    with transaction.atomic():
        _note(webhook, actor, "remove_webhook", reason)
        close_incident(
            IncidentKind.WEBHOOK_FAILED, subject_of(webhook), "the webhook was removed", actor=actor
        )
        Delivery.objects.filter(webhook=webhook).delete()
        Webhook.objects.filter(pk=webhook.pk).delete()


def disable(webhook: Webhook, *, actor: str, reason: str) -> None:
    """Have nothing more put into its outbox, and nothing sent from it."""
    with transaction.atomic():
        _change(webhook, enabled=False, disabled_because=f"{reason} ({actor})")
        _note(webhook, actor, "disable_webhook", reason)


def enable(webhook: Webhook, *, actor: str, reason: str) -> None:
    """Go on with it, at once. What happened meanwhile is not in its outbox; what was in it is sent."""
    with transaction.atomic():
        Webhook.objects.filter(pk=webhook.pk).update(
            enabled=True, disabled_because="", failures=0, paused_until=None
        )
        _note(webhook, actor, "enable_webhook", reason)


def rotate(webhook: Webhook, *, actor: str, reason: str, secret: str = "") -> str:
    """Give it another secret and return that; for a day both sign. secret: the new one, where the receiver made it.

    Raises SecretMalformedError.
    """
    secret = secret or new_secret()
    sealed = seal(secret)
    with transaction.atomic():
        row = Webhook.objects.select_for_update().get(pk=webhook.pk)
        # Read within: of two that rotate at once, the second's overlap is with the first's.
        _change(
            row,
            secret_sealed=sealed,
            previous_secret_sealed=row.secret_sealed,
            previous_until=in_seconds(OVERLAP.total_seconds()),
            paused_until=None,
        )
        _note(webhook, actor, "rotate_webhook_secret", reason)
    return secret


def _change(webhook: Webhook, **values: Any) -> None:
    """Write to a webhook, and fence off the courier that works by what was so before.

    What it has on its way counts as not sent, and may be sent again.
    """
    Webhook.objects.filter(pk=webhook.pk).update(epoch=F("epoch") + 1, lease_until=None, **values)


def _note(webhook: Webhook, actor: str, verb: str, reason: str) -> None:
    details = {"subject": str(webhook), "webhook": str(webhook.pk)}
    acts.note(actor, verb, reason, details=details)
