"""E-mail to the people whom an issuance concerns.

A mail server has no idempotency key. The nearest thing is the Message-ID: it is derived from the operation, so a notice
that a crash sends again is the same message, and mail systems show it once. Twice in a rare mailbox is better than a
finished issuance that waits for a person because nobody knows whether a mail went out.
"""

import hashlib
from collections.abc import Mapping

from django.conf import settings
from django.core.mail import EmailMessage, get_connection


def message_id(operation_key: str, recipient: str) -> str:
    """Return the Message-ID of an operation's notice to a recipient."""
    digest = hashlib.sha256(f"{operation_key}\n{recipient}".encode()).hexdigest()[:40]
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("> ") or "localhost"
    return f"<{digest}@{domain}>"


def send_notices(operation_key: str, subject: str, texts: Mapping[str, str]) -> int:
    """Send each recipient (an address) a text of their own; return how many were sent.

    Nobody sees the others' addresses. Raises what the mail backend raises, to be tried again.
    """
    messages = [
        EmailMessage(
            settings.EMAIL_SUBJECT_PREFIX + subject,
            text,
            settings.DEFAULT_FROM_EMAIL,
            [recipient],
            headers={"Message-ID": message_id(operation_key, recipient)},
        )
        for recipient, text in texts.items()
    ]
    return get_connection().send_messages(messages) or 0
