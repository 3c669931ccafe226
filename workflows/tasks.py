"""The Celery side of the engine. Messages carry ids; whatever is lost, doubled or late, the rows decide."""

import random
import time
from typing import Any

import structlog
from celery import Task, shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError

from workflows.crashpoints import crashpoint
from workflows.doorbell import pass_on, send, send_some
from workflows.engine import drive
from workflows.engine.claiming import left_to_others
from workflows.engine.draining import is_draining
from workflows.engine.unbegun import next_siblings
from workflows.models import Run
from workflows.sweeper import sweep as sweep_runs

log = structlog.get_logger()

crashpoint.register("engine.before_ack", "the link has done its work, the broker does not know it yet")

# How long one link carries on with the calls of a busy virtual object, before others have their turn.
HEIRS_SECONDS = 2
PASSED_ON_MAX = 10
SIBLINGS = 50  # branches that are looked for at once

# Trouble with the database is this link's own; what a step may retry is persisted with the step.
INFRASTRUCTURE = (OperationalError, InterfaceError)


@shared_task(
    bind=True, name="workflows.advance", autoretry_for=INFRASTRUCTURE, retry_backoff=True, max_retries=5
)
def advance(self: "Task[Any, Any]", run_id: str, passed_on: int = 0) -> None:
    """One link of a run's chain: drive the run as far as its segment goes.

    passed_on: how many workers have had the message before and could not carry the run on with their code.
    """
    session = drive.advance(run_id, takes_heir=True)
    if session is None and passed_on < PASSED_ON_MAX and not is_draining():
        _pass_on(run_id, passed_on + 1)
    if session is None or not session.handed_over:
        self.request.chain = None  # it waits or has ended; who wakes it sends what then remains
    elif session.run.queue == session.queue or session.run.compensating or not self.request.chain:
        self.request.chain = None  # its slice is used up, or it turns back: the chain does not lead there
        send(session.run)
    if session is not None and session.run.branch and session.run.lease_until is None:
        _take_up_siblings(session.run)
    if session is not None and session.heir is not None:
        _take_up_heirs(session.queue, session.heir)
    crashpoint("engine.before_ack")


def _pass_on(run_id: str, passed_on: int) -> None:
    """Give the message to another worker if the run is one for other code: while old and new ones run side by side.

    It would be lost otherwise, and the run would wait until the sweep rings for it.
    """
    run = left_to_others(run_id)
    if run is None:
        return
    try:
        pass_on(run, passed_on)
    except Exception as error:  # noqa: BLE001 - as any lost message, the sweep's business
        log.warning("run_not_rung", run=run_id, error=type(error).__name__)


def _take_up_siblings(branch: Run) -> None:
    """Carry on with branches that nobody has begun: there are more of them than messages."""
    deadline = time.monotonic() + settings.WORKFLOWS["slice_seconds"]
    in_vain = 0
    while in_vain < 2 and (siblings := next_siblings(branch, SIBLINGS)):
        in_vain += 1
        random.shuffle(siblings)  # others are at the same ones
        for sibling in siblings:
            if time.monotonic() > deadline or is_draining():
                send_some([sibling])
                return
            session = drive.advance(sibling.pk)
            if session is not None:
                in_vain = 0
                if session.handed_over:
                    send_some([session.run])


def _take_up_heirs(queue: str, heir: Run | None) -> None:
    """Carry on with those who get the key one after the other: a message for each would take longer than its turn."""
    deadline = time.monotonic() + HEIRS_SECONDS
    while heir is not None:
        if heir.queue != queue or time.monotonic() > deadline or is_draining():
            send_some([heir])
            return
        session = drive.advance(heir.pk, takes_heir=True)
        if session is not None and session.handed_over:
            send_some([session.run])
        heir = None if session is None else session.heir


@shared_task(name="workflows.sweep", expires=10)
def sweep() -> dict[str, int]:
    return sweep_runs()
