"""Telling people of what does not pass by itself: once, until it is over.

An incident is opened in the transaction that notices it, so it is neither forgotten nor told for what was rolled back.
Whoever wants to hear of it registers a listener (`on_incident`), which is called after the commit.
"""

from collections.abc import Callable
from typing import Any

import structlog
from django.db import transaction
from django.db.models.functions import Now

from signer import acts
from signer.models import Chain, Incident, Lane
from signer.states import IncidentKind

log = structlog.get_logger()

Listener = Callable[[Incident], None]
_listeners: list[Listener] = []


def on_incident(listener: Listener) -> None:
    """Have `listener` called with each incident that is opened, after its commit."""
    if listener not in _listeners:
        _listeners.append(listener)


def open_incident(
    kind: IncidentKind,
    subject: str,
    text: str,
    *,
    chain: Chain | None = None,
    lane: Lane | None = None,
    **details: Any,
) -> bool:
    """Open the incident unless one of this kind is open for the subject; return whether it is new.

    Joins the caller's transaction. text: a sentence that says what happened and what to do.
    """
    if lane is not None:
        chain = lane.chain
    incident = Incident(kind=kind, subject=subject[:200], text=text, chain=chain, lane=lane, details=details)
    with transaction.atomic():
        if Incident.objects.filter(kind=kind, subject=incident.subject, closed_at__isnull=True).exists():
            return False
        # The unique constraint decides between two that come at once.
        Incident.objects.bulk_create([incident], ignore_conflicts=True)
        if not Incident.objects.filter(pk=incident.pk).exists():
            return False
        transaction.on_commit(lambda: _tell(incident), robust=True)
    return True


def close_incident(kind: IncidentKind, subject: str, because: str, *, actor: str = "") -> bool:
    """Close the open incident of this kind about the subject, if there is one; return whether there was."""
    rows = Incident.objects.filter(kind=kind, subject=subject[:200], closed_at__isnull=True)
    closed = rows.update(closed_at=Now(), closed_because=because, closed_by=actor)
    if closed:
        log.info("incident_closed", kind=kind, subject=subject, because=because)
    return bool(closed)


def close_by_person(pk: Any, *, actor: str, reason: str) -> bool:
    """Close an incident that a person has dealt with; return whether it was open. On record, with who and why."""
    with transaction.atomic():
        rows = Incident.objects.filter(pk=pk, closed_at__isnull=True)
        if not rows.update(closed_at=Now(), closed_because=reason, closed_by=actor):
            return False
        incident = Incident.objects.get(pk=pk)
        details = {"kind": incident.kind, "subject": incident.subject, "incident": str(pk)}
        acts.note(actor, "close_incident", reason, lane=incident.lane, details=details)
    log.info("incident_closed", kind=incident.kind, subject=incident.subject, because=reason, actor=actor)
    return True


def _tell(incident: Incident) -> None:
    log.error("incident", kind=incident.kind, subject=incident.subject, text=incident.text)
    for listener in _listeners:
        try:
            listener(incident)
        except Exception:  # a mail that does not go out must not undo what the incident is about
            log.exception("incident_listener_failed", kind=incident.kind)
