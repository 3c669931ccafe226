"""The states of a transaction, the words that say why it is there, and which way it may go.

The words are part of the outer contract. `TRANSITIONS` is the only list of permitted moves; each move is made by a
conditional UPDATE that names the state it leaves, so two workers cannot both make it.
"""

from django.db.models import TextChoices


class TransactionState(TextChoices):
    RECEIVED = "RECEIVED"
    QUEUED = "QUEUED"
    PREPARING = "PREPARING"
    PENDING_APPROVAL = "PENDING_APPROVAL"
    SIGNING = "SIGNING"
    BROADCASTING = "BROADCASTING"
    CONFIRMING = "CONFIRMING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DEAD_LETTER = "DEAD_LETTER"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


S = TransactionState

# No nonce known yet. Of all but SIGNING nothing can be on a chain, whatever happens.
WAITING = (S.RECEIVED, S.QUEUED, S.PREPARING, S.PENDING_APPROVAL, S.SIGNING)
# With a nonce, and not final: the chain decides how it ends.
IN_FLIGHT = (S.BROADCASTING, S.CONFIRMING)
FINAL = (S.COMPLETED, S.FAILED, S.DEAD_LETTER, S.CANCELLED, S.EXPIRED)

TRANSITIONS: dict[TransactionState, frozenset[TransactionState]] = {
    S.RECEIVED: frozenset(
        {
            S.QUEUED,  # the lane looked at it and has no room, funds or node for it now
            S.PREPARING,  # the lane takes it, and first asks a node or a custody about it
            S.PENDING_APPROVAL,  # this and the next two as from PREPARING: there was nothing to ask
            S.BROADCASTING,
            S.FAILED,
            S.EXPIRED,  # valid_until passed; no nonce was used
            S.CANCELLED,  # whoever asked for it no longer wants it
        }
    ),
    S.QUEUED: frozenset(  # as from RECEIVED; to itself for another reason
        {S.QUEUED, S.PREPARING, S.PENDING_APPROVAL, S.BROADCASTING, S.FAILED, S.EXPIRED, S.CANCELLED}
    ),
    S.PREPARING: frozenset(
        {
            S.QUEUED,  # the node did not answer, funds are short, or keyguard cannot sign at the moment
            S.PREPARING,  # taken again after its worker died
            S.PENDING_APPROVAL,  # keyguard asks people first
            S.SIGNING,  # of a custody that sends by itself: committed before it is asked
            S.BROADCASTING,  # nonce, bytes and hash are committed
            S.FAILED,  # it would revert, no block has room for it, or keyguard refuses it; no nonce was used
            S.EXPIRED,
            S.CANCELLED,  # its worker finds it moved when it commits, and gives out none of that batch's nonces
        }
    ),
    S.PENDING_APPROVAL: frozenset(
        {
            S.QUEUED,  # people said yes: simulated and priced anew, for much may have changed meanwhile
            S.FAILED,  # people said no
            S.EXPIRED,
            S.CANCELLED,
        }
    ),
    # The custody has it, or may have it: it is looked up by its id until one of these is known.
    S.SIGNING: frozenset(
        {
            S.BROADCASTING,  # the custody names a hash, and a node shows that this is what was asked for
            S.FAILED,  # the custody refused it or gave it up, and has sent nothing
            S.EXPIRED,  # likewise, it was called off because valid_until had passed
            S.CANCELLED,  # likewise, it was called off because a person cancelled it
        }
    ),
    S.BROADCASTING: frozenset(
        {
            S.CONFIRMING,  # an attempt has a receipt in a canonical block
            S.COMPLETED,  # ... and that block is deep enough already
            # likewise, but it reverted, or the no-op that replaced it was mined; or the custody that had sent it gave it
            # up, and its nonce was provably used otherwise
            S.FAILED,
            S.EXPIRED,  # likewise, the no-op was there because valid_until had passed
            S.CANCELLED,  # likewise, the no-op was there because a person cancelled it
            S.QUEUED,  # a stranger's transaction provably used its nonce: its own bytes can never be executed
        }
    ),
    S.CONFIRMING: frozenset(
        {
            S.BROADCASTING,  # its block was orphaned: same nonce, same bytes again
            S.CONFIRMING,  # found again in another block
            S.COMPLETED,
            S.FAILED,
            S.EXPIRED,
            S.CANCELLED,
        }
    ),
    S.COMPLETED: frozenset(),
    S.FAILED: frozenset(),
    S.DEAD_LETTER: frozenset(),
    S.CANCELLED: frozenset(),
    S.EXPIRED: frozenset(),
}


