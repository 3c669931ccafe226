"""What is read of contracts' logs: how far, what was found, and the holders that follow from it.

Upheld here: a log that stands on the chain is kept, and was handed over, once per contract; it is never deleted, so that
it can always be taken back (triggers, see migration 0004); nobody holds less than nothing.
"""

from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from signer.fields import WeiField
from signer.models.chains import Chain
from signer.states import WatchedState
from workflows import Leased, uuid7

FIRST_RANGE_BLOCKS = 1000


class EventIndex(Leased):
    """How far the logs of a chain are read. The lease is its reader's: one process at a time."""

    chain = models.OneToOneField(
        Chain, on_delete=models.PROTECT, primary_key=True, related_name="event_index"
    )
    # The block up to which every contract has been read that doesn't come after on its own; NULL: none yet.
    front_number = models.BigIntegerField(null=True, blank=True)
    front_hash = models.CharField(max_length=66, default="", blank=True)
    head_number = models.BigIntegerField(null=True, blank=True)  # of the chain, when it was last looked at
    head_seen_at = models.DateTimeField(null=True, blank=True)
    final_number = models.BigIntegerField(
        null=True, blank=True
    )  # of the chain: what is above may be replaced
    # How many blocks a node is asked for at once; falls when that is too many for it.
    range_blocks = models.PositiveIntegerField(default=FIRST_RANGE_BLOCKS)
    look_at = models.DateTimeField(null=True, blank=True)  # when to look for new blocks; NULL: at once
    failing_since = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)

    class Meta:
        verbose_name_plural = "event indexes"

    def __str__(self) -> str:
        return f"index of chain {self.pk}"

    @property
    def final_front(self) -> int | None:
        """The highest block that is read and won't be replaced any more."""
        return lowest(self.front_number, self.final_number)

    @property
    def lag(self) -> int | None:
        """How many blocks the front has still to read."""
        return behind(self.head_number, self.front_number)


def lowest(number: int | None, limit: int | None) -> int | None:
    """Return the lower of two blocks; none, where one of them isn't known."""
    return None if number is None or limit is None else min(number, limit)


def behind(head: int | None, number: int | None) -> int | None:
    """Return how many blocks one is below the other; none, where one of them isn't known."""
    return None if head is None or number is None else max(0, head - number)


class IndexedBlock(models.Model):
    """A block that was read, by which a fork is recognised. Those that aren't final yet are all here."""

    index = models.ForeignKey(EventIndex, on_delete=models.CASCADE, related_name="blocks")
    number = models.BigIntegerField()
    hash = models.CharField(max_length=66)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["index", "number"], name="signer_indexedblock_number_unique"),
        )

    def __str__(self) -> str:
        return f"{self.number} {self.hash}"


class WatchedContract(models.Model):
    """A contract whose logs are handed to a handler, from a block on."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    index = models.ForeignKey(EventIndex, on_delete=models.PROTECT, related_name="contracts")
    address = models.CharField(max_length=42)
    handler = models.CharField(max_length=100)
    label = models.CharField(max_length=200, default="", blank=True)
    from_block = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=WatchedState, default=WatchedState.ACTIVE)
    # The block up to which it has been read on its own; NULL: it is read with the others, and is where the front is.
    own_number = models.BigIntegerField(null=True, blank=True)
    # Logs above `own_number` have been handed over and must be taken back before anything is read.
    rewinding = models.BooleanField(default=False)
    read_at = models.DateTimeField(null=True, blank=True)  # on its own: whoever waits longest is read next
    attempts = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    last_error = models.TextField(default="", blank=True)
    created_at = models.DateTimeField(db_default=Now())

    if TYPE_CHECKING:
        index_id: int

    class Meta:
        ordering = ("-created_at",)
        constraints = (
            # Registering twice is registering once.
            models.UniqueConstraint(
                fields=["index", "address", "handler"], name="signer_watchedcontract_unique"
            ),
            # Whoever is not read with the others must say where it is.
            models.CheckConstraint(
                name="signer_watchedcontract_apart_has_number",
                condition=Q(state=WatchedState.ACTIVE, rewinding=False) | Q(own_number__isnull=False),
            ),
        )

    def __str__(self) -> str:
        return f"{self.label or self.address} on chain {self.index_id}, {self.handler}"

    @property
    def number(self) -> int | None:
        """The block up to which it has been read."""
        return self.index.front_number if self.own_number is None else self.own_number

    @property
    def final_number(self) -> int | None:
        """The highest block that it has been read to and that won't be replaced any more."""
        return lowest(self.number, self.index.final_number)

    @property
    def lag(self) -> int | None:
        """How many blocks are still to be read."""
        return behind(self.index.head_number, self.number)


class EventLog(models.Model):
    """A log as the chain had it, and that its contract's handler was given. Removed when the chain took it back."""

    contract = models.ForeignKey(WatchedContract, on_delete=models.PROTECT, related_name="logs")
    block_number = models.BigIntegerField()
    block_hash = models.CharField(max_length=66)
    log_index = models.PositiveIntegerField()  # in its block
    transaction_hash = models.CharField(max_length=66)
    topics = models.JSONField()
    data = models.TextField(default="0x")
    seen_at = models.DateTimeField(db_default=Now())
    removed_at = models.DateTimeField(null=True, blank=True)

    if TYPE_CHECKING:
        contract_id: object

    class Meta:
        constraints = (
            # Handed over once: a second worker, or the same one after a crash, cannot commit it again. Its index also
            # finds what a fork takes back of a contract, newest first, without a look at other chains.
            models.UniqueConstraint(
                fields=["contract", "block_number", "log_index"],
                name="signer_eventlog_live_unique",
                condition=Q(removed_at__isnull=True),
            ),
        )
        indexes = (models.Index(fields=["transaction_hash"], name="signer_eventlog_transaction"),)

    def __str__(self) -> str:
        return f"block {self.block_number}, log {self.log_index}"


class Holding(models.Model):
    """What somebody holds of a token, as its Transfer events add up. Written by the handler `erc20.holders` only."""

    chain = models.ForeignKey(Chain, on_delete=models.PROTECT, related_name="+")
    token = models.CharField(max_length=42)
    holder = models.CharField(max_length=42)
    balance_wei = WeiField(default=0)  # in the token's base units
    updated_block = (
        models.BigIntegerField()
    )  # as of which it is known: of its last transfer, or below those taken back

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["chain", "token", "holder"], name="signer_holding_unique"),
            # Less than nothing means that a log was missed: that must stop, and not be written down.
            models.CheckConstraint(name="signer_holding_not_negative", condition=Q(balance_wei__gte=0)),
        )
        indexes = (models.Index(fields=["holder"], name="signer_holding_holder"),)

    def __str__(self) -> str:
        return f"{self.holder}: {self.balance_wei}"
