"""Chains, their entries, and heads. Entries and heads are never changed or deleted (triggers in the migrations)."""

from django.db import models
from django.db.models import Q

GENERAL = "keyguard"


class AuditChain(models.Model):
    """How far a chain has come. Whoever appends to it holds this row, or finds that somebody else has moved it."""

    name = models.CharField(max_length=36)  # the key's id, or GENERAL
    key = models.OneToOneField("keyguard.Key", on_delete=models.PROTECT, null=True, related_name="chain")
    seq = models.BigIntegerField(default=0)  # of its last entry
    mac = models.BinaryField(default=b"")  # of its last entry
    headed_seq = models.BigIntegerField(default=0)  # up to which a head covers it

    class Meta:
        verbose_name = "chain of the audit trail"
        verbose_name_plural = "chains of the audit trail"
        constraints = [
            models.UniqueConstraint(fields=["name"], name="keyguard_auditchain_name_unique"),
            models.CheckConstraint(
                condition=Q(headed_seq__lte=models.F("seq")), name="keyguard_auditchain_headed_is_there"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} #{self.seq}"


class AuditEntry(models.Model):
    """Something happened. The body says what, with a digest of the rows that say more."""

    chain = models.ForeignKey(AuditChain, on_delete=models.PROTECT, db_index=False, related_name="entries")
    seq = models.BigIntegerField()
    at = models.DateTimeField()  # under the code, so of the process that made it
    event = models.CharField(max_length=20)
    body = models.TextField()  # canonical JSON
    mac = models.BinaryField(max_length=32)
    mac_key = models.CharField(max_length=8)  # names the key of the code

    class Meta:
        ordering = ["-id"]
        verbose_name = "entry of the audit trail"
        verbose_name_plural = "entries of the audit trail"
        constraints = [
            # Two that append at once cannot both have the same place, whatever they believe.
            models.UniqueConstraint(fields=["chain", "seq"], name="keyguard_auditentry_chain_seq_unique")
        ]

    def __str__(self) -> str:
        return f"{self.event} #{self.seq}"


class AuditHead(models.Model):
    """How far the chains had come that moved since the head before it."""

    number = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    heads = models.TextField()  # canonical JSON: seq and code of the last entry, by chain
    hash = models.CharField(max_length=66)  # covers the head before it
    signer = models.CharField(max_length=42, blank=True)
    signature = models.BinaryField(
        default=b""
    )  # EIP-191, of the sentence that `keyguard.audit.heads` makes of it

    class Meta:
        ordering = ["-number"]
        verbose_name = "head of the audit trail"
        verbose_name_plural = "heads of the audit trail"

    def __str__(self) -> str:
        return f"head {self.number}"
