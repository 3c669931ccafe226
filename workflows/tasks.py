"""The Celery side of the engine. Messages carry ids; whatever is lost, doubled or late, the rows decide."""

from typing import Any

from celery import Task, shared_task
from django.db import InterfaceError, OperationalError

from workflows.crashpoints import crashpoint
from workflows.doorbell import send
from workflows.engine import drive
from workflows.sweeper import sweep as sweep_runs

crashpoint.register("engine.before_ack", "the link has done its work, the broker does not know it yet")

# Trouble with the database is this link's own; what a step may retry is persisted with the step.
INFRASTRUCTURE = (OperationalError, InterfaceError)


@shared_task(
    bind=True, name="workflows.advance", autoretry_for=INFRASTRUCTURE, retry_backoff=True, max_retries=5
)
def advance(self: "Task[Any, Any]", run_id: str) -> None:
    """One link of a run's chain: drive the run as far as its segment goes."""
    session = drive.advance(run_id)
    if session is None or not session.handed_over:
        self.request.chain = None  # it waits or has ended; who wakes it sends what then remains
    elif session.run.queue == session.queue or session.compensating or not self.request.chain:
        self.request.chain = None  # its slice is used up, or it turns back: the chain does not lead there
        send(session.run)
    crashpoint("engine.before_ack")


@shared_task(name="workflows.sweep", expires=10)
def sweep() -> dict[str, int]:
    return sweep_runs()
