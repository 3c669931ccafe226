"""The rows of the signer. The database refuses what the invariants forbid; Redis only says where to look.

Upheld here: a nonce of a lane belongs to one transaction for ever; only what has a nonce is in flight; an attempt's
bytes and hash never change and no attempt is ever deleted (triggers, see migration 0002).
"""

from signer.models.chains import Block, Chain, Endpoint
from signer.models.error_rules import ErrorRule, UnknownText
from signer.models.events import EventIndex, EventLog, Holding, IndexedBlock, WatchedContract
from signer.models.incidents import Act, Incident
from signer.models.money import LaneMoney, Spending, TopUp
from signer.models.payloads import Authorization, Blob
from signer.models.transactions import Attempt, Lane, Transaction

__all__ = [
    "Act",
    "Attempt",
    "Authorization",
    "Blob",
    "Block",
    "Chain",
    "Endpoint",
    "ErrorRule",
    "EventIndex",
    "EventLog",
    "Holding",
    "Incident",
    "IndexedBlock",
    "Lane",
    "LaneMoney",
    "Spending",
    "TopUp",
    "Transaction",
    "UnknownText",
    "WatchedContract",
]