def may_become(target: TransactionState) -> list[TransactionState]:
    """Return the states from which a transaction may move to `target`: the condition of the UPDATE."""
    return [state for state, targets in TRANSITIONS.items() if target in targets]


class SubState(TextChoices):
    """Why a transaction is where it is. Blank when there is nothing to add."""

    NONE = "", "-"
    LANE_FULL = "LANE_FULL", "waits for room in the lane"
    LANE_BLOCKED = "LANE_BLOCKED", "the lane is blocked"
    LANE_PAUSED = "LANE_PAUSED", "the lane is paused"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS", "the address cannot pay for it"
    NODE_UNAVAILABLE = "NODE_UNAVAILABLE", "the node does not answer"
    ESTIMATE_UNCLEAR = "ESTIMATE_UNCLEAR", "the node's answer to the gas estimate is not understood"
    AUTHORIZING = (
        "AUTHORIZING",
        "an authorisation of the address (EIP-7702) is under way, or its lane is busy",
    )
    SIGNER_UNAVAILABLE = "SIGNER_UNAVAILABLE", "the key cannot sign at the moment"
    FEE_CAPPED = "FEE_CAPPED", "the market's fee is above the ceiling"
    POSSIBLY_SENT = "POSSIBLY_SENT", "the node's answer was lost; the same bytes are sent again"
    NONCE_USED = "NONCE_USED", "the node says the nonce is used; looking for the receipt"
    NONCE_FOREIGN = "NONCE_FOREIGN", "a transaction that is not ours used its nonce"
    NODE_FULL = "NODE_FULL", "the node's pool has no room"
    NODE_REFUSED = "NODE_REFUSED", "a no-op takes its nonce, because the node refused it"
    REFUSED_AGAIN = "REFUSED_AGAIN", "the node refuses what it took before; the same bytes are sent again"
    EXPIRING = "EXPIRING", "a no-op takes its nonce, because valid_until passed"
    CANCELLING = "CANCELLING", "a no-op takes its nonce, because it was cancelled"
    CANCEL_LOST = "CANCEL_LOST", "the cancellation came too late: it was executed"
    REORGED = "REORGED", "its block was orphaned; sent again"
    HANDING_OVER = "HANDING_OVER", "committed; the custody is being asked"
    WITH_CUSTODY = "WITH_CUSTODY", "the custody works on it"
    AWAITING_APPROVAL = "AWAITING_APPROVAL", "the custody's own people must approve it"
    CUSTODY_SILENT = "CUSTODY_SILENT", "the custody does not answer; it is looked up again"
    CUSTODY_SENT = "CUSTODY_SENT", "the custody says that it sent it; no node shows it yet"
    CALLING_OFF = "CALLING_OFF", "the custody is asked to call it off"
    CUSTODY_FORGOT = (
        "CUSTODY_FORGOT",
        "the custody knew it and knows it no longer; it is not handed over again",
    )
    CUSTODY_GAVE_UP = "CUSTODY_GAVE_UP", "the custody sent it and gave it up; it may still be executed"
    CUSTODY_ALTERED = "CUSTODY_ALTERED", "the custody sent something else than it was asked"


class TransactionKind(TextChoices):
    CALL = "CALL"
    DEPLOYMENT = "DEPLOYMENT"
    FILLER = "FILLER", "filler of a gap"  # takes a nonce that nothing else will ever use


