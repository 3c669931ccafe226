"""What Fireblocks says of a transaction, and what it means here.

Sources: Fireblocks' "Primary transaction statuses", "Transaction substatuses" and its OpenAPI document
(TransactionResponse: a hash is there for certain once a transaction was CONFIRMING; while BROADCASTING it may be missing,
so FAILED without one does not say that nothing was sent).
"""

from collections.abc import Mapping
from typing import Any

import structlog

from keyguard.custodians import Report
from keyguard.errors import CustodyUnreachableError
from keyguard.states import CustodyState

log = structlog.get_logger("keyguard")

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
# Why a transaction fails before there is anything to send. After any other reason it may have been sent.
NEVER_SENT = frozenset(
    {
        "ACTUAL_FEE_TOO_HIGH",
        "ADDRESS_WHITELISTING_SUSPENDED",
        "AMOUNT_TOO_SMALL",
        "AUTHORIZATION_FAILED",
        "AUTHORIZER_NOT_FOUND",
        "ENV_UNSUPPORTED_ASSET",
        "ERROR_UNSUPPORTED_TRANSACTION_TYPE",
        "FAIL_ON_LOW_FEE",
        "GAS_LIMIT_TOO_LOW",
        "INCOMPLETE_USER_SETUP",
        "INSUFFICIENT_FUNDS",
        "INSUFFICIENT_FUNDS_FOR_FEE",
        "INSUFFICIENT_RESERVED_FUNDING",
        "INVALID_ADDRESS",
        "INVALID_CONTRACT_CALL_DATA",
        "INVALID_FEE_PARAMS",
        "INVALID_ROUTING_DESTINATION",
        "INVALID_SIGNATURE",
        "MAX_FEE_EXCEEDED",
        "SIGNER_NOT_FOUND",
        "SIGNING_ERROR",
        "UNSUPPORTED_OPERATION",
        "VAULT_WALLET_NOT_READY",
        "ZERO_BALANCE_IN_PERMANENT_ADDRESS",
    }
)
ENDED = (CustodyState.REFUSED, CustodyState.FAILED)
SIGNED = "COMPLETED"


def state_of(found: Mapping[str, Any]) -> CustodyState:
    """Return where a transaction stands."""
    return STATES.get(str(found.get("status")), CustodyState.WORKING)


def report_of(found: Mapping[str, Any]) -> Report:
    """Return what is to be known of a transaction.

    What is said to be sent and has no hash is not sent yet; what is said to have failed, and may have been sent, has not
    ended before its hash is known.
    """
    state, sent = state_of(found), str(found.get("txHash") or "")
    if state == CustodyState.SENT and not sent:
        state = CustodyState.WORKING
    if state == CustodyState.FAILED and not sent and str(found.get("subStatus")) not in NEVER_SENT:
        log.error("custody_end_unclear", external_id=found.get("externalTxId"), reason=reason_of(found))
        return Report(CustodyState.WORKING, reason=f"{reason_of(found)}: it may have been sent")
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
