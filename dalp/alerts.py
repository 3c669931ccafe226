"""Tells people that work has stopped: a log line, a Sentry message and a mail for every dead letter."""

import sentry_sdk
from django.core.mail import mail_admins

from dalp.logs import get_logger

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


def connect() -> None:
    """Ask the engine to call us about dead letters, and about what they hold up."""
    from workflows import on_blocked_key, on_dead_letter

    on_dead_letter(tell_about_dead_letter)
    on_blocked_key(tell_about_blocked_key)
