"""Telling the workers that a run may be claimed. A hint: losing or doubling one changes latency, never the outcome."""

from collections.abc import Callable, Iterable
from functools import cache

import redis
import structlog
from celery import Signature, chain
from django.conf import settings
from django.db import transaction
from kombu.transport.redis import Channel
from redis.backoff import NoBackoff
from redis.retry import Retry

from workflows.definition import definitions, find_definition
from workflows.models import Run

log = structlog.get_logger()

# Takes the messages in place of the broker; of `workflows.testing`.
carrier: Callable[[Run], None] | None = None


def ring(run: Run) -> None:
    """Send the run's remaining segments to the workers once the current transaction is committed."""
    # Robust: what was committed must not look failed to the caller because a message was lost. Not a partial: Django
    # asks what fails here for its name.
    transaction.on_commit(lambda: send(run), robust=True)


def ring_all(runs: Iterable[Run]) -> None:
    for run in runs:
        ring(run)


def send_some(runs: Iterable[Run]) -> None:
    """Send runs on their way; a broker that is away is the sweeper's business."""
    for run in runs:
        try:
            send(run)
        except Exception as error:  # noqa: BLE001 - whatever the broker's client raises: it is a lost message
            log.warning("run_not_rung", run=str(run.pk), error=type(error).__name__)
            return


def send(run: Run) -> None:
    """Send a run on its way: a chain of one immutable link per segment, so that each runs on its own queue.

    The body carries the id only. A link that cannot claim the run does nothing.
    """
    if carrier is not None:
        carrier(run)
        return
    definition = find_definition(run.workflow)
    alone = definition is None or run.compensating or run.branch
    queues = [run.queue] if alone or definition is None else definition.queues_from(run.position)
    links = [_link(run, queue) for queue in queues]
    (chain(*links) if len(links) > 1 else links[0]).apply_async()


def pass_on(run: Run, passed_on: int) -> None:
    """Send a run to another worker of its queue; passed_on: how many have had the message before."""
    _link(run, run.queue, passed_on=passed_on).apply_async()


def _link(run: Run, queue: str, **passed: int) -> "Signature[None]":
    from workflows.tasks import advance

    # 9 is the least urgent to kombu's Redis transport, 0 the most.
    return advance.si(str(run.pk), **passed).set(queue=queue, priority=9 - min(run.priority, 9))


def busy_queues() -> list[str]:
    """Return the queues in which messages lie that no worker has taken yet; none where the broker doesn't say."""
    queues = sorted({queue for definition in definitions() for queue in definition.queues_from(0)})
    if carrier is not None:
        return []
    try:
        with _broker().pipeline(transaction=False) as asked:
            for queue in queues:
                # kombu keeps one list for each priority.
                asked.exists(queue, *(f"{queue}{Channel.sep}{step}" for step in Channel.priority_steps[1:]))
            return [queue for queue, found in zip(queues, asked.execute(), strict=True) if found]
    except redis.RedisError:
        return []


@cache
def _broker() -> redis.Redis:
    return redis.Redis.from_url(
        settings.CELERY_BROKER_URL, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
    )
