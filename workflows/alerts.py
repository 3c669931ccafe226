"""Telling people that a run needs them.

A dead letter is born un-alerted and the sweeper alerts it, so an alert survives the death of the worker that
parked the run. An alert may come twice, never not at all.
"""

from collections.abc import Callable

import structlog

from workflows.clock import db_now
from workflows.models import DeadLetter

log = structlog.get_logger()
Callback = Callable[[DeadLetter], None]
_callbacks: list[Callback] = []


def on_dead_letter(callback: Callback) -> None:
    """Register what is called with each new dead letter. To be called at start-up."""
    _callbacks.append(callback)


def send_alerts(limit: int = 100) -> int:
    """Alert the dead letters that nobody was told about yet; return how many."""
    sent = 0
    for letter in (
        DeadLetter.objects.filter(alerted_at__isnull=True)
        .select_related("run")
        .order_by("created_at")[:limit]
    ):
        try:
            for callback in _callbacks:
                callback(letter)
        except Exception:  # one bad row or mail server must not keep the others silent
            log.exception("alert_failed", dead_letter=str(letter.pk))
            continue
        sent += DeadLetter.objects.filter(pk=letter.pk, alerted_at__isnull=True).update(alerted_at=db_now())
    return sent
