"""The assets in the admin: to look at. What they say is changed by workflows only."""

from urllib.parse import urlencode

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import display

from dalp.assets.holders import count_holders
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
    readonly_fields = ("shown_holders",)

    @display(description="Holders")
    def shown_holders(self, asset: Asset) -> str:
        """Return how many hold the token, as the event index has it, with the way to them."""
        found = count_holders(asset)
        if found is None:
            return "not indexed"
        count, number = found
        return format_html(
            '<a class="text-primary-600 underline" href="{}?{}">{}</a>, as of block {}',
            reverse("admin:signer_holding_changelist"),
            urlencode({"chain": asset.chain_id, "token": asset.token}),
            count,
            "-" if number is None else number,
        )
