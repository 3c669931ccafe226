"""The states of keys, key encryption keys and signing records, and which may follow which."""

from django.db.models import TextChoices

DEFAULT_TENANT = "default"  # the platform's own


class KeyState(TextChoices):
    """A key signs in ACTIVE only."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    RETIRED = "RETIRED"
    COMPROMISED = "COMPROMISED"
    DESTROYED = "DESTROYED"


class KeyVerb(TextChoices):
    """What people do to keys."""

    SUSPEND = "SUSPEND", "suspend"
    REACTIVATE = "REACTIVATE", "give back to work"
    RETIRE = "RETIRE", "retire"
    COMPROMISED = "COMPROMISED", "mark as compromised"
    VALIDITY = "VALIDITY", "set from when until when it signs"
    IMPORT = "IMPORT", "import"
    ROTATE = "ROTATE", "hand over to a new key"
    HAND_OVER = "HAND_OVER", "hand its alias over"
    GIVE_BACK = "GIVE_BACK", "give the alias back"
    DESTROY = "DESTROY", "destroy"


class KekVerb(TextChoices):
    """What people do to KEKs, beside making the first one."""

    ROTATE = "KEK_ROTATE", "move all keys to a new KEK"
    DESTROY = "KEK_DESTROY", "destroy a KEK"
    BACK_UP = "KEK_BACK_UP", "take a KEK apart for custodians"


class SealVerb(TextChoices):
    """What takes others' approval about seals."""

    LIFT = "UNSEAL", "lift the seal"


class MembershipVerb(TextChoices):
    """What is done to a group whose members approve."""

    ADD = "ADD", "add"
    REMOVE = "REMOVE", "remove"


class Origin(TextChoices):
    """Where a key comes from: what was imported may exist elsewhere, too; what a custody has was never here."""

    GENERATED = "GENERATED"
    IMPORTED = "IMPORTED"
    CUSTODY = "CUSTODY"


class KekState(TextChoices):
    """New keys are stored under the ACTIVE one, of which there is one at most."""

    NEW = "NEW", "noted; it may not have been made yet"
    ACTIVE = "ACTIVE"
    DECRYPT_ONLY = "DECRYPT_ONLY", "keys are still stored under it, and are moved away"
    RETIRED = "RETIRED", "no key needs it; restored backups may"
    DESTROYED = "DESTROYED"


class DrillKind(TextChoices):
    """What was done with a KEK's backup on paper."""

    BACKUP = "BACKUP", "taken apart into shares"
    DRILL = "DRILL", "shares tried"


class RecordKind(TextChoices):
    """What was asked to be signed."""

    TRANSACTION = "TRANSACTION", "transaction"
    MESSAGE = "MESSAGE", "message (EIP-191)"
    TYPED_DATA = "TYPED_DATA", "typed data (EIP-712)"
    DELEGATION = "DELEGATION", "authorisation (EIP-7702)"


class RecordState(TextChoices):
    """A signing record in SIGNED or REFUSED never changes again; the database's triggers hold it to that."""

    INTENT = "INTENT"
    SIGNED = "SIGNED"
    REFUSED = "REFUSED"


class CustodyState(TextChoices):
    """How a call stands, as the custody says."""

    UNKNOWN = "UNKNOWN", "the custody has no such request"
    AWAITING_APPROVAL = "AWAITING_APPROVAL", "its people must approve it"
    WORKING = "WORKING", "it works on it"
    SENT = "SENT", "it has sent it"
    REFUSED = "REFUSED", "its rules or its people refused it"
    FAILED = "FAILED", "it gave it up"


class HandOverState(TextChoices):
    """How a call stands that was handed over, or is about to be."""

    INTENT = "INTENT", "checked and recorded; nobody has asked the custody"
    ASKED = "ASKED", "the custody is asked; its answer is not known"
    AWAITING_APPROVAL = CustodyState.AWAITING_APPROVAL.value, CustodyState.AWAITING_APPROVAL.label
    WORKING = CustodyState.WORKING.value, CustodyState.WORKING.label
    SENT = CustodyState.SENT.value, CustodyState.SENT.label
    REFUSED = CustodyState.REFUSED.value, "refused, here or by the custody"
    FAILED = CustodyState.FAILED.value, CustodyState.FAILED.label


# The custody may go back and forth among these: a transaction that it has sent, it may send again.
UNDER_WAY = (HandOverState.AWAITING_APPROVAL, HandOverState.WORKING, HandOverState.SENT)
HANDED_BACK = (HandOverState.REFUSED, HandOverState.FAILED)

KEY_TRANSITIONS: dict[str, set[str]] = {
    # SUSPENDED: its material was tampered with, its backend signed falsely, or a person says so, as for the others.
    KeyState.ACTIVE: {KeyState.SUSPENDED, KeyState.RETIRED, KeyState.COMPROMISED},
    KeyState.SUSPENDED: {KeyState.ACTIVE, KeyState.RETIRED, KeyState.COMPROMISED},  # after an investigation
    KeyState.RETIRED: {KeyState.COMPROMISED, KeyState.DESTROYED},  # another key has taken over
    KeyState.COMPROMISED: {KeyState.DESTROYED},  # somebody else may have it
    KeyState.DESTROYED: set(),  # its material is gone, or about to go
}

KEK_TRANSITIONS: dict[str, set[str]] = {
    KekState.NEW: {KekState.ACTIVE},  # its keeper has made it
    KekState.ACTIVE: {KekState.DECRYPT_ONLY},  # another one has become active
    KekState.DECRYPT_ONLY: {KekState.RETIRED},  # the last key was moved away
    KekState.RETIRED: {KekState.DESTROYED},  # a person says that no backup will need it
    KekState.DESTROYED: set(),
}

RECORD_TRANSITIONS: dict[str, set[str]] = {
    # The backend's answer passed every check; or it did not, or nobody was there to take it.
    RecordState.INTENT: {RecordState.SIGNED, RecordState.REFUSED},
    RecordState.SIGNED: set(),
    RecordState.REFUSED: set(),  # a refusal does not use up its idempotency key
}


class PolicyState(TextChoices):
    """One version is ACTIVE at most; nothing is allowed without one."""

    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE", "in force"
    RETIRED = "RETIRED"


class QuestionKind(TextChoices):
    """What people are asked for."""

    SIGNATURE = "SIGNATURE", "signature"
    POLICY = "POLICY", "change of policy"
    KEY = "KEY", "operation on keys"
    COMMAND = "COMMAND", "operation by a command"
    MEMBERSHIP = "MEMBERSHIP", "change of who approves"


class QuestionState(TextChoices):
    """An answer is used once: by the first signature under it, and by what replaces that one."""

    OPEN = "OPEN", "waits for answers"
    GRANTED = "GRANTED", "approved"
    USED = "USED", "approved, and signed"
    REFUSED = "REFUSED", "refused"
    EXPIRED = "EXPIRED", "its time is over"


def before(state: str, transitions: dict[str, set[str]]) -> list[str]:
    """Return the states from which `state` may follow."""
    return [earlier for earlier, later in transitions.items() if state in later]
