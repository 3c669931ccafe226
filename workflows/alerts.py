"""Telling people that a run needs them, and that others wait behind it.

A dead letter is born un-alerted and the sweeper alerts it, so an alert survives the death of the worker that
parked the run. An alert may come twice, never not at all.
"""

from collections.abc import Callable

import structlog
from django.conf import settings
from django.db.models import Q

from workflows.clock import db_now, in_seconds
from workflows.models import DeadLetter, VirtualObjectState
from workflows.states import DeadLetterState

log = structlog.get_logger()
Callback = Callable[[DeadLetter], None]
KeyCallback = Callable[[VirtualObjectState], None]
_callbacks: list[Callback] = []
_key_callbacks: list[KeyCallback] = []


def on_dead_letter(callback: Callback) -> None:
    """Register what is called with each new dead letter. To be called at start-up."""
    _callbacks.append(callback)


def on_blocked_key(callback: KeyCallback) -> None:
    """Register what is called with each key whose holder has waited for a person for too long. To be called at start-up."""
    _key_callbacks.append(callback)


def alert_blocked_keys(limit: int = 100) -> int:
    """Alert the keys that a stopped run has held for long, and again as long as it does; return how many."""
    patience = in_seconds(-settings.WORKFLOWS["blocked_key_seconds"])
    stopped = {
        "holder__dead_letters__state": DeadLetterState.OPEN,
        "holder__dead_letters__created_at__lt": patience,
    }
    unheard = Q(alerted_at__isnull=True) | Q(alerted_at__lt=patience)
    sent = 0
    for row in VirtualObjectState.objects.filter(unheard, **stopped).select_related("holder")[:limit]:
        try:
            for callback in _key_callbacks:
                callback(row)
        except Exception:
            log.exception("alert_failed", key=row.key)
            continue
        log.error("key_blocked", key=row.key, holder=str(row.holder_id))
        sent += VirtualObjectState.objects.filter(pk=row.pk, holder=row.holder_id).update(alerted_at=db_now())
    return sent


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
