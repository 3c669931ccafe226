"""What the workflows made on the chains, for people and queries. The chain itself stays the truth about holdings.

Rows are written by transactional steps only, so each commits together with the checkpoint of the step that wrote it.
"""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from workflows.ids import uuid7


class Platform(models.Model):
    """The factories, registries and modules of one chain, and the keys that own them. Made once by a bootstrap."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain_id = models.BigIntegerField()
    run_id = models.UUIDField(editable=False)
    deployer_key = models.CharField(max_length=100)  # alias: owns the factories and tokens, is their agent
    claim_issuer_key = models.CharField(max_length=100)  # alias: manages the claim issuer's identity
    claim_signer_key = models.CharField(max_length=100)  # alias: signs claims, sends nothing
    claim_topic = models.BigIntegerField(default=1)
    contracts = models.JSONField()  # name -> address, see platforms.Contracts
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            # Two platforms on a chain would split the investors between two registries.
            models.UniqueConstraint(fields=["chain_id"], name="assets_platform_chain_unique"),
        )

    def __str__(self) -> str:
        return f"chain {self.chain_id}"


class Investor(models.Model):
    """A wallet that was registered with its identity and country."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain_id = models.BigIntegerField()
    wallet = models.CharField(max_length=42)
    identity = models.CharField(max_length=42)
    country = models.PositiveSmallIntegerField()  # ISO 3166-1 numeric
    run_id = models.UUIDField(editable=False)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=["chain_id", "wallet"], name="assets_investor_chain_wallet_unique"
            ),
        )

    def __str__(self) -> str:
        return self.wallet


class AssetState(models.TextChoices):
    """DEPLOYED -> ISSUED when everybody was told; DEPLOYED -> STOPPED when the issuance was taken back."""

    DEPLOYED = "DEPLOYED", "deployed"
    ISSUED = "ISSUED", "issued"
    STOPPED = "STOPPED", "stopped"


class Asset(models.Model):
    """A token that an issuance deployed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    chain_id = models.BigIntegerField()
    symbol = models.CharField(max_length=16)
    name = models.CharField(max_length=64)
    decimals = models.PositiveSmallIntegerField()
    token = models.CharField(max_length=42)
    identity_registry = models.CharField(max_length=42)
    compliance = models.CharField(max_length=42)
    # Decimal digits, in base units: SQLite would round a number above 2^53.
    supply = models.CharField(max_length=78, default="0")
    state = models.CharField(max_length=10, choices=AssetState, default=AssetState.DEPLOYED)
    run_id = models.UUIDField(editable=False)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["chain_id", "token"], name="assets_asset_chain_token_unique"),
            # A stopped issuance gives its symbol back, so that it can be issued anew.
            models.UniqueConstraint(
                fields=["chain_id", "symbol"],
                condition=~Q(state="STOPPED"),
                name="assets_asset_chain_symbol_unique",
            ),
        )
        indexes = (models.Index(fields=["run_id"], name="assets_asset_run"),)

    def __str__(self) -> str:
        return self.symbol
