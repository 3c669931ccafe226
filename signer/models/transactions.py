"""Lanes, the transactions in them, and everything that was signed for each."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from keyguard.fields import Uint256Field
from signer.fees import GAS_PER_BLOB
from signer.fields import WeiField
from signer.models.chains import Chain
from signer.states import (
    FINAL,
    IN_FLIGHT,
    WAITING,
    AttemptState,
    Envelope,
    LaneState,
    Purpose,
    SubState,
    TransactionKind,
    TransactionState,
)
from workflows import Leased, uuid7


class Lane(Leased):
    """The nonces of one address on one chain, given out by one worker at a time, or by the custody of its key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain = models.ForeignKey(Chain, on_delete=models.PROTECT, related_name="lanes")
    address = models.CharField(max_length=42)
    # The custody of its key gives the nonces, offers the fees and sends; here it is only asked, followed and checked.
    in_custody = models.BooleanField(default=False)
    next_nonce = models.BigIntegerField(null=True, blank=True)  # unknown until the chain was asked once
    first_nonce = models.BigIntegerField(null=True, blank=True)  # all below were used before us, or by others
    state = models.CharField(max_length=10, choices=LaneState, default=LaneState.ACTIVE)
    state_reason = models.TextField(default="", blank=True)  # why it gives out no nonces
    # How many may be in flight now, between 1 and the chain's limit: less after a pool had no room, more again later.
    in_flight_cap = models.PositiveIntegerField(null=True, blank=True)
    looked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["chain", "address"], name="signer_lane_chain_address_unique"),
            models.CheckConstraint(
                name="signer_lane_that_stands_says_why",
                condition=Q(state=LaneState.ACTIVE) | ~Q(state_reason=""),
            ),
        )

    def __str__(self) -> str:
        return f"{self.address} on {self.chain_id}"


