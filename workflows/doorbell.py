"""Telling the workers that a run may be claimed. A hint: losing or doubling one changes latency, never the outcome."""

from collections.abc import Callable, Iterable

import structlog
from celery import chain
from django.db import transaction

from workflows.definition import find_definition
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
    from workflows.tasks import advance

    if carrier is not None:
        carrier(run)
        return
    definition = find_definition(run.workflow)
    alone = definition is None or run.compensating or run.branch
    queues = [run.queue] if alone or definition is None else definition.queues_from(run.position)
    # 9 is the least urgent to kombu's Redis transport, 0 the most.
    links = [advance.si(str(run.pk)).set(queue=queue, priority=9 - min(run.priority, 9)) for queue in queues]
    (chain(*links) if len(links) > 1 else links[0]).apply_async()
