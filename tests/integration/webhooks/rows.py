"""Transactions without a chain, and webhooks to receivers of the test; time is moved by moving what is due."""

from datetime import timedelta

from django.db.models import F
from django.utils import timezone

from dalp.webhooks import courier, registering
from dalp.webhooks.events import TYPES
from dalp.webhooks.models import Delivery, Webhook
from signer.models import Chain, Lane, Transaction
from tests.integration.webhooks.receiver import Receiver

GENESIS = "0x" + "00" * 32


class Rows:
    """One lane, and transactions in it."""

    def __init__(self) -> None:
        self.chain = Chain.objects.create(chain_id=31337, name="test", genesis_hash=GENESIS)
        self.lane = Lane.objects.create(chain=self.chain, address="0x" + "11" * 20)
        self.number = 0

    def submit(self, count: int = 1) -> list[Transaction]:
        made = []
        for _ in range(count):
            self.number += 1
            key = f"order-{self.number}"
            made.append(
                Transaction.objects.create(
                    chain=self.chain, lane=self.lane, kind="CALL", to=self.lane.address, idempotency_key=key
                )
            )
        return made

    def fail(self, *transactions: Transaction) -> None:
        """End them, as a statement over many."""
        ids = [each.pk for each in transactions]
        Transaction.objects.filter(pk__in=ids).update(state="FAILED", settled_at=timezone.now())


def webhook_to(receiver: Receiver, *events: str) -> tuple[Webhook, str]:
    """Register a receiver, for everything or what is named; return it with its secret."""
    return registering.register(receiver.url, actor="test", events=events or TYPES, description="of the test")


def later(seconds: float) -> None:
    """Have so much time pass for all that is to be sent, and for what is said of receivers."""
    by = timedelta(seconds=seconds)
    Delivery.objects.update(next_at=F("next_at") - by, failing_since=F("failing_since") - by)
    Webhook.objects.update(paused_until=F("paused_until") - by, previous_until=F("previous_until") - by)


def deliver_until_done(rounds: int = 40, seconds: float = 3700) -> None:
    """Deliver, and let time pass, until nothing waits any more."""
    for _ in range(rounds):
        courier.deliver()
        if not Delivery.objects.filter(state="PENDING").exists():
            return
        later(seconds)
    raise AssertionError(list(Delivery.objects.values_list("type", "state", "attempts", "last_error")))
