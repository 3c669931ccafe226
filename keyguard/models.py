"""Keys, their encrypted material and a record of every signature.

Upholds, in the database: one key per address and per alias; material is only ever added; one signature per
idempotency key; a finished signing record never changes and is never deleted (triggers in the migrations).
"""

import uuid

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from keyguard.errors import FloorError
from keyguard.fields import Uint256Field
from keyguard.floor import checked_address
from keyguard.states import (
    DEFAULT_TENANT,
    DrillKind,
    HandOverState,
    KekState,
    KeyState,
    KeyVerb,
    Origin,
    RecordKind,
    RecordState,
)
from keyguard.uris import KeyUri


class Kek(models.Model):
    """A key encryption key, which is kept elsewhere. Its check value tells whether the one at hand is the right one.

    Of one that never leaves its keeper, the check value is that of a random secret, encrypted by it: the proof.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    provider = models.CharField(max_length=20)
    provider_ref = models.CharField(max_length=100, blank=True)  # what its keeper calls it
    version = models.PositiveIntegerField(default=1)  # the keeper's
    kcv = models.CharField("check value", max_length=16, blank=True)  # empty: not made yet
    proof = models.BinaryField(default=b"")
    proof_nonce = models.BinaryField(max_length=12, default=b"")
    state = models.CharField(max_length=12, choices=KekState, default=KekState.NEW)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "key encryption key"
        constraints = [
            # Without it two processes that start on an empty database would each make one.
            models.UniqueConstraint(
                fields=["state"], condition=Q(state="ACTIVE"), name="keyguard_kek_active_unique"
            ),
            models.CheckConstraint(condition=Q(state__in=KekState.values), name="keyguard_kek_state_valid"),
            models.CheckConstraint(condition=Q(state="NEW") | ~Q(kcv=""), name="keyguard_kek_made_has_kcv"),
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.kcv}"


class KekDrill(models.Model):
    """A KEK was taken apart into shares, or shares of it were put together to see that they fit. Never changed."""

    kek = models.ForeignKey(Kek, on_delete=models.PROTECT, related_name="drills")
    kind = models.CharField(max_length=8, choices=DrillKind)
    threshold = models.PositiveSmallIntegerField()  # of a drill: how many shares were there
    shares = models.PositiveSmallIntegerField(default=0)
    custodians = models.JSONField(default=list)  # the names on the sheets
    actor = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-at"]
        verbose_name = "drill of a KEK's backup"
        verbose_name_plural = "drills of KEKs' backups"

    def __str__(self) -> str:
        return f"{self.get_kind_display()} by {self.actor}"


class Key(models.Model):
    """A signing key. Its address and public key are pinned: every signature is checked against them.

    One of a custody that sends by itself is pinned by its address: what is sent must come from it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.CharField(
        max_length=64, default=DEFAULT_TENANT, editable=False
    )  # its material is bound to it
    alias = models.CharField(max_length=64)
    address = models.CharField(max_length=42)
    public_key = models.BinaryField(max_length=65)
    backend = models.CharField(max_length=20)
    backend_ref = models.CharField(
        max_length=100, blank=True
    )  # what a custody calls it; CKA_ID; a path in Vault
    origin = models.CharField(max_length=10, choices=Origin)
    state = models.CharField(max_length=12, choices=KeyState, default=KeyState.ACTIVE)
    state_reason = models.CharField(max_length=64, blank=True)  # an error's code, or a person's words
    not_before = models.DateTimeField(null=True, blank=True)
    not_after = models.DateTimeField(null=True, blank=True)
    # The key whose place it takes. That one signs until the hand-over is complete.
    replaces = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="successors"
    )
    material_gone_at = models.DateTimeField(
        null=True, blank=True
    )  # of one that is destroyed: nothing is left to do
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["alias"]
        constraints = [
            models.UniqueConstraint(fields=["alias"], name="keyguard_key_alias_unique"),
            models.UniqueConstraint(fields=["address"], name="keyguard_key_address_unique"),
            models.CheckConstraint(condition=Q(state__in=KeyState.values), name="keyguard_key_state_valid"),
            # Without it a crash, or a second run, would leave two that each believe to take over.
            models.UniqueConstraint(
                fields=["replaces"],
                condition=Q(state__in=["ACTIVE", "SUSPENDED"]),
                name="keyguard_key_successor_unique",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.alias} ({self.address})"

    @property
    def uri(self) -> KeyUri:
        """Where it is, as people are told."""
        return KeyUri(self.backend, self.backend_ref)


class KeyAct(models.Model):
    """What a person did to a key. Never changed."""

    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="acts")
    verb = models.CharField(max_length=12, choices=KeyVerb)
    actor = models.CharField(max_length=150)  # with whoever gave the last approval
    reason = models.CharField(max_length=500)
    details = models.JSONField(default=dict)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-at"]
        verbose_name = "act on a key"
        verbose_name_plural = "acts on keys"

    def __str__(self) -> str:
        return f"{self.verb} by {self.actor}"


