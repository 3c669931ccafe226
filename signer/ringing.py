"""Waking workers. A message carries an id and means "look there"; losing or doubling it changes nothing but time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction

from signer import queue

log = structlog.get_logger()


def ring_lane(lane_id: UUID) -> None:
    """Have a worker look at the lane."""
    if queue.ring_wanted(queue.lane_target(lane_id)):
        _ring(queue.lane_target(lane_id), "drain", str(lane_id))


def ring_again(lane_id: UUID) -> None:
    """Have a worker look at a lane whose wake-up was turned away."""
    _ring(queue.lane_target(lane_id), "drain", str(lane_id))


def queue_after_commit(new: Mapping[UUID, Sequence[tuple[UUID, float]]]) -> None:
    """Once the caller's database transaction is committed, queue what is new in each lane, and wake the lanes.

    new: transactions with the instants of their submission.
    """

    def work() -> None:
        for lane_id in queue.push(new):
            _ring(queue.lane_target(lane_id), "drain", str(lane_id), True)

    after_commit(work)


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


def after_commit(work: Callable[[], Any]) -> None:
    # Robust: what was committed must not look failed to the caller because a wake-up was lost.
    transaction.on_commit(work, robust=True)


def _ring(target: str, task: str, *arguments: str | int | bool) -> None:
    from signer import tasks

    try:
        getattr(tasks, task).apply_async(args=arguments, retry=False)
    except Exception as error:  # noqa: BLE001 - the broker's errors are of many kinds; the sweep rings again
        queue.heard(target)
        log.warning("ring_lost", target=target, error=type(error).__name__)
