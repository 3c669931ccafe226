"""The states of keys, key encryption keys and signing records, and which may follow which."""

from django.db.models import TextChoices


class KeyState(TextChoices):
    """A key signs in ACTIVE only."""

    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class Origin(TextChoices):
    """Where a key comes from: what was imported may exist elsewhere, too."""

    GENERATED = "GENERATED"
    IMPORTED = "IMPORTED"


class KekState(TextChoices):
    """New keys are stored under the ACTIVE one."""

    ACTIVE = "ACTIVE"


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


KEY_TRANSITIONS: dict[str, set[str]] = {
    KeyState.ACTIVE: {KeyState.SUSPENDED},  # its material was tampered with, or its backend signed falsely
    KeyState.SUSPENDED: set(),  # back only after an investigation, for which there is no button
}

RECORD_TRANSITIONS: dict[str, set[str]] = {
    RecordState.INTENT: {RecordState.SIGNED},  # the backend's answer passed every check
    RecordState.SIGNED: set(),
    RecordState.REFUSED: set(),  # inserted as it is; a refusal does not use up its idempotency key
}


def before(state: str, transitions: dict[str, set[str]]) -> list[str]:
    """Return the states from which `state` may follow."""
    return [earlier for earlier, later in transitions.items() if state in later]