class KeyMaterial(models.Model):
    """An encrypted private key. The row with the highest `seq` counts; rows are never changed or deleted.

    But for one thing: of a key that is destroyed, what opens it is emptied.

    Of a key in Vault only the wrapped DEK is here, and the ciphertext there: neither is of use without the other.
    """

    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="material")
    seq = models.PositiveIntegerField(default=1)
    kek = models.ForeignKey(Kek, on_delete=models.PROTECT)
    wrapped_dek = models.BinaryField()
    dek_nonce = models.BinaryField(max_length=12)
    nonce = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "key material"
        constraints = [
            models.UniqueConstraint(fields=["key", "seq"], name="keyguard_keymaterial_key_seq_unique")
        ]

    def __str__(self) -> str:
        return f"{self.key_id} #{self.seq}"


class WrappingKey(models.Model):
    """An RSA key pair for one import: its private half is here only under a KEK, for an hour, and is emptied by its use."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    public_key = models.TextField()  # PEM
    kek = models.ForeignKey(Kek, on_delete=models.PROTECT, related_name="+")
    wrapped_dek = models.BinaryField()
    dek_nonce = models.BinaryField(max_length=12)
    nonce = models.BinaryField(max_length=12)
    ciphertext = models.BinaryField()
    actor = models.CharField(max_length=150)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "key pair of an import"
        verbose_name_plural = "key pairs of imports"

    def __str__(self) -> str:
        return f"{self.id} of {self.actor}"


class HsmToken(models.Model):
    """A token that refused the PIN: nobody tries again until a person says so, for some wrong PINs lock a token."""

    label = models.CharField(max_length=32)
    pin_refused_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "HSM token"
        constraints = [models.UniqueConstraint(fields=["label"], name="keyguard_hsmtoken_label_unique")]

    def __str__(self) -> str:
        return self.label


class SigningRecord(models.Model):
    """What a key was asked to sign, and the answer, so that the same question gets the same answer."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    idempotency_key = models.CharField(max_length=255)
    key = models.ForeignKey(Key, on_delete=models.PROTECT, db_index=False, related_name="records")
    kind = models.CharField(max_length=12, choices=RecordKind)
    state = models.CharField(max_length=8, choices=RecordState)
    payload_hash = models.CharField(max_length=66, blank=True)  # empty: refused before there was a payload
    digest = models.CharField(max_length=66, blank=True)
    chain_id = models.BigIntegerField(null=True)
    # A transaction's `to` (empty: a contract was created), typed data's verifying contract, an authorisation's delegate.
    to = models.CharField(max_length=42, blank=True)
    value = Uint256Field(null=True)
    nonce = Uint256Field(null=True)
    signature = models.BinaryField(null=True)
    raw = models.BinaryField(default=b"")  # of a transaction alone, as is the hash
    hash = models.CharField(max_length=66, blank=True)
    subject = models.CharField(max_length=255, blank=True)  # what it is for
    caller = models.CharField(max_length=150, blank=True)
    policy = models.ForeignKey(
        "keyguard.Policy", on_delete=models.PROTECT, db_index=False, null=True, related_name="+"
    )
    facts = models.JSONField(null=True)  # what a policy knows of it, where no raw transaction says so
    # The entries of the key's chain that speak of it: `keyguard.audit`.
    intent_seq = models.BigIntegerField(null=True)  # empty: refused before anything was intended
    result_seq = models.BigIntegerField(null=True)
    error = models.CharField(max_length=64, blank=True)  # an error's code
    why = models.CharField(max_length=300, blank=True)  # the rule that refused it
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    signed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["key", "intent_seq"], name="keyguard_record_chain"),
            # What was begun and has no answer yet is little, whatever the table holds.
            models.Index(
                fields=["created_at"], condition=Q(state="INTENT"), name="keyguard_record_unanswered"
            ),
        ]
        constraints = [
            # A refusal doesn't use up its idempotency key: no signature was made under it.
            models.UniqueConstraint(
                fields=["idempotency_key"],
                condition=~Q(state="REFUSED"),
                name="keyguard_signingrecord_idempotency_key_unique",
            ),
            models.CheckConstraint(
                condition=Q(state="SIGNED", signature__isnull=False, signed_at__isnull=False, error="")
                | Q(state="INTENT", signature__isnull=True, error="")
                | Q(state="REFUSED", signature__isnull=True) & ~Q(error=""),
                name="keyguard_signingrecord_state_fits",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.idempotency_key} {self.state}"


class HandOver(models.Model):
    """A call that a custody was asked to execute with its own nonce and fee, and how it stands as the custody says.

    Committed before the custody is asked, so that a lost answer is looked up and nothing is asked for twice.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    external_id = models.CharField(max_length=64)
    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="hand_overs")
    state = models.CharField(max_length=20, choices=HandOverState, default=HandOverState.INTENT)
    payload_hash = models.CharField(max_length=66, blank=True)  # empty: refused before there was a payload
    chain_id = models.BigIntegerField(null=True)
    to = models.CharField(max_length=42, blank=True)
    value = Uint256Field(null=True)
    hash = models.CharField(max_length=66, blank=True, db_index=True)  # of what was sent last
    reason = models.CharField(max_length=500, blank=True)  # in the custody's words
    error = models.CharField(max_length=64, blank=True)  # the code, when it was refused here
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    asked_at = models.DateTimeField(null=True)
    answered_at = models.DateTimeField(null=True)  # when the custody last said something new
    facts = models.JSONField(null=True)  # what a policy knows of it; empty: the floor refused it

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "hand-over to a custody"
        verbose_name_plural = "hand-overs to custodies"
        constraints = [
            # Without it two workers could each believe to be the first who asks.
            models.UniqueConstraint(fields=["external_id"], name="keyguard_handover_external_id_unique"),
            models.CheckConstraint(
                condition=Q(state__in=HandOverState.values), name="keyguard_handover_state_valid"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.external_id} {self.state}"


class Sealing(models.Model):
    """A time in which nothing is signed: by no key, or by none of a backend. It ends when people say so."""

    backend = models.CharField(max_length=20, blank=True)  # empty: all of them
    code = models.CharField(max_length=64, blank=True)  # an error's, when keyguard sealed itself
    reason = models.CharField(max_length=500)
    actor = models.CharField(max_length=150, blank=True)  # empty: keyguard itself
    at = models.DateTimeField(db_default=Now())
    lifted_at = models.DateTimeField(null=True)
    lifted_by = models.CharField(max_length=150, blank=True)
    lifted_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-at"]
        verbose_name = "seal on keys"
        verbose_name_plural = "seals on keys"
        constraints = [
            models.UniqueConstraint(
                fields=["backend"], condition=Q(lifted_at=None), name="keyguard_sealing_open_unique"
            )
        ]

    def __str__(self) -> str:
        whose = f"keys of {self.backend} are" if self.backend else "all keys are"
        return f"{whose} sealed by {self.actor or 'keyguard itself'} ({self.code or self.reason})"


class AllowedDelegate(models.Model):
    """A contract that any account here may be handed to on this chain (EIP-7702). What is not listed is refused."""

    chain_id = models.BigIntegerField(validators=[MinValueValidator(1)])
    address = models.CharField(max_length=42)
    note = models.CharField(max_length=200, help_text="which contract this is, and who has examined its code")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["chain_id", "address"]
        constraints = [
            models.UniqueConstraint(
                fields=["chain_id", "address"], name="keyguard_alloweddelegate_chain_address_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.address} on {self.chain_id}"

    def clean(self) -> None:
        try:
            self.address = checked_address(self.address, "address")
        except FloorError as error:
            raise ValidationError({"address": str(error)}) from None


from keyguard.audit.models import AuditChain, AuditEntry, AuditHead  # noqa: E402, F401 - Django looks for them here
from keyguard.policies.models import (  # noqa: E402 - Django looks for them here
    GuardedGroup,  # noqa: F401
    MembershipAct,  # noqa: F401
    Policy,  # noqa: F401
    Purse,  # noqa: F401
    Question,  # noqa: F401
    Spending,  # noqa: F401
    Vote,  # noqa: F401
)
