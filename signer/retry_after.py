"""The header Retry-After, by which a server says when to come back. Pure. Source: RFC 9110, 10.2.3."""

from datetime import datetime
from email.utils import parsedate_to_datetime


def asked_seconds(header: str | None, now: datetime) -> float | None:
    """Return the seconds that it asks for, given as such or as a date; None where it says nothing sensible.

    Any number of them: how long is within reason is for the caller to say.
    """
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a zone
            return None
    return seconds if seconds >= 0 else None  # None too for what is not a number