class Transaction(models.Model):
    """One intent, executed at most once. Its nonce, once given, is its own for ever."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    # Each index is written at every change of state: what a constraint or a partial index begins with has none beside.
    chain = models.ForeignKey(Chain, on_delete=models.PROTECT, related_name="transactions", db_index=False)
    lane = models.ForeignKey(Lane, on_delete=models.PROTECT, related_name="transactions", db_index=False)
    kind = models.CharField(max_length=12, choices=TransactionKind)
    state = models.CharField(max_length=20, choices=TransactionState, default=TransactionState.RECEIVED)
    sub_state = models.CharField(max_length=20, choices=SubState, default=SubState.NONE, blank=True)
    nonce = models.BigIntegerField(null=True, blank=True)
    to = models.CharField(max_length=42, null=True, blank=True)  # NULL creates a contract
    value = WeiField(default=0)
    data = models.TextField(default="0x")
    gas_limit = models.BigIntegerField(null=True, blank=True)
    envelope = models.CharField(max_length=12, choices=Envelope, default=Envelope.DYNAMIC_FEE)
    access_list = models.JSONField(null=True, blank=True)
    blob_count = models.PositiveSmallIntegerField(default=0)
    simulate = models.BooleanField(default=True)  # before it is given a nonce
    error_abi = models.JSONField(null=True, blank=True)  # the custom errors by which a revert is understood
    speed = models.CharField(max_length=10, default="standard")
    priority = models.SmallIntegerField(default=0)  # higher first; among equals in the order of submission
    valid_until = models.DateTimeField(null=True, blank=True)
    scope = models.CharField(max_length=100, default="", blank=True)
    idempotency_key = models.CharField(max_length=255)
    request_hash = models.CharField(max_length=64)
    correlation_id = models.CharField(max_length=100, default="", blank=True)
    label = models.CharField(max_length=200, default="", blank=True)
    error = models.JSONField(null=True, blank=True)
    # What a person asked for: {} to be raised now, or the fees to offer; NULL when there is nothing to do.
    speed_up = models.JSONField(null=True, blank=True)
    # What it becomes when a no-op at its nonce is mined instead of it, or its custody calls it off: FAILED, EXPIRED or
    # CANCELLED; blank: none of it is wanted.
    noop_outcome = models.CharField(max_length=20, choices=TransactionState, default="", blank=True)
    winner = models.ForeignKey(
        "Attempt", on_delete=models.PROTECT, null=True, blank=True, related_name="+", db_index=False
    )
    block_number = models.BigIntegerField(null=True, blank=True)
    block_hash = models.CharField(max_length=66, default="", blank=True)
    # Microseconds of the submitting process: the order in which nonces are given. Ids only sort by millisecond.
    created_at = models.DateTimeField(default=timezone.now)
    # Of the attempts together, for the sums over a lane: the most it can take from the balance and from a block.
    reserved_wei = WeiField(default=0)
    reserved_gas = models.BigIntegerField(default=0)
    # What any of its attempts may cost on the chain below, as quoted when it got its nonce or was handed over; 0: there
    # is no such chain; NULL: not quoted yet. Part of reserved_wei.
    l1_fee_wei = Uint256Field(null=True, blank=True)
    # Since when a node may have it: the instant at which its first bytes were committed, or handing it over was.
    broadcast_at = models.DateTimeField(null=True, blank=True)
    # The number of its next first attempt: above 0 when earlier ones became void.
    next_seq = models.PositiveIntegerField(default=0)
    # When its lane has to see to it again; NULL before anything of it can be on a chain.
    look_at = models.DateTimeField(null=True, blank=True)
    # How often in a row its custody had nothing new to say: the next look comes later.
    vain_looks = models.PositiveSmallIntegerField(default=0)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)  # ids are ordered by time
        constraints = (
            # Without it two workers could sign two payments with one nonce and lose one of them.
            models.UniqueConstraint(fields=["lane", "nonce"], name="signer_transaction_lane_nonce_unique"),
            # Decides which of two simultaneous submissions with one key is the first.
            models.UniqueConstraint(
                fields=["scope", "idempotency_key"], name="signer_transaction_scope_idempotency_key_unique"
            ),
            models.CheckConstraint(
                name="signer_transaction_waiting_has_no_nonce",
                condition=~Q(state__in=WAITING) | Q(nonce__isnull=True),
            ),
            models.CheckConstraint(
                name="signer_transaction_in_flight_has_nonce",
                condition=~Q(state__in=[*IN_FLIGHT, TransactionState.COMPLETED]) | Q(nonce__isnull=False),
            ),
            models.CheckConstraint(
                name="signer_transaction_mined_has_block",
                condition=~Q(state__in=[TransactionState.CONFIRMING, TransactionState.COMPLETED])
                | (Q(winner__isnull=False) & Q(block_number__isnull=False)),
            ),
            models.CheckConstraint(
                name="signer_transaction_final_has_instant",
                condition=~Q(
                    state__in=[TransactionState.COMPLETED, TransactionState.FAILED, TransactionState.EXPIRED]
                )
                | Q(settled_at__isnull=False),
            ),
        )
        indexes = (
            # What a drain takes next; settled transactions are not in it, so it stays as small as the queue.
            models.Index(
                fields=["lane", "-priority", "created_at", "id"],
                name="signer_transaction_waiting",
                condition=Q(state__in=WAITING),
            ),
            models.Index(
                fields=["lane", "nonce"],
                name="signer_transaction_in_flight",
                condition=Q(state__in=IN_FLIGHT),
            ),
            models.Index(
                fields=["lane", "look_at"],
                name="signer_transaction_due",
                condition=Q(state__in=[TransactionState.SIGNING, TransactionState.BROADCASTING]),
            ),
            models.Index(
                fields=["valid_until"],
                name="signer_transaction_expiring",
                condition=Q(state__in=WAITING, valid_until__isnull=False),
            ),
            models.Index(
                fields=["chain", "block_number"],
                name="signer_transaction_unsettled",
                condition=Q(state__in=IN_FLIGHT),
            ),
            # What a second look compares with the chain: the settled ones of its last blocks.
            models.Index(
                fields=["chain", "block_number"],
                name="signer_transaction_settled",
                condition=Q(state__in=FINAL, block_number__isnull=False),
            ),
            models.Index(
                fields=["correlation_id"],
                name="signer_transaction_correlation",
                condition=~Q(correlation_id=""),
            ),
        )

    def __str__(self) -> str:
        return str(self.id)

    def reservation_wei(self, attempt: "Attempt") -> int:
        """Return what to reserve once this attempt of it exists, too: any of them may be the one that is mined."""
        return max(int(self.reserved_wei), attempt.max_cost_wei + (self.l1_fee_wei or 0))


class Attempt(models.Model):
    """Signed bytes that may be, or may have been, sent. Committed before a node sees them.

    Or what a custody has sent by itself, committed once a node shows it: its bytes are the custody's and never here, so
    nothing of it can be sent again from here.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    transaction = models.ForeignKey(
        Transaction, on_delete=models.PROTECT, related_name="attempts", db_index=False
    )
    seq = models.PositiveIntegerField()
    purpose = models.CharField(max_length=10, choices=Purpose, default=Purpose.PAYLOAD)
    nonce = models.BigIntegerField()
    max_fee_per_gas_wei = WeiField()
    max_priority_fee_per_gas_wei = WeiField()
    max_fee_per_blob_gas_wei = WeiField(default=0)  # of a blob transaction alone
    blob_count = models.PositiveSmallIntegerField(
        default=0
    )  # a no-op in a blob transaction's place carries one, too
    gas_limit = models.BigIntegerField()
    value = WeiField()
    raw = models.BinaryField(default=b"")  # empty: the custody sent it and has the bytes
    hash = models.CharField(max_length=66)
    epoch = models.BigIntegerField()  # of the lane, when it was signed or seen
    state = models.CharField(max_length=10, choices=AttemptState, default=AttemptState.SIGNED)
    send_count = models.PositiveIntegerField(default=0)
    first_sent_at = models.DateTimeField(null=True, blank=True)
    last_sent_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=30, default="", blank=True)
    last_error_message = models.TextField(default="", blank=True)
    receipt = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ("transaction", "seq")
        constraints = (
            models.UniqueConstraint(fields=["hash"], name="signer_attempt_hash_unique"),
            # Two workers that replace the same transaction cannot both commit.
            models.UniqueConstraint(
                fields=["transaction", "seq"], name="signer_attempt_transaction_seq_unique"
            ),
        )

        indexes = (
            # What a node is not known to have: few, among all attempts ever made.
            models.Index(
                fields=["transaction"],
                name="signer_attempt_unsent",
                condition=Q(state=AttemptState.SIGNED),
            ),
        )

    def __str__(self) -> str:
        return self.hash

    @property
    def max_cost_wei(self) -> int:
        """The most this attempt can take from the balance, but for the fee of a chain below."""
        blob_cost = self.blob_count * GAS_PER_BLOB * int(self.max_fee_per_blob_gas_wei)
        return int(self.gas_limit) * int(self.max_fee_per_gas_wei) + blob_cost + int(self.value)
