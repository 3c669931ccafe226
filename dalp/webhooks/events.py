"""What receivers may be told: each change of a transaction's state, and that a final one turned out to be wrong.

The words are part of the outer contract. The bodies of transactions are made by the database (migration 0002), in the
commit that changes the state.
"""

import json
from datetime import datetime

from signer.states import FINAL, TransactionState

# A block was dropped after what it held had been reported as final. The state stays as it was reported.
RETRACTED = "transaction.retracted"
TEST = "webhook.test"


def type_of(state: TransactionState) -> str:
    """Return the type of the event that a transaction has come to this state."""
    return f"transaction.{state.lower()}"


TYPES = (*map(type_of, TransactionState), RETRACTED)
DEFAULT_TYPES = (*map(type_of, FINAL), RETRACTED)


def test_body(webhook_id: object, at: datetime) -> str:
    """Return the body of an event that says nothing but that events arrive."""
    stamp = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"type": TEST, "timestamp": stamp, "data": {"webhook_id": str(webhook_id)}})
