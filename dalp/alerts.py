"""Tells people what needs them: a log line, a Sentry message and a mail for every dead letter and every incident."""

from typing import Any
from uuid import UUID

import sentry_sdk
from django.core.mail import mail_admins

from dalp.logs import get_logger
from keyguard import scrub_secrets

log = get_logger(__name__)


def tell_about_dead_letter(dead_letter: object) -> None:
    """Raise the alarm about a dead letter; a channel that fails must not silence the others."""
    what = f"dead letter {dead_letter.id}: run {dead_letter.run_id}, step {dead_letter.operation_id}"  # type: ignore[attr-defined]
    reason = str(dead_letter.reason)  # type: ignore[attr-defined]
    log.error("dead letter", dead_letter=str(dead_letter.id), reason=reason)  # type: ignore[attr-defined]
    sentry_sdk.capture_message(f"{what}: {reason}", level="error")
    try:
        mail_admins(what, f"{reason}\n\nDecide about it under /admin/.")
    except OSError:
        log.exception("alert mail failed")


def tell_about_blocked_key(key: object) -> None:
    """Raise the alarm about a virtual object that stands still because the run that holds it waits for a person."""
    what = f"{key.key} stands still: run {key.holder_id} holds it and waits for a person"  # type: ignore[attr-defined]
    sentry_sdk.capture_message(what, level="error")
    try:
        mail_admins(what, "Decide about its dead letter under /admin/.")
    except OSError:
        log.exception("alert mail failed")


def tell_about_incident(incident: Any) -> None:
    """Raise the alarm about an incident of the signer, which has logged it.

    The mail is left to a task: whoever noticed it owns a lane or a chain, and a slow mail server must not hold that up.
    """
    from dalp.tasks import mail_incident

    sentry_sdk.capture_message(_headline(incident), level="error")
    try:
        mail_incident.apply_async(args=[str(incident.pk)], retry=False)
    except Exception:  # the broker's errors have no common base
        log.exception("alert mail not left to a task")
        send_incident(incident)


def mail_about_incident(incident_id: UUID) -> None:
    """Send the mail about an incident, unless it is over by now."""
    from signer.models import Incident

    incident = Incident.objects.select_related("chain").filter(pk=incident_id, closed_at=None).first()
    if incident is not None:
        send_incident(incident)


def send_incident(incident: Any) -> None:
    """Send the mail about an incident: what happened and what to do."""
    from signer.runbook import what_to_do, where

    text = (
        f"{scrub_secrets(incident.text)}\n\nWhat to do:\n\n{what_to_do(incident.kind)}\n\n"
        f"It is open under /admin/signer/incident/{incident.pk}/change/ until it is over.\n{where(incident.kind)}\n"
    )
    try:
        mail_admins(_headline(incident), text)
    except OSError:
        log.exception("alert mail failed")


def _headline(incident: Any) -> str:
    """Return the subject of the mail, on one line."""
    return " ".join(str(scrub_secrets(f"{incident.get_kind_display()}: {incident.subject}")).split())


def connect() -> None:
    """Ask the engine and the signer to call us about what needs people."""
    from signer.incidents import on_incident
    from workflows import on_blocked_key, on_dead_letter

    on_dead_letter(tell_about_dead_letter)
    on_blocked_key(tell_about_blocked_key)
    on_incident(tell_about_incident)
