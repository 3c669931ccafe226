"""Networks, the way to their nodes, and their recent headers."""

from urllib.parse import urlsplit

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from signer.fields import WeiField
from signer.states import FeeMarket, Finality, ForeignNonces, PauseKind
from workflows import Leased

# 500 gwei: far above any ordinary market, far below what empties an account.
DEFAULT_FEE_CEILING_WEI = 500_000_000_000


class Chain(Leased):
    """An EVM network. The lease is its receipt watcher's: one process at a time reads receipts of a chain."""

    chain_id = models.BigIntegerField(primary_key=True, validators=[MinValueValidator(1)])
    name = models.CharField(max_length=100)
    genesis_hash = models.CharField(max_length=66)
    fee_market = models.CharField(max_length=10, choices=FeeMarket, default=FeeMarket.EIP1559)
    confirmations = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])
    # Where the chain says itself which block is final, that decides and not the count of confirmations.
    finality = models.CharField(max_length=10, choices=Finality, default=Finality.DEPTH)
    block_time_ms = models.PositiveIntegerField(default=12_000, validators=[MinValueValidator(1)])
    # Per lane. A node guarantees 16 places to an address; one's own may be configured to take more, up to the second.
    max_in_flight = models.PositiveIntegerField(default=16, validators=[MinValueValidator(1)])
    max_in_flight_adaptive = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)]
    )
    max_fee_per_gas_wei = WeiField(default=DEFAULT_FEE_CEILING_WEI)
    # A fee above this share of the market's is taken for a mistake.
    ceiling_percent = models.PositiveIntegerField(default=500, validators=[MinValueValidator(113)])
    foreign_nonces = models.CharField(max_length=10, choices=ForeignNonces, default=ForeignNonces.BLOCK)
    # The contract that says what the data costs on the chain below (OP Stack: GasPriceOracle); blank: nothing.
    l1_fee_oracle = models.CharField(max_length=42, default="", blank=True)
    head_number = models.BigIntegerField(null=True, blank=True)
    head_seen_at = models.DateTimeField(null=True, blank=True)
    finalized_number = models.BigIntegerField(null=True, blank=True)
    rechecked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.chain_id})"


class Endpoint(models.Model):
    """A node of a chain, and what all processes know of it. The URL holds the provider's API key: only its host is shown.

    Written when its state changes, and by the chain's watcher every now and then; never for a single call.
    """

    chain = models.ForeignKey(Chain, on_delete=models.CASCADE, related_name="endpoints")
    url = models.TextField()
    # Announces new blocks over WebSocket; blank: the watcher looks by itself.
    heads_url = models.TextField(default="", blank=True)
    # Reads go to the lowest position that can be used; those at the same one share them by their weights.
    position = models.PositiveSmallIntegerField(default=0)
    weight = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    # How many calls it takes in one request, as far as it has complained; NULL: as many as anybody.
    batch_size = models.PositiveSmallIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])

    # Not to be asked until then; whoever comes after it and is first asks once, and that decides.
    paused_until = models.DateTimeField(null=True, blank=True)
    pause_kind = models.CharField(max_length=20, choices=PauseKind, default=PauseKind.NONE, blank=True)
    pause_reason = models.CharField(max_length=200, default="", blank=True)
    # Since when it has not been usable, over all pauses. NULL: it is.
    unusable_since = models.DateTimeField(null=True, blank=True)
    # It knows less of the chain than others: not asked while a better one exists.
    is_behind = models.BooleanField(default=False)
    head_number = models.BigIntegerField(null=True, blank=True)
    head_seen_at = models.DateTimeField(null=True, blank=True)
    latency_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ("position", "id")
        constraints = (
            models.UniqueConstraint(fields=["chain", "url"], name="signer_endpoint_chain_url_unique"),
        )

    def __str__(self) -> str:
        return self.host

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "?"


class Block(models.Model):
    """A header as a node reported it. Canonical rows of neighbouring numbers are linked by parent hash."""

    chain = models.ForeignKey(Chain, on_delete=models.CASCADE, related_name="blocks")
    number = models.BigIntegerField()
    hash = models.CharField(max_length=66)
    parent_hash = models.CharField(max_length=66)
    canonical = models.BooleanField(default=True)
    seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["chain", "hash"], name="signer_block_chain_hash_unique"),
            # One truth at a time: a fork's block must be put aside before another takes its number.
            models.UniqueConstraint(
                fields=["chain", "number"],
                name="signer_block_chain_number_unique",
                condition=Q(canonical=True),
            ),
        )

    def __str__(self) -> str:
        return f"{self.number} {self.hash}"
