"""What is not kept."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as configuration
from django.utils import timezone

from dalp.webhooks import registering
from dalp.webhooks.forgetting import forget
from dalp.webhooks.models import Delivery, Webhook
from dalp.webhooks.sealing import key_bytes, unseal
from tests.integration.webhooks.receiver import Receiver
from tests.integration.webhooks.rows import Rows, later, webhook_to


@pytest.mark.sqlite_too
def test_delivered_events_go_after_two_weeks_and_given_up_ones_after_three_months(
    rows: Rows, receiver: Receiver
) -> None:
    webhook_to(receiver, "transaction.received")
    rows.submit(5)
    ages = [("DELIVERED", 13), ("DELIVERED", 15), ("DEAD", 89), ("DEAD", 91), ("PENDING", None)]
    for delivery, (state, days) in zip(Delivery.objects.order_by("pk"), ages, strict=True):
        settled = None if days is None else timezone.now() - timedelta(days=days)
        Delivery.objects.filter(pk=delivery.pk).update(state=state, settled_at=settled)
    assert forget() == 2
    assert sorted(Delivery.objects.values_list("state", flat=True)) == ["DEAD", "DELIVERED", "PENDING"]
    assert forget() == 0


@pytest.mark.sqlite_too
def test_a_replaced_secret_goes_when_it_no_longer_signs(rows: Rows, receiver: Receiver) -> None:
    webhook, _ = webhook_to(receiver)
    registering.rotate(webhook, actor="ada", reason="-")
    forget()
    assert Webhook.objects.get().previous_secret_sealed
    later(24 * 3600 + 1)
    forget()
    assert (Webhook.objects.get().previous_secret_sealed, Webhook.objects.get().previous_until) == ("", None)


def test_secrets_under_an_older_key_are_sealed_anew(rows: Rows, receiver: Receiver, settings: Any) -> None:
    webhook, secret = webhook_to(receiver)
    settings.SECRET_KEY_FALLBACKS = [configuration.SECRET_KEY]
    settings.SECRET_KEY = "the next key, of fifty characters and some more of them"
    forget()
    settings.SECRET_KEY_FALLBACKS = []
    webhook.refresh_from_db()
    assert unseal(webhook.secret_sealed) == key_bytes(secret)
    settings.SECRET_KEY = "a key that nobody has told anybody, and no fallback for it"
    forget()  # says so in the log, and sees to the rest