class AttemptState(TextChoices):
    SIGNED = "SIGNED", "committed; not known to be in a pool"
    SENT = "SENT", "accepted by a node, or sent by the custody"
    REJECTED = "REJECTED", "refused for good; replaced by a no-op"
    VOID = "VOID", "can never be executed: its nonce was used otherwise"


class Purpose(TextChoices):
    PAYLOAD = "PAYLOAD"
    NOOP = "NOOP"


class LaneState(TextChoices):
    """Whether a lane gives out nonces. What has one is seen through in every state."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED", "paused by a person"
    DRAINING = "DRAINING", "drains: paused as soon as nothing is in flight"
    BLOCKED = "BLOCKED", "blocked: something is wrong, a person must look"


class Envelope(TextChoices):
    """The kinds of transactions that chains know (EIP-2718)."""

    LEGACY = "LEGACY", "legacy"
    ACCESS_LIST = "ACCESS_LIST", "access list (EIP-2930)"
    DYNAMIC_FEE = "DYNAMIC_FEE", "dynamic fee (EIP-1559)"
    BLOB = "BLOB", "blob (EIP-4844)"
    SET_CODE = "SET_CODE", "set code (EIP-7702)"


# These name one price per gas; the others the most they pay, and the proposer's part of it.
GAS_PRICED = (Envelope.LEGACY, Envelope.ACCESS_LIST)


class Finality(TextChoices):
    DEPTH = "DEPTH", "a number of confirmations"
    FINALIZED = "FINALIZED", "the chain's finalized block"


class FeeMarket(TextChoices):
    EIP1559 = "EIP1559", "EIP-1559"
    LEGACY = "LEGACY", "gas price"


class PauseKind(TextChoices):
    """Why an endpoint is not used for a while. Blank: it is used."""

    NONE = "", "-"
    FAILING = "FAILING", "does not answer"
    TURNED_AWAY = "TURNED_AWAY", "turns us away"
    WRONG_CHAIN = "WRONG_CHAIN", "serves another chain"


class ForeignNonces(TextChoices):
    """What happens where a stranger's transaction provably used a nonce of ours."""

    BLOCK = "BLOCK", "the lane is blocked, a person decides"
    # Only where others are known to sign with the same keys: after a restored backup it would execute things twice.
    ADOPT = "ADOPT", "the transaction gets another nonce, people are told"


class WatchedState(TextChoices):
    """Whether the logs of a contract are read."""

    ACTIVE = "ACTIVE"
    PAUSED = "PAUSED", "paused by a person"
    FAILED = "FAILED", "its handler fails, and is tried again"


class IncidentKind(TextChoices):
    """What a person is told of. Each has a section of its own in docs/operating.md."""

    DEEP_REORG = "DEEP_REORG", "a reorganisation deeper than the confirmations"
    LANE_BLOCKED = "LANE_BLOCKED", "a lane is blocked"
    FOREIGN_NONCE = "FOREIGN_NONCE", "another program signs with an address"
    FEE_CAPPED = "FEE_CAPPED", "the market's fee has been above the ceiling for long"
    LOW_BALANCE = "LOW_BALANCE", "an address runs out of money"
    CHAIN_UNREACHABLE = "CHAIN_UNREACHABLE", "no node of a chain can be used"
    WRONG_CHAIN = "WRONG_CHAIN", "an endpoint serves another chain than the one registered"
    NODE_ANOMALY = "NODE_ANOMALY", "a node said something that cannot be true"
    UNKNOWN_ERROR = "UNKNOWN_ERROR", "a node refuses in words that no rule knows"
    INDEX_FAILED = "INDEX_FAILED", "a handler of events fails"
    CUSTODY_ALTERED = "CUSTODY_ALTERED", "a custody sent something else than it was asked"
    WEBHOOK_FAILED = "WEBHOOK_FAILED", "a receiver of webhooks does not take what it is sent"
