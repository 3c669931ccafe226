"""The signer's Celery tasks: ids in, nothing out. Each means "look there"; doing it twice does no harm."""

from uuid import UUID

from celery import shared_task
from django.db import InterfaceError, OperationalError

from signer import lanes, money, sweeping, watching

# A database that is away for a moment: the message is worth more than a log line, though the sweep would replace it.
RETRIED = {
    "autoretry_for": (OperationalError, InterfaceError),
    "retry_backoff": True,
    "retry_backoff_max": 30,
    "max_retries": 5,
    "ignore_result": True,
}


# A look that nobody took up by then is left to the next.
MONEY_SECONDS = 25


@shared_task(name="signer.drain", **RETRIED)
def drain(lane_id: str) -> None:
    """Give nonces to what waits in a lane, and see to what is in flight."""
    lanes.drain(UUID(lane_id))


@shared_task(name="signer.watch", **RETRIED)
def watch(chain_id: int) -> None:
    """Read the receipts of a chain for one slice."""
    watching.watch(chain_id)


@shared_task(name="signer.sweep", ignore_result=True)
def sweep() -> None:
    """Find what a lost wake-up left lying."""
    sweeping.sweep()


@shared_task(name="signer.money", ignore_result=True)
def watch_money() -> None:
    """Have somebody look at the money of each chain's lanes: a chain that hangs keeps no other waiting."""
    for chain_id in money.busy_chains():
        check_money.apply_async(args=[chain_id], expires=MONEY_SECONDS, retry=False)


@shared_task(name="signer.check_money", **RETRIED)
def check_money(chain_id: int) -> None:
    """Look once at the money of a chain's lanes."""
    money.check(chain_id)
