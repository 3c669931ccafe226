"""The assets in the admin: to look at. What they say is changed by workflows only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from dalp.assets.models import Asset, Investor, Platform


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """A page on which nothing can be added, changed or deleted."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Platform)
class PlatformAdmin(ReadOnlyAdmin):
    list_display = ("chain_id", "deployer_key", "claim_issuer_key", "claim_signer_key", "created_at")
    search_fields = ("chain_id", "deployer_key", "claim_issuer_key", "claim_signer_key", "run_id")


@admin.register(Investor)
class InvestorAdmin(ReadOnlyAdmin):
    list_display = ("wallet", "identity", "country", "chain_id", "updated_at")
    list_filter = ("chain_id", "country")
    search_fields = ("wallet", "identity", "run_id")


@admin.register(Asset)
class AssetAdmin(ReadOnlyAdmin):
    list_display = ("symbol", "name", "state", "supply", "token", "chain_id", "updated_at")
    list_filter = ("state", "chain_id")
    search_fields = ("symbol", "name", "token", "identity_registry", "compliance", "run_id")
