"""Waking workers. A message carries an id and means "look there"; losing or doubling it changes nothing but time."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction

from signer import queue

log = structlog.get_logger()


def ring_lane(lane_id: UUID, *entries: tuple[UUID, float]) -> None:
    """Have a worker look at the lane; entries: waiting transactions with the instants of their submission."""
    target = f"lane:{lane_id}"
    if queue.push(lane_id, entries, target):
        _ring(target, "drain", str(lane_id))


def ring_chain(chain_id: int) -> None:
    """Have a worker look for the chain's receipts."""
    target = f"chain:{chain_id}"
    if queue.ring_wanted(target):
        _ring(target, "watch", chain_id)


def ring_probe(chain_id: int) -> None:
    """Have a worker ask the chain's paused endpoints whether they work again."""
    target = f"probe:{chain_id}"
    if queue.ring_wanted(target):
        _ring(target, "probe", chain_id)


def ring_index(chain_id: int) -> None:
    """Have a worker read the logs of the chain's contracts."""
    target = f"index:{chain_id}"
    if queue.ring_wanted(target):
        _ring(target, "index", chain_id)


def ring_lane_after_commit(lane_id: UUID, *entries: tuple[UUID, float]) -> None:
    """Queue the transactions and wake the lane, once the caller's database transaction is committed."""
    after_commit(lambda: ring_lane(lane_id, *entries))


def after_commit(work: Callable[[], Any]) -> None:
    # Robust: what was committed must not look failed to the caller because a wake-up was lost.
    transaction.on_commit(work, robust=True)


def _ring(target: str, task: str, argument: str | int) -> None:
    from signer import tasks

    try:
        getattr(tasks, task).apply_async(args=[argument], retry=False)
    except Exception as error:  # noqa: BLE001 - the broker's errors are of many kinds; the sweep rings again
        queue.heard(target)
        log.warning("ring_lost", target=target, error=type(error).__name__)
