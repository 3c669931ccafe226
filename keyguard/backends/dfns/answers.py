"""What DFNS says of a signature or transaction, and what it means here. Pure. Source: DFNS' API documentation."""

from collections.abc import Mapping
from typing import Any

from keyguard.custodians import Report
from keyguard.states import CustodyState

# What is not listed is WORKING: a word of theirs that is new must not end anything.
STATES = {
    "Pending": CustodyState.AWAITING_APPROVAL,
    "Broadcasted": CustodyState.SENT,
    "Confirmed": CustodyState.SENT,
    "Failed": CustodyState.FAILED,
    "Rejected": CustodyState.REFUSED,
}
ENDED = (CustodyState.FAILED, CustodyState.REFUSED)
REFUSING = (400, 422)


def external_id_of(found: Mapping[str, Any]) -> str:
    """Return our id of a signature or transaction."""
    body = found.get("requestBody")
    return str(found.get("externalId") or (body.get("externalId") if isinstance(body, dict) else "") or "")


def report_of(found: Mapping[str, Any]) -> Report:
    """Return what is to be known of a transaction.

    What is said to be sent and has no hash is not sent yet; what failed after it was sent has not ended before its hash is
    known.
    """
    state, sent = STATES.get(str(found.get("status")), CustodyState.WORKING), str(found.get("txHash") or "")
    if state == CustodyState.SENT and not sent:
        state = CustodyState.WORKING
    if state == CustodyState.FAILED and not sent and found.get("dateBroadcasted"):
        state = CustodyState.WORKING
    reason = str(found.get("reason") or found.get("status")) if state in ENDED else ""
    return Report(state, sent, reason)


def error_of(body: Mapping[str, Any]) -> str:
    """Return the service's words for an error."""
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else body.get("message")
    return str(message or "DFNS takes it for malformed")
