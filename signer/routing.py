"""A Celery queue for each chain, so that one whose node is slow does not stand before the others.

A message goes to the queue of its chain, whether or not somebody serves it yet. Workers that were started without -Q
serve all of them: those that exist at their start, and those of which they are told later (`announce`). A message to
the workers may be lost; the sweep says it again every now and then.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

import structlog
from celery import current_app

from signer.models import Chain, Lane

log = structlog.get_logger()

SERVE_CHAINS = "serve_chains"
# Zero is what comes first. Drains may be many and long, and what a watcher reads makes room for them.
AFTER_WATCHERS = 3


def queue_of(chain_id: int) -> str:
    return f"signer.{chain_id}"


def queues() -> list[str]:
    """Return the queues of the registered chains."""
    return [queue_of(chain_id) for chain_id in Chain.objects.order_by("pk").values_list("pk", flat=True)]


def route(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Any, **_: Any
) -> dict[str, Any] | None:
    """Return where a task goes when it belongs to a chain; a router for Celery."""
    if name in ("signer.watch", "signer.probe", "signer.index"):
        return {"queue": queue_of(int(args[0]))}
    if name == "signer.drain":
        chain_id = chain_of(UUID(str(args[0])))
        return None if chain_id is None else {"queue": queue_of(chain_id), "priority": AFTER_WATCHERS}
    return None


def chain_of(lane_id: UUID) -> int | None:
    """Return the chain of a lane, None when there is no such lane. Read once: a lane stays on its chain."""
    try:
        return _chain_of(lane_id)
    except Lane.DoesNotExist:
        return None


@lru_cache(maxsize=20_000)
def _chain_of(lane_id: UUID) -> int:
    return int(Lane.objects.values_list("chain_id", flat=True).get(pk=lane_id))


def announce(chain_ids: Sequence[int]) -> None:
    """Have all running workers that serve every queue serve those of these chains too."""
    try:
        current_app.control.broadcast(SERVE_CHAINS, arguments={"chain_ids": list(chain_ids)})
    except Exception as error:  # noqa: BLE001 - the broker's errors are of many kinds; the sweep says it again
        log.warning("chains_not_announced", error=type(error).__name__)
