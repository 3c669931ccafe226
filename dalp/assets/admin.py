"""The assets in the admin: to look at. What they say is changed by workflows only."""

from django.contrib import admin
from unfold.admin import ModelAdmin

from dalp.assets.models import Asset, Investor, Platform
from workflows.cells import ReadOnly


@admin.register(Platform)
class PlatformAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    list_display = ("chain_id", "deployer_key", "claim_issuer_key", "claim_signer_key", "created_at")
    search_fields = ("chain_id", "deployer_key", "claim_issuer_key", "claim_signer_key", "run_id")


@admin.register(Investor)
class InvestorAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    list_display = ("wallet", "identity", "country", "chain_id", "updated_at")
    list_filter = ("chain_id", "country")
    search_fields = ("wallet", "identity", "run_id")


@admin.register(Asset)
class AssetAdmin(ReadOnly, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    list_display = ("symbol", "name", "state", "supply", "token", "chain_id", "updated_at")
    list_filter = ("state", "chain_id")
    search_fields = ("symbol", "name", "token", "identity_registry", "compliance", "run_id")
