"""The signer's Celery tasks: ids in, nothing out. Each means "look there"; doing it twice does no harm."""

from uuid import UUID

from celery import shared_task
from django.db import InterfaceError, OperationalError

from signer import chains, lanes, queue, routing, slowness, sweeping, watching

# A database that is away for a moment: the message is worth more than a log line, though the sweep would replace it.
RETRIED = {
    "autoretry_for": (OperationalError, InterfaceError),
    "retry_backoff": True,
    "retry_backoff_max": 30,
    "max_retries": 5,
    "ignore_result": True,
}


@shared_task(name="signer.drain", **RETRIED)
def drain(lane_id: str) -> None:
    """Give nonces to what waits in a lane, and see to what is in flight."""
    chain_id = routing.chain_of(UUID(lane_id))
    if chain_id is None:
        return
    with slowness.visit(chain_id) as may_work:
        if may_work:  # else the chain is slow, and another worker waits for it: the sweep rings again
            lanes.drain(UUID(lane_id))


@shared_task(name="signer.watch", **RETRIED)
def watch(chain_id: int) -> None:
    """Read the receipts of a chain for one slice."""
    watching.watch(chain_id)


@shared_task(name="signer.probe", **RETRIED)
def probe(chain_id: int) -> None:
    """Ask endpoints that were left alone for a while whether they work again."""
    queue.heard(f"probe:{chain_id}")
    chains.connect(chain_id).probe()


@shared_task(name="signer.sweep", ignore_result=True)
def sweep() -> None:
    """Find what a lost wake-up left lying."""
    sweeping.sweep()
