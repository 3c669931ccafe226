"""The signer's Celery tasks: ids in, nothing out. Each means "look there"; doing it twice does no harm."""

from uuid import UUID

from celery import shared_task
from django.db import InterfaceError, OperationalError

import keyguard
from signer import chains, lanes, money, queue, routing, slowness, strangers, sweeping, watching
from signer.events import indexing
from signer.ringing import ring_again

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
NONCES_SECONDS = 55


@shared_task(name="signer.drain", **RETRIED)
def drain(lane_id: str, only_new: bool = False) -> None:
    """Give nonces to what waits in a lane, and see to what is in flight; only_new: if something was submitted."""
    chain_id = routing.chain_of(UUID(lane_id))
    if chain_id is None:
        return
    with slowness.visit(chain_id) as may_work:
        if may_work:
            lanes.drain(UUID(lane_id), only_new=only_new)
        else:  # the chain is slow, and another worker waits for it: its drain rings when it has ended
            queue.turn_away(chain_id, UUID(lane_id))
    if may_work and (next_lane := queue.next_turned_away(chain_id)):
        ring_again(next_lane)


@shared_task(name="signer.watch", **RETRIED)
def watch(chain_id: int) -> None:
    """Read the receipts of a chain for one slice."""
    watching.watch(chain_id)


@shared_task(name="signer.probe", **RETRIED)
def probe(chain_id: int) -> None:
    """Ask endpoints that were left alone for a while whether they work again."""
    queue.heard(f"probe:{chain_id}")
    chains.connect(chain_id).probe()


@shared_task(name="signer.index", **RETRIED)
def index(chain_id: int) -> None:
    """Read the logs of a chain's contracts for one slice."""
    indexing.index(chain_id)


@shared_task(name="signer.keep_keys", ignore_result=True)
def keep_keys() -> None:
    """Have keyguard do what it does by itself: here, where its keys can be used."""
    keyguard.keep()


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


@shared_task(name="signer.nonces", ignore_result=True)
def watch_nonces() -> None:
    """Have somebody compare the used lanes of each chain with it."""
    for chain_id in strangers.used_chains():
        check_nonces.apply_async(args=[chain_id], expires=NONCES_SECONDS, retry=False)


@shared_task(name="signer.check_nonces", **RETRIED)
def check_nonces(chain_id: int) -> None:
    """Compare a chain's used lanes with it once."""
    strangers.look(chain_id)
