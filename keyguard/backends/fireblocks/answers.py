"""What Fireblocks says of a transaction, and what it means here. Pure.

Sources: Fireblocks' "Primary transaction statuses" and its OpenAPI document (TransactionResponse).
"""

from collections.abc import Mapping
from typing import Any

from keyguard.custodians import Report
from keyguard.errors import CustodyUnreachableError
from keyguard.states import CustodyState

# What is not listed is WORKING: a word of theirs that is new must not end anything.
STATES = {
    "PENDING_AUTHORIZATION": CustodyState.AWAITING_APPROVAL,
    "PENDING_3RD_PARTY_MANUAL_APPROVAL": CustodyState.AWAITING_APPROVAL,
    "BROADCASTING": CustodyState.SENT,
    "CONFIRMING": CustodyState.SENT,
    "COMPLETED": CustodyState.SENT,
    "CANCELLED": CustodyState.REFUSED,
    "BLOCKED": CustodyState.REFUSED,
    "REJECTED": CustodyState.REFUSED,
    "FAILED": CustodyState.FAILED,
}
ENDED = (CustodyState.REFUSED, CustodyState.FAILED)
SIGNED = "COMPLETED"


def state_of(found: Mapping[str, Any]) -> CustodyState:
    """Return where a transaction stands."""
    return STATES.get(str(found.get("status")), CustodyState.WORKING)


def report_of(found: Mapping[str, Any]) -> Report:
    """Return what is to be known of a transaction. What is said to be sent and has no hash is not sent yet."""
    state, sent = state_of(found), str(found.get("txHash") or "")
    if state == CustodyState.SENT and not sent:
        state = CustodyState.WORKING
    return Report(state, sent, reason_of(found) if state in ENDED else "")


def reason_of(found: Mapping[str, Any]) -> str:
    """Return why it ended, in their words."""
    parts = [str(found.get("status") or "")]
    parts += [str(found.get(name) or "") for name in ("subStatus", "errorDescription", "rejectedBy")]
    return ", ".join(part for part in parts if part)


def ours(found: Mapping[str, Any], external_id: str) -> Mapping[str, Any]:
    """Return the transaction when it is the one that was asked for. Raises CustodyUnreachableError."""
    if found.get("externalTxId") != external_id or not found.get("id") or not found.get("status"):
        raise CustodyUnreachableError("Fireblocks answered with something else than this transaction")
    return found
