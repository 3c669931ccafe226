"""Telling the workers that a run may be claimed. A hint: losing or doubling one changes latency, never the outcome."""

from collections.abc import Iterable

from celery import chain
from django.db import transaction

from workflows.definition import find_definition
from workflows.models import Run


def ring(run: Run) -> None:
    """Send the run's remaining segments to the workers once the current transaction is committed."""
    # Robust: what was committed must not look failed to the caller because a message was lost. Not a partial: Django
    # asks what fails here for its name.
    transaction.on_commit(lambda: send(run), robust=True)


def ring_all(runs: Iterable[Run]) -> None:
    for run in runs:
        ring(run)


def send(run: Run) -> None:
    """Send a run on its way: a chain of one immutable link per segment, so that each runs on its own queue.

    The body carries the id only. A link that cannot claim the run does nothing.
    """
    from workflows.tasks import advance

    definition = find_definition(run.workflow)
    queues = [run.queue] if definition is None or run.compensating else definition.queues_from(run.position)
    links = [advance.si(str(run.pk)).set(queue=queue) for queue in queues]
    (chain(*links) if len(links) > 1 else links[0]).apply_async()
